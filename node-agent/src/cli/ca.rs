//! `adit ca`: the certificate authority for agents without Kubernetes.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use adit_core::identity::{ParseError, TrustDomain};
use clap::{Args, Subcommand};

use crate::ca::ServeOptions;
use crate::ca::init::{self, InitOptions};
use crate::cli::output::{self, Table};
use crate::cli::{Context, Failed, Local};
use crate::telemetry::LogSettings;

#[derive(Debug, Subcommand)]
pub(super) enum CaCommand {
    /// Make a root and an intermediate CA in a directory
    Init(InitArgs),
    /// Sign certificates for agents, over TLS
    Serve(ServeArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  adit ca init --dir /etc/adit/ca --trust-domain cluster.local")]
pub(super) struct InitArgs {
    /// The directory; one that holds a CA already is left as it is
    #[arg(short, long = "dir", value_name = "DIR")]
    directory: PathBuf,
    /// The trust domain whose identities the CA will sign
    #[arg(long, default_value = "cluster.local", value_parser = trust_domain)]
    trust_domain: TrustDomain,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  adit ca serve --dir /etc/adit/ca --listen 10.0.0.1:15012 --ip 10.0.0.1 \\
    --tokens /etc/adit/tokens.yaml --manifests /etc/adit/manifests")]
pub(super) struct ServeArgs {
    /// The directory that `adit ca init` made
    #[arg(short, long = "dir", value_name = "DIR")]
    directory: PathBuf,
    /// Where to listen
    #[arg(short, long, default_value = "[::]:15012")]
    listen: SocketAddr,
    /// The file of node tokens
    #[arg(long)]
    tokens: PathBuf,
    /// The directory of manifests that say which pods run on which node
    #[arg(long)]
    manifests: PathBuf,
    /// The trust domain whose identities are signed
    #[arg(long, default_value = "cluster.local", value_parser = trust_domain)]
    trust_domain: TrustDomain,
    /// The name of this service in its own certificate
    #[arg(long, default_value = "adit-ca")]
    name: String,
    /// More DNS names for it
    #[arg(long)]
    dns: Vec<String>,
    /// Addresses for it
    #[arg(long)]
    ip: Vec<IpAddr>,
    /// Which log lines are written: `level` and `target=level`, separated by commas
    #[arg(long, default_value = "info")]
    log_filter: String,
}

/// What `adit ca serve` was asked for.
#[derive(Debug, Clone)]
pub struct CaServeOptions {
    /// For the service itself.
    pub service: ServeOptions,
    /// The directory of manifests that say which pods run on which node.
    pub manifests: PathBuf,
    /// How to log.
    pub log: LogSettings,
}

pub(super) fn run(
    context: &mut Context<'_>,
    command: CaCommand,
    local: &Local,
) -> Result<(), Failed> {
    match command {
        CaCommand::Init(args) => make(context, args),
        CaCommand::Serve(args) => Ok((local.ca_serve)(args.options())?),
    }
}

fn make(context: &mut Context<'_>, args: InitArgs) -> Result<(), Failed> {
    let InitArgs { directory, trust_domain } = args;
    let made = init::run(&InitOptions { directory, trust_domain }).map_err(anyhow::Error::new)?;
    output::list(context, "files", &made, |_wide| {
        let mut table = Table::new(&["FILE", "PURPOSE"]);
        for file in &made {
            table.push(vec![file.path.display().to_string(), file.purpose.to_owned()]);
        }
        table
    })
}

impl ServeArgs {
    fn options(self) -> CaServeOptions {
        let Self {
            directory,
            listen,
            tokens,
            manifests,
            trust_domain,
            name,
            dns,
            ip,
            log_filter: filter,
        } = self;
        let service = ServeOptions { directory, listen, tokens, trust_domain, name, dns, ip };
        let log = LogSettings { filter, ..LogSettings::default() };
        CaServeOptions { service, manifests, log }
    }
}

fn trust_domain(text: &str) -> Result<TrustDomain, ParseError> {
    TrustDomain::parse(text)
}
