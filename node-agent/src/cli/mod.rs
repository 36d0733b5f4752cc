//! The command line: arguments, the client side of every subcommand, exit codes. What the process
//! itself becomes (the agent, the CA) or does to the node is handed in as [`Local`].

mod ca;
mod ca_rotate;
mod certs;
mod cleanup;
mod client;
mod cni;
mod doctor;
#[cfg(test)]
mod documented;
mod drain;
mod explain;
mod flows;
#[cfg(test)]
pub(crate) mod golden;
mod log_level;
mod output;
mod policies;
mod run;
mod services;
mod span;
mod status;
#[cfg(test)]
mod tests;
mod texts;
mod tunnels;
mod version;
mod workloads;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Args, Parser, Subcommand};

use crate::admin::DEFAULT_SOCKET;
use crate::cli::client::{Client, ClientError};
use crate::cli::output::Format;
use crate::cni::PLUGIN;

pub use ca::CaServeOptions;
pub use cleanup::CleanupOptions;
pub use doctor::{DoctorOptions, Finding};
pub use run::{CONFIG, RunOptions};

/// What is done in this process, not asked of a running agent. Composed by `main`.
#[derive(Debug, Clone, Copy)]
pub struct Local {
    /// `adit run`: returns when the agent has ended.
    pub run: fn(RunOptions) -> anyhow::Result<()>,
    /// `adit ca serve`: returns when the service has ended.
    pub ca_serve: fn(CaServeOptions) -> anyhow::Result<()>,
    /// `adit doctor`: probes the kernel.
    pub probe: fn(DoctorOptions) -> anyhow::Result<Vec<Finding>>,
    /// `adit cleanup`: says what it removed.
    pub cleanup: fn(CleanupOptions) -> anyhow::Result<Vec<String>>,
    /// Whether this process may do any of the above but `ca_serve`.
    pub is_root: fn() -> bool,
}

const AFTER_HELP: &str = "\
Exit codes:
  0    it worked
  1    it failed
  2    the arguments are wrong
  3    no agent could be reached
  4    the agent is not healthy (status), or the node lacks something it needs (doctor)
  5    the user may not: be root
  141  what reads the output has gone away

docs/cli.md lists the fields of -o json and -o yaml, which are stable, with their units.";

/// Zero-trust tunnels between the pods of a Kubernetes cluster.
#[derive(Debug, Parser)]
#[command(name = "adit", version, after_help = AFTER_HELP, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Global {
    /// The admin socket of the agent to ask
    #[arg(long, global = true, env = "ADIT_SOCKET", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// Leave the header line of tables out
    #[arg(long, global = true)]
    no_headers: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the node agent
    Run(RunOptions),
    /// Make a certificate authority, be one, or rotate its root
    #[command(subcommand)]
    Ca(ca::CaCommand),
    /// Show how the agent of this node is, and what to do where it is not well
    #[command(after_help = "\
Examples:
  adit status                          is all well? exits 4 if not
  adit status -o json | jq .problems   what is wrong, for a program")]
    Status,
    /// Show the pods that the agent knows
    Workloads(workloads::WorkloadsArgs),
    /// Show the services that the agent knows, with their endpoints
    Services(services::ServicesArgs),
    /// Show the policies, whom they are for and how often they decided
    Policies(policies::PoliciesArgs),
    /// Show what would become of a flow, and why
    Explain(explain::ExplainArgs),
    /// Show the certificates of this node's workloads
    #[command(after_help = "\
Examples:
  adit certs
  adit certs -o wide   with serial numbers and the dates of their lives")]
    Certs,
    /// Show the tunnels that are open
    #[command(after_help = "\
Examples:
  adit tunnels
  adit tunnels -o wide   with TLS version, cipher and worker")]
    Tunnels,
    /// Show flows: those that live and those that ended last
    Flows(flows::FlowsArgs),
    /// Show what this node's kernel supports, and what follows where it does not
    Doctor(DoctorOptions),
    /// Show or change which log lines the agent writes
    LogLevel(log_level::LogLevelArgs),
    /// Let open flows end, take no new ones, and end the rest at a deadline
    Drain(drain::DrainArgs),
    /// Remove everything that an agent left on this node
    Cleanup(CleanupOptions),
    /// The CNI plugin, for container runtimes: holds a new pod until it is enrolled
    #[command(after_help = "\
Examples:
  CNI_COMMAND=VERSION adit cni    what it speaks
  CNI_COMMAND=STATUS adit cni < /etc/cni/net.d/10-net.conflist

A container runtime starts it, as its name adit-cni or with this argument; the CNI specification says
with which variables. docs/kubernetes.md tells which pods it holds.")]
    Cni,
    /// Show the version of this command and of the agent
    Version,
    /// Print the completions of a shell
    Completions(texts::CompletionsArgs),
    /// Print the manual page, or write one for each command
    Man(texts::ManArgs),
}

/// How a command ended, other than by an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    Fine,
    Unhealthy,
    /// It said so itself, where it was asked.
    Refused,
}

/// Why a command did not do what it was to do.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Agent(#[from] ClientError),
    #[error("write the output")]
    Output(#[from] io::Error),
    #[error(transparent)]
    Local(#[from] anyhow::Error),
    #[error("adit {0} needs root")]
    NotRoot(&'static str),
}

/// What a command works with.
struct Context<'a> {
    client: Client,
    format: Format,
    headers: bool,
    now: SystemTime,
    out: &'a mut dyn Write,
    /// For remarks that are no part of the answer.
    remarks: &'a mut dyn Write,
}

/// Runs the command that the process's arguments name.
#[must_use]
pub fn main(local: &Local) -> ExitCode {
    // Not locked: the agent and the CA log to standard output from another thread.
    let (mut out, mut remarks) = (io::stdout(), io::stderr());
    if is_started_as_plugin() {
        return plugin(&mut out);
    }
    let cli = match Cli::try_parse_from(std::env::args_os()) {
        Ok(cli) => cli,
        Err(usage) => {
            // To standard output for --help, else to standard error.
            let _closed = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2));
        }
    };
    let ended = execute(cli, local, SystemTime::now(), &mut out, &mut remarks);
    let ended = ended.and_then(|exit| Ok(out.flush().map(|()| exit)?));
    ExitCode::from(conclude(ended, &mut remarks))
}

/// A container runtime knows the plugin by its file's name and gives no arguments.
fn is_started_as_plugin() -> bool {
    let name = std::env::args_os().next().map(PathBuf::from);
    name.is_some_and(|path| path.file_name().is_some_and(|name| name == PLUGIN))
}

fn plugin(out: &mut dyn Write) -> ExitCode {
    let well = cni::run(&|name| std::env::var(name).ok(), &mut io::stdin(), out);
    if well.is_ok_and(|well| well) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The exit code, and what there is to say about an error.
fn conclude(ended: Result<Exit, Failed>, remarks: &mut dyn Write) -> u8 {
    let failed = match ended {
        Ok(Exit::Fine) => return 0,
        Ok(Exit::Refused) => return 1,
        Ok(Exit::Unhealthy) => return 4,
        Err(failed) => failed,
    };
    // As if killed by SIGPIPE (13), which Rust ignores: `adit flows | head` ends in silence.
    if matches!(&failed, Failed::Output(error) if error.kind() == io::ErrorKind::BrokenPipe) {
        return 128 + 13;
    }
    let (code, help) = match &failed {
        Failed::Agent(error) => (error.exit_code(), error.help()),
        Failed::NotRoot(_) => (5, Some("try sudo".to_owned())),
        Failed::Output(_) | Failed::Local(_) => (1, None),
    };
    let error = anyhow::Error::from(failed);
    // It may repeat what was asked for, and that may be made to trouble a terminal.
    let error = format!("{error:#}");
    let error: Vec<String> = error.lines().map(output::clean).collect();
    let _closed = writeln!(remarks, "error: {}", error.join("\n"));
    if let Some(help) = help {
        let _closed = writeln!(remarks, "help: {help}");
    }
    code
}

fn execute(
    cli: Cli,
    local: &Local,
    now: SystemTime,
    out: &mut dyn Write,
    remarks: &mut dyn Write,
) -> Result<Exit, Failed> {
    let mut context = Context {
        client: Client::new(cli.global.socket),
        format: cli.global.output,
        headers: !cli.global.no_headers,
        now,
        out,
        remarks,
    };
    let root = |command| if (local.is_root)() { Ok(()) } else { Err(Failed::NotRoot(command)) };
    match cli.command {
        Command::Run(options) => {
            root("run")?;
            (local.run)(options)?;
        }
        Command::Ca(command) => ca::run(&mut context, command, local)?,
        Command::Doctor(options) => {
            root("doctor")?;
            return doctor::run(&mut context, options, local);
        }
        Command::Cleanup(options) => {
            root("cleanup")?;
            cleanup::run(&mut context, options, local)?;
        }
        Command::Cni => {
            if !cni::run(&|name| std::env::var(name).ok(), &mut io::stdin(), context.out)? {
                return Ok(Exit::Refused);
            }
        }
        Command::Completions(args) => texts::completions(&args, context.out)?,
        Command::Man(args) => texts::man(&args, &mut context)?,
        command @ (Command::Status
        | Command::Workloads(_)
        | Command::Services(_)
        | Command::Policies(_)
        | Command::Explain(_)
        | Command::Certs
        | Command::Tunnels
        | Command::Flows(_)
        | Command::LogLevel(_)
        | Command::Drain(_)
        | Command::Version) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| anyhow::Error::new(error).context("start a runtime"))?;
            return runtime.block_on(ask(&mut context, command));
        }
    }
    Ok(Exit::Fine)
}

/// The commands that ask the agent.
async fn ask(context: &mut Context<'_>, command: Command) -> Result<Exit, Failed> {
    match command {
        Command::Status => return status::run(context).await,
        Command::Workloads(args) => workloads::run(context, args).await?,
        Command::Services(args) => services::run(context, args).await?,
        Command::Policies(args) => policies::run(context, args).await?,
        Command::Explain(args) => explain::run(context, args).await?,
        Command::Certs => certs::run(context).await?,
        Command::Tunnels => tunnels::run(context).await?,
        Command::Flows(args) => flows::run(context, args).await?,
        Command::LogLevel(args) => log_level::run(context, args).await?,
        Command::Drain(args) => drain::run(context, args).await?,
        Command::Version => version::run(context).await?,
        Command::Run(_)
        | Command::Ca(_)
        | Command::Doctor(_)
        | Command::Cleanup(_)
        | Command::Cni
        | Command::Completions(_)
        | Command::Man(_) => {}
    }
    Ok(Exit::Fine)
}
