//! OpenSSH: a command on a terminal that answers to what is typed, its exit status, and `scp` both
//! ways.

use std::fs;
use std::process::{Command, Stdio};

use super::{Lane, noise, output, private, same_as_without_adit, sha256};

const PORT: u16 = 2222;

#[test]
fn openssh_runs_commands_on_a_terminal_and_copies_files_whole() {
    same_as_without_adit("openssh", &["sshd", "ssh", "scp", "ssh-keygen"], PORT, work);
}

fn work(lane: &Lane<'_>) -> String {
    for key in ["host", "client"] {
        let path = lane.path(key);
        let mut keygen = Command::new("ssh-keygen");
        output(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path));
    }
    let authorized = lane.path("client.pub").display().to_string();
    private(&lane.path("client.pub"));
    // Debian's sshd wants this directory for its unprivileged child.
    fs::create_dir_all("/run/sshd").unwrap();
    let server = super::server_program("sshd");
    let mut daemon = lane.server.command(&server);
    daemon.args(["-D", "-e", "-f", "/dev/null", "-p"]).arg(PORT.to_string()).arg("-h");
    daemon.arg(lane.path("host")).args(["-o", "StrictModes=no", "-o", "PidFile=none"]);
    daemon.args(["-o", &format!("AuthorizedKeysFile={authorized}"), "-o", "PermitRootLogin=yes"]);
    daemon.args(["-o", "Subsystem=sftp internal-sftp"]);
    let _server = lane.start(PORT, &mut daemon);

    let typed = lane.write("typed", "all of these words\nexit\n");
    let mut terminal = lane.client.command("timeout");
    terminal.args(["-k", "1", super::LIMIT, "ssh", "-tt", "-p"]).arg(PORT.to_string());
    terminal.args(options(lane)).arg(format!("root@{}", lane.address()));
    terminal.arg("stty -echo; tty | cut -c 1-8; read words; echo \"heard $words\"; exit 7");
    let spoken = terminal.stdin(Stdio::from(fs::File::open(typed).unwrap())).output().unwrap();
    let said = String::from_utf8_lossy(&spoken.stdout).into_owned();
    assert_eq!(spoken.status.code(), Some(7), "{}", String::from_utf8_lossy(&spoken.stderr));
    assert!(said.contains("heard all of these words"), "{said}");

    let sum = copy_there_and_back(lane);
    format!("{said}\n{sum}")
}

fn copy_there_and_back(lane: &Lane<'_>) -> String {
    let original = lane.write("original", noise(16 << 20));
    let there = lane.path("there").display().to_string();
    let remote = format!("root@{}:{there}", lane.address());
    let port = PORT.to_string();
    let scp = |from: &str, to: &str| {
        let mut words: Vec<String> = ["-q", "-P", &port].map(str::to_owned).into();
        words.extend(options(lane));
        words.extend([from.to_owned(), to.to_owned()]);
        lane.run("scp", &words);
    };
    scp(&original.display().to_string(), &remote);
    scp(&remote, &lane.path("back").display().to_string());
    let sums = ["original", "there", "back"].map(|name| sha256(&lane.path(name)));
    assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    sums[0].clone()
}

fn options(lane: &Lane<'_>) -> Vec<String> {
    let key = lane.path("client").display().to_string();
    let known = format!("UserKnownHostsFile={}", lane.path("known").display());
    let words = ["-F", "none", "-i", &key, "-o", &known, "-o", "StrictHostKeyChecking=accept-new"];
    let mut words: Vec<String> = words.map(str::to_owned).into();
    words.extend(["-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"].map(str::to_owned));
    words
}
