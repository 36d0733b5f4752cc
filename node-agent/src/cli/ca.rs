//! `adit ca`: the certificate authority for agents without Kubernetes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::cli::{Failed, Local, span};

#[derive(Debug, Subcommand)]
pub(super) enum CaCommand {
    /// Make a root and an intermediate certificate in a directory
    Init(CaInitOptions),
    /// Sign certificates for agents, over TLS
    Serve(CaServeOptions),
}

/// The arguments of `adit ca init`.
#[derive(Debug, Clone, Args)]
pub struct CaInitOptions {
    /// The directory to make; its mode is 0700, and nothing in it is ever overwritten
    #[arg(short, long)]
    pub directory: PathBuf,
    /// The trust domain whose identities it will sign
    #[arg(long, default_value = "cluster.local")]
    pub trust_domain: String,
    /// How long the root certificate lives
    #[arg(long, default_value = "3650d", value_parser = span::parse)]
    pub root_lifetime: Duration,
    /// How long the intermediate certificate lives
    #[arg(long, default_value = "365d", value_parser = span::parse)]
    pub intermediate_lifetime: Duration,
}

/// The arguments of `adit ca serve`.
#[derive(Debug, Clone, Args)]
pub struct CaServeOptions {
    /// What `adit ca init` made
    #[arg(short, long)]
    pub directory: PathBuf,
    /// Where to listen
    #[arg(long, default_value = "[::]:15012")]
    pub address: SocketAddr,
    /// The trust domain whose identities are signed
    #[arg(long, default_value = "cluster.local")]
    pub trust_domain: String,
    /// The file of node tokens: a line each, `node token`
    #[arg(long)]
    pub tokens: PathBuf,
    /// The manifests that say which pods run on which node
    #[arg(long)]
    pub manifests: PathBuf,
    /// The names in the service's own certificate
    #[arg(long = "server-name", default_value = "adit-ca")]
    pub server_names: Vec<String>,
    /// The longest life of a certificate that is signed
    #[arg(long, default_value = "24h", value_parser = span::parse)]
    pub max_lifetime: Duration,
    /// Which log lines are written
    #[arg(long, default_value = "info")]
    pub log_filter: String,
}

pub(super) fn run(command: CaCommand, local: &Local) -> Result<(), Failed> {
    match command {
        CaCommand::Init(options) => (local.ca_init)(options)?,
        CaCommand::Serve(options) => (local.ca_serve)(options)?,
    }
    Ok(())
}
