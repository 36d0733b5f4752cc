//! What a worker cannot do without. A panic in one flow ends that flow; a panic here would leave a
//! process that looks well and serves nobody, or tells its flows' ends falsely. It ends instead: its
//! supervisor starts it again, meanwhile no connection of a pod gets past it.

use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::process;

use futures_util::FutureExt as _;

/// Does the work, and ends the process should it panic.
pub(super) async fn essential(what: &str, work: impl Future<Output = ()>) {
    // Nothing looks at the state that the panic left behind.
    if AssertUnwindSafe(work).catch_unwind().await.is_ok() {
        return;
    }
    // Not through the log, whose thread may not come to write it. The panic itself stands above.
    let line = format!(
        "error: a data-plane thread panicked while it {what}: the agent ends, to be started again. \
         This is a bug in adit: please report it with the lines above\n"
    );
    let _stderr_is_gone: std::io::Result<()> = std::io::stderr().write_all(line.as_bytes());
    process::abort();
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    use super::*;

    #[tokio::test]
    async fn work_that_ends_is_left_alone() {
        essential("worked", async {}).await;
    }

    #[test]
    fn a_panic_ends_the_process_with_a_line_that_says_in_what() {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "worker::essential::tests::panics"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stderr);
        assert_eq!(child.status.signal(), Some(nix::libc::SIGABRT), "{said}");
        assert!(said.contains("panicked while it worked: the agent ends"), "{said}");
        assert!(said.contains("by mistake"), "{said}");
    }

    #[tokio::test]
    #[ignore = "the child process of the test above"]
    async fn panics() {
        essential("worked", async { panic!("by mistake") }).await;
    }
}
