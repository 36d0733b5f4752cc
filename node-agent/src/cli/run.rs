//! `adit run`.

use std::path::PathBuf;

use clap::Args;

/// The arguments of `adit run`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  adit run --config /etc/adit/config.yaml
  ADIT_LOG=debug adit run")]
pub struct RunOptions {
    /// The configuration, in YAML
    #[arg(short, long, env = "ADIT_CONFIG", default_value = "/etc/adit/config.yaml")]
    pub config: PathBuf,
}
