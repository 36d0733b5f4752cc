//! `adit run`.

use std::path::PathBuf;

use clap::Args;

/// The arguments of `adit run`.
#[derive(Debug, Clone, Args)]
pub struct RunOptions {
    /// The configuration, in YAML
    #[arg(short, long, env = "ADIT_CONFIG", default_value = "/etc/adit/config.yaml")]
    pub config: PathBuf,
}
