//! `adit cleanup`: for a node that adit leaves, or after an agent that cannot be started again.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use clap::Args;

use crate::cli::{Context, Failed, Local};

/// The arguments of `adit cleanup`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  adit cleanup                  after the agent was stopped for good")]
pub struct CleanupOptions {
    /// The agent's directory of pins on bpffs
    #[arg(long, default_value = "/sys/fs/bpf/adit")]
    pub pins: PathBuf,
    /// Clean up even though an agent answers; its pods fall back to plaintext under it
    #[arg(long)]
    pub force: bool,
}

pub(super) fn run(
    context: &mut Context<'_>,
    options: CleanupOptions,
    local: &Local,
) -> Result<(), Failed> {
    let socket = context.client.socket();
    if !options.force && UnixStream::connect(socket).is_ok() {
        let error = anyhow::anyhow!(
            "an agent answers at {}: stop it first, or say --force",
            socket.display()
        );
        return Err(error.into());
    }
    let removed = (local.cleanup)(options)?;
    if removed.is_empty() {
        writeln!(context.remarks, "Nothing was left to remove.")?;
    }
    for what in removed {
        writeln!(context.out, "removed {what}")?;
    }
    Ok(())
}
