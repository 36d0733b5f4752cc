//! `adit cleanup`: for a node that adit leaves, or after an agent that cannot be started again.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use clap::Args;

use crate::cli::{Context, Failed, Local};

/// The arguments of `adit cleanup`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  adit cleanup                  after the agent was stopped for good
  adit cleanup --stay           the same, as the container of a DaemonSet, which must not end")]
pub struct CleanupOptions {
    /// The agent's directory of pins on bpffs
    #[arg(long, default_value = "/sys/fs/bpf/adit")]
    pub pins: PathBuf,
    /// The node's directory of CNI configurations, which lose the plugin
    #[arg(long, value_name = "DIRECTORY", default_value = "/etc/cni/net.d")]
    pub cni_config: PathBuf,
    /// The node's directory of CNI plugins
    #[arg(long, value_name = "DIRECTORY", default_value = "/opt/cni/bin")]
    pub cni_bin: PathBuf,
    /// What the plugin decided by while no agent answered
    #[arg(long, value_name = "FILE", default_value = "/var/lib/adit/cni.json")]
    pub cni_cache: PathBuf,
    /// Wait for SIGTERM when it is done
    #[arg(long)]
    pub stay: bool,
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
    let stay = options.stay;
    let removed = (local.cleanup)(options)?;
    if removed.is_empty() {
        writeln!(context.remarks, "Nothing was left to remove.")?;
    }
    for what in removed {
        writeln!(context.out, "removed {what}")?;
    }
    context.out.flush()?;
    if stay {
        wait_for_sigterm()?;
    }
    Ok(())
}

fn wait_for_sigterm() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::terminate())?.recv().await;
        Ok(())
    })
}
