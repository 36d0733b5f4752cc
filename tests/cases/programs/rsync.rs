//! rsync: a tree of many small files and some large ones, copied and then brought up to date.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Lane, noise, output, same_as_without_adit};

const PORT: u16 = 8730;

#[test]
fn rsync_copies_a_large_tree_and_brings_it_up_to_date() {
    same_as_without_adit("rsync", &["rsync"], PORT, work);
}

fn work(lane: &Lane<'_>) -> String {
    let (source, copy) = (lane.path("source"), lane.path("copy"));
    grow(&source);
    let configuration = format!(
        "use chroot = no\n[tree]\npath = {}\nread only = yes\nreverse lookup = no\n",
        source.display()
    );
    let file = lane.write("rsyncd.conf", configuration).display().to_string();
    let port = PORT.to_string();
    let options = ["--daemon", "--no-detach", "--port", &port, "--config", &file];
    let _server = lane.serve(PORT, "rsync", &options);
    let from = format!("rsync://{}:{PORT}/tree/", lane.address());
    let into = copy.display().to_string();
    let fetch = |more: &[&str]| {
        let words = [&["--archive", "--delete", "--stats", "--no-motd"], more, &[&from, &into]];
        stats(&lane.run("rsync", &words.concat()))
    };

    let first = fetch(&[]);
    assert_eq!(listing(&copy), listing(&source));
    fs::remove_dir_all(source.join("7")).unwrap();
    fs::write(source.join("large-1"), noise(5 << 20)).unwrap();
    fs::write(source.join("3/100"), "changed, and of another length\n").unwrap();
    let second = fetch(&[]);
    assert_eq!(listing(&copy), listing(&source));
    let third = fetch(&["--checksum"]);
    format!("{first}\n{second}\n{third}\n{}", listing(&copy))
}

/// 2,000 small files and 24 MiB in three large ones.
fn grow(source: &Path) {
    for directory in 0..20 {
        let path = source.join(directory.to_string());
        fs::create_dir_all(&path).unwrap();
        for file in 0..100 + directory {
            fs::write(path.join(file.to_string()), noise(file * 40)).unwrap();
        }
    }
    for (number, mebibytes) in [4, 8, 12].into_iter().enumerate() {
        fs::write(source.join(format!("large-{number}")), noise(mebibytes << 20)).unwrap();
    }
}

/// What was transferred, without what depends on the time.
fn stats(report: &str) -> String {
    let counted = |line: &&str| {
        line.starts_with("Number of") || line.starts_with("Total ") || line.starts_with("Literal")
    };
    let timed = |line: &&str| line.contains("sent:") || line.contains("received:");
    report.lines().filter(|line| counted(line) && !timed(line)).collect::<Vec<_>>().join("\n")
}

/// Every file with its SHA-256, by name.
fn listing(tree: &Path) -> String {
    let sums = "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum";
    output(Command::new("sh").args(["-c", sums]).current_dir(tree))
}
