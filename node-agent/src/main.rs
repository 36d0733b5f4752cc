//! The `adit` binary.

use std::process::ExitCode;

use adit::cli::{self, Local};

fn main() -> ExitCode {
    cli::main(&Local {
        run: |_| anyhow::bail!("not wired"),
        ca_init: |_| anyhow::bail!("not wired"),
        ca_serve: |_| anyhow::bail!("not wired"),
        probe: |_| anyhow::bail!("not wired"),
        cleanup: |_| anyhow::bail!("not wired"),
    })
}
