//! The `adit` binary: what it does itself, and the command line that chooses.

use std::process::ExitCode;

use adit::cli::{self, Local};

fn main() -> ExitCode {
    cli::main(&Local {
        run: |_| anyhow::bail!("this build has no node agent"),
        ca_serve: |_| anyhow::bail!("this build has no CA service"),
        probe: |_| anyhow::bail!("this build has no probes"),
        cleanup: |_| anyhow::bail!("this build has nothing to clean up"),
    })
}
