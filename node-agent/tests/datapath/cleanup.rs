//! `adit cleanup` removes what adit pinned, and nothing else whatever it is told.

use std::error::Error as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use adit::datapath::Settings;
use adit::datapath::cleanup::cleanup;
use adit::datapath::kernel::KernelDatapath;
use aya::maps::{HashMap, MapData};

use crate::space::{World, root};

/// A directory of the test's own that is on no bpffs.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("adit-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

async fn refusal(pins: &Path) -> String {
    let settings = Settings { pins: pins.to_owned(), ..Settings::default() };
    let error = cleanup(&settings, false).await.unwrap_err();
    let text = format!("{error}: {}", error.source().unwrap());
    assert!(text.contains("nothing was removed"), "{text}");
    text
}

fn pin_a_map(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    HashMap::<MapData, u32, u32>::create(1, 0).unwrap().pin(path).unwrap();
}

#[tokio::test]
async fn what_is_on_no_bpffs_is_not_touched() {
    if !root() {
        return;
    }
    let scratch = Scratch::new("plain");
    let precious = scratch.0.join("v1/pods/precious");
    fs::create_dir_all(precious.parent().unwrap()).unwrap();
    fs::write(&precious, "kept").unwrap();
    let link = scratch.0.join("link");
    symlink("/etc", &link).unwrap();

    for place in [&*scratch.0, Path::new("/"), Path::new("/etc"), &link, Path::new("/dev/null")] {
        let why = refusal(place).await;
        assert!(why.contains("no bpffs"), "{why}");
    }

    assert_eq!(fs::read_to_string(&precious).unwrap(), "kept");
    assert!(link.is_symlink() && Path::new("/etc/passwd").exists());
}

#[tokio::test]
async fn what_others_pinned_is_not_touched_however_it_is_named() {
    if !root() {
        return;
    }
    let world = World::new();
    drop(world.start(1));
    let others = world.settings.pins.with_file_name(format!("not-adit-{}", std::process::id()));
    let theirs = others.join("v1/theirs");
    pin_a_map(&theirs);
    let scratch = Scratch::new("links");
    let (to_root, to_others) = (scratch.0.join("root"), scratch.0.join("others"));
    symlink("/sys/fs/bpf", &to_root).unwrap();
    symlink(&others, &to_others).unwrap();

    for place in [
        Path::new("/sys/fs/bpf"),
        Path::new("/sys/fs/bpf/"),
        Path::new("/sys/fs/../fs/bpf/."),
        &to_root,
        &to_root.join(""),
        &others,
        &to_others.join(""),
    ] {
        let why = refusal(place).await;
        assert!(why.contains("is not adit's"), "{}: {why}", place.display());
    }
    // A directory of adit's with something of others' in it, and nothing of it goes.
    let intruder = world.settings.pins.join("intruder");
    pin_a_map(&intruder);
    refusal(&world.settings.pins).await;
    let error = KernelDatapath::start(&world.settings, 1).unwrap_err();
    assert!(error.source().unwrap().to_string().contains("intruder"), "{error:?}");

    let kept = [&theirs, &intruder, &world.v1().join("ENROLLED")].map(|pin| pin.exists());
    fs::remove_dir_all(&others).unwrap();
    assert_eq!(kept, [true; 3]);
}

#[tokio::test]
async fn a_directory_of_adits_is_removed_through_a_symlink_too() {
    if !root() {
        return;
    }
    let world = World::new();
    drop(world.start(1));
    let scratch = Scratch::new("own");
    let link = scratch.0.join("pins");
    symlink(&world.settings.pins, &link).unwrap();

    let settings = Settings { pins: link, ..Settings::default() };
    cleanup(&settings, false).await.unwrap();

    assert!(!world.settings.pins.exists());
}
