//! The benchmark: the same work with and without adit, by turns, on one machine. Start it with
//! `cargo xtask bench`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it reports to its user")]
#![expect(clippy::cast_precision_loss, reason = "figures are told with three digits")]

mod agents;
mod compare;
mod idle;
mod load;
mod quiet;
mod report;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use adit_e2e::agent::Setup;
use adit_e2e::{Cluster, Node, PodSpec, requirements};
use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::agents::Agents;
use crate::compare::{Comparison, Cost};
use crate::load::{Bulk, Connections, Direction, Load, Path, Requests};
use crate::quiet::Times;
use crate::report::{Machine, Report, Row};

/// Bits per second of the stream beside the requests.
const PACED: u64 = 2_000_000_000;

const PER_GB: Cost = Cost { name: "agents' CPU", unit: "s/GB", per_second: 1.0 };
const PER_REQUEST: Cost = Cost { name: "agents' CPU", unit: "us/req", per_second: 1e6 };
const PER_CONNECTION: Cost = Cost { name: "agents' CPU", unit: "us/conn", per_second: 1e6 };

#[derive(Debug, Parser)]
#[command(name = "bench", about = "The same work with and without adit, by turns")]
struct Arguments {
    /// Fewer and shorter rounds, for CI
    #[arg(long)]
    quick: bool,
    /// Measure on a busy machine too
    #[arg(long)]
    force: bool,
    /// Write the figures to a file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What to print
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// How often each path is measured
    #[arg(long)]
    rounds: Option<usize>,
    /// Only work whose name contains one of these
    only: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

fn main() -> ExitCode {
    match measure(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<()> {
    let missing = requirements::missing();
    if !missing.is_empty() {
        bail!("cannot run here: {}", missing.join("; "));
    }
    let mut disturbances = quiet::disturbances()?;
    if !disturbances.is_empty() && !arguments.force {
        bail!("the machine is not quiet ({}); --force measures anyway", disturbances.join("; "));
    }
    // A client and a server of 5,000 flows in this process.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raise the limit of open files")?;

    let before = Times::now()?;
    let rows = rows(arguments)?;
    let stolen = Times::now()?.stolen_since(&before);
    if stolen > 0.01 {
        disturbances.push(format!("the hypervisor took {:.1} % meanwhile", stolen * 100.0));
    }
    let report = Report {
        machine: Machine::this(),
        rounds: arguments.rounds(),
        seconds: arguments.duration().as_secs_f64(),
        disturbances,
        rows,
    };
    let json = serde_json::to_string_pretty(&report)?;
    if let Some(file) = &arguments.json {
        fs::write(file, format!("{json}\n")).with_context(|| format!("cannot write {file:?}"))?;
    }
    match arguments.output {
        Output::Table => print!("{report}"),
        Output::Json => println!("{json}"),
    }
    Ok(())
}

impl Arguments {
    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 3 } else { 7 }).max(1)
    }

    fn duration(&self) -> Duration {
        Duration::from_millis(if self.quick { 700 } else { 2000 })
    }

    fn wants(&self, work: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| work.contains(part.as_str()))
    }
}

/// Work that is compared: its name, what it is, what it costs the agents, on which processor.
type Compared = (&'static str, Box<dyn Load>, Cost, Option<usize>);

fn comparisons() -> Vec<Compared> {
    let bulk = |streams, direction| Box::new(Bulk { streams, direction, rate: None });
    let requests = |connections| Box::new(Requests { connections, beside: None });
    let connections = |at_once| Box::new(Connections { at_once, total: None });
    let paced = Bulk { streams: 1, direction: Direction::ToServer, rate: Some(PACED) };
    let beside = Box::new(Requests { connections: 1, beside: Some(paced) });
    vec![
        ("bulk, 1 stream", bulk(1, Direction::ToServer), PER_GB, None),
        ("bulk, 8 streams", bulk(8, Direction::ToServer), PER_GB, None),
        ("bulk to the client, 1 stream", bulk(1, Direction::ToClient), PER_GB, None),
        ("bulk to the client, 8 streams", bulk(8, Direction::ToClient), PER_GB, None),
        ("requests, 1 connection", requests(1), PER_REQUEST, None),
        ("requests, 32 connections", requests(32), PER_REQUEST, None),
        ("requests, 1 connection, one processor", requests(1), PER_REQUEST, Some(0)),
        ("requests, 32 connections, one processor", requests(32), PER_REQUEST, Some(0)),
        ("requests beside 2 Gbit/s", beside, PER_REQUEST, None),
        ("connections, 8 at a time", connections(8), PER_CONNECTION, None),
        ("connections, 16 at a time", connections(16), PER_CONNECTION, None),
    ]
}

fn rows(arguments: &Arguments) -> Result<Vec<Row>> {
    // As a node would run: nothing but warnings in the log.
    let setup = Setup { log: "warn".to_owned(), ..Setup::default() };
    let mut rows = Vec::new();
    {
        let cluster = Cluster::start_with(&setup)?;
        let agents = Agents::new(&cluster);
        if arguments.wants("start") {
            rows.extend(idle::start_up(&cluster, arguments.rounds())?);
        }
        if arguments.wants("memory") {
            rows.extend(idle::memory(&agents)?);
        }
        cluster.manifests().namespace("meshed", Some("ambient"))?;
        cluster.manifests().namespace("plain", None)?;
        let spec = |namespace, name, node| PodSpec::new(namespace, name, node);
        let [server, client, plain_server, plain_client] = cluster.pods([
            spec("meshed", "server", Node::B),
            spec("meshed", "client", Node::A),
            spec("plain", "server", Node::B),
            spec("plain", "client", Node::A),
        ])?;
        let comparison = Comparison {
            direct: Path { client: &plain_client, server: &plain_server },
            adit: Path { client: &client, server: &server },
            agents,
            rounds: arguments.rounds(),
            duration: arguments.duration(),
        };
        rows.extend(compared(arguments, &comparison)?);
    }
    if arguments.wants("sandbox") {
        rows.extend(idle::sandbox(if arguments.quick { 5 } else { 25 })?);
    }
    if arguments.wants("enrolment") {
        rows.extend(idle::enrolment(if arguments.quick { 20 } else { 200 })?);
    }
    Ok(rows)
}

fn compared(arguments: &Arguments, comparison: &Comparison<'_>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let counts: &[usize] = if arguments.quick { &[1000] } else { &[1000, 5000] };
    for count in counts {
        if arguments.wants("memory") {
            eprintln!("memory of {count} flows");
            rows.extend(idle::flows(*count, &comparison.adit, &comparison.agents)?);
        }
    }
    for (work, load, cost, cpu) in comparisons() {
        if arguments.wants(work) {
            eprintln!("{work}");
            rows.extend(comparison.compare(work, load.as_ref(), cost, cpu)?);
        }
    }
    if arguments.wants("100,000 connections") && !arguments.quick {
        eprintln!("100,000 connections");
        let many = Connections { at_once: 32, total: Some(100_000) };
        let once = Comparison { rounds: 1, ..*comparison };
        rows.extend(once.compare("100,000 connections", &many, PER_CONNECTION, None)?);
    }
    Ok(rows)
}
