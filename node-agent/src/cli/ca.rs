//! `adit ca`: the certificate authority.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use adit_core::identity::{ParseError, SpiffeId, TrustDomain};
use adit_core::workload::ObjectName;
use anyhow::Context as _;
use clap::{Args, Subcommand};

use crate::ca;
use crate::ca::init::{self, InitOptions};
use crate::ca::{Backing, ServeOptions};
use crate::cli::ca_rotate::{self, RotateArgs};
use crate::cli::output::{self, Table};
use crate::cli::{Context, Failed, Local};
use crate::discovery::{Source, kubernetes, manifests};
use crate::telemetry::LogSettings;

#[derive(Debug, Subcommand)]
pub(super) enum CaCommand {
    /// Make a root and an intermediate CA in a directory
    Init(InitArgs),
    /// Sign certificates for agents, over TLS
    Serve(Box<ServeArgs>),
    /// Replace the root of a CA on Kubernetes, without a connection that fails
    Rotate(RotateArgs),
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
    --tokens /etc/adit/tokens.yaml --manifests /etc/adit/manifests
  adit ca serve --kubernetes")]
pub(super) struct ServeArgs {
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Where to listen
    #[arg(short, long, default_value = "[::]:15012")]
    listen: SocketAddr,
    /// The trust domain whose identities are signed
    #[arg(long, default_value = "cluster.local", value_parser = trust_domain)]
    trust_domain: TrustDomain,
    /// The name of this service in its own certificate
    #[arg(long, default_value = "adit-ca", value_parser = label)]
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

/// Without Kubernetes.
#[derive(Debug, Args)]
struct FileArgs {
    /// The directory that `adit ca init` made
    #[arg(short, long = "dir", value_name = "DIR", required_unless_present = "kubernetes")]
    directory: Option<PathBuf>,
    /// The file of node tokens
    #[arg(long, required_unless_present = "kubernetes")]
    tokens: Option<PathBuf>,
    /// The directory of manifests that say which pods run on which node
    #[arg(long, required_unless_present = "kubernetes")]
    manifests: Option<PathBuf>,
}

/// On Kubernetes.
#[derive(Debug, Args)]
struct ClusterArgs {
    /// Have callers reviewed by the API server, and keep the keys in a Secret
    #[arg(long, conflicts_with_all = ["directory", "tokens", "manifests"])]
    kubernetes: bool,
    /// The namespace of the Secret and the ConfigMap; by default the one this pod is in
    #[arg(long, requires = "kubernetes", value_parser = label)]
    namespace: Option<String>,
    /// The service account of the agents, as NAMESPACE/NAME; by default `adit` in that namespace
    #[arg(long, requires = "kubernetes", value_parser = account)]
    agent: Option<ObjectName>,
    /// The audience of their tokens
    #[arg(long, requires = "kubernetes", default_value = "adit-ca")]
    audience: String,
    /// The Secret with the keys, in the layout of Istio's cacerts or of cert-manager; made if absent
    #[arg(long, requires = "kubernetes", default_value = "adit-ca", value_parser = name)]
    secret: String,
    /// The ConfigMap that the roots are published in
    #[arg(long, requires = "kubernetes", default_value = "adit-ca-root", value_parser = name)]
    bundle: String,
    /// A kubeconfig, where this process is in no pod
    #[arg(long, requires = "kubernetes")]
    kubeconfig: Option<PathBuf>,
}

/// What `adit ca serve` was asked for.
#[derive(Debug, Clone)]
pub struct CaServeOptions {
    /// For the service itself.
    pub service: ServeOptions,
    /// What says which pods run on which node.
    pub source: Source,
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
        CaCommand::Serve(args) => Ok((local.ca_serve)(args.options()?)?),
        CaCommand::Rotate(args) => ca_rotate::run(context, args),
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
    fn options(self) -> Result<CaServeOptions, Failed> {
        let Self { files, cluster, listen, trust_domain, name, dns, ip, log_filter } = self;
        let log = LogSettings { filter: log_filter, ..LogSettings::default() };
        let mut names = vec![name.clone()];
        let (backing, source) = if cluster.kubernetes {
            let (options, source) = cluster.options()?;
            // As the cluster's DNS names a Service.
            let namespace = &options.namespace;
            names.extend(
                ["", ".svc", ".svc.cluster.local"].map(|end| format!("{name}.{namespace}{end}")),
            );
            (Backing::Kubernetes(options), source)
        } else {
            files.options()
        };
        names.extend(dns);
        let service = ServeOptions { listen, trust_domain, names, addresses: ip, backing };
        Ok(CaServeOptions { service, source, log })
    }
}

impl FileArgs {
    /// All three are there: clap requires them without `--kubernetes`.
    fn options(self) -> (Backing, Source) {
        let Self { directory, tokens, manifests: directory_of_manifests } = self;
        let settings =
            manifests::Settings { directory: directory_of_manifests.unwrap_or_default() };
        let (directory, tokens) = (directory.unwrap_or_default(), tokens.unwrap_or_default());
        (Backing::Files { directory, tokens }, Source::Manifests(settings))
    }
}

impl ClusterArgs {
    fn options(self) -> Result<(ca::kubernetes::Options, Source), Failed> {
        let Self { kubernetes: _, namespace, agent, audience, secret, bundle, kubeconfig } = self;
        let access = kubernetes::Access { kubeconfig };
        let namespace = match namespace {
            Some(namespace) => namespace,
            None => kubernetes::own_namespace()
                .context("this is no pod: give --namespace")
                .map_err(Failed::from)?,
        };
        let agent = agent.unwrap_or_else(|| ObjectName::new(&namespace, "adit"));
        let kinds = kubernetes::CA;
        let source = Source::Kubernetes(kubernetes::Settings { access: access.clone(), kinds });
        let options =
            ca::kubernetes::Options { access, namespace, agent, audience, secret, bundle };
        Ok((options, source))
    }
}

fn trust_domain(text: &str) -> Result<TrustDomain, ParseError> {
    TrustDomain::parse(text)
}

/// RFC 1123, as Kubernetes names namespaces and services.
pub(super) fn label(text: &str) -> Result<String, &'static str> {
    if text.contains('.') || text.len() > 63 {
        return Err("not of [a-z0-9-]{1,63}");
    }
    name(text)
}

/// RFC 1123, as Kubernetes names most objects.
pub(super) fn name(text: &str) -> Result<String, &'static str> {
    // An identity is made of the same characters.
    let domain = TrustDomain::parse("x").and_then(|domain| SpiffeId::try_new(domain, text, text));
    domain.map(|_named| text.to_owned()).map_err(|_not| "not a Kubernetes name, of [a-z0-9.-]")
}

fn account(text: &str) -> Result<ObjectName, &'static str> {
    let (namespace, account) = text.split_once('/').ok_or("not NAMESPACE/NAME")?;
    Ok(ObjectName::new(&label(namespace)?, &name(account)?))
}
