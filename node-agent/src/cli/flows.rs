//! `adit flows`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValuesParser;

use crate::admin::view::{FlowView, FollowEvent, PartyView};
use crate::cli::client::{ClientError, query};
use crate::cli::output::{self, Format, Table, or_dash};
use crate::cli::{Context, Failed, span};

/// What makes most lines of a stream line up.
const WIDTHS: [usize; 11] = [12, 8, 30, 34, 16, 9, 7, 7, 7, 8, 8];

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  adit flows --follow                          what opens and ends from now on
  adit flows -n shop --protocol plaintext      what is not encrypted, and why
  adit flows --verdict denied -o wide          who was refused, with identities and why
  adit flows --peer shop/cart --port 8080      who talks to one service
  adit flows -f -o json | jq -c 'select(.missed)'   whether a follower was too slow")]
pub(super) struct FlowsArgs {
    /// Go on with the flows that open and end from now on
    #[arg(short, long)]
    follow: bool,
    /// Only flows from, to, or through a service of this namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// Only flows of this pod or controller: a name, or namespace/name
    #[arg(short, long)]
    workload: Option<String>,
    /// Only flows whose other end is this: a pod, controller or service, an address, a SPIFFE id
    #[arg(short, long)]
    peer: Option<String>,
    /// Only flows to this port of the destination
    #[arg(long)]
    port: Option<u16>,
    /// Only flows carried like this
    #[arg(long, value_parser = PossibleValuesParser::new(["hbone", "plaintext", "undecided"]))]
    protocol: Option<String>,
    /// Only flows that were decided like this
    #[arg(long, value_parser = PossibleValuesParser::new(
        ["pending", "allowed", "denied", "refused", "failed"]
    ))]
    verdict: Option<String>,
    /// Only flows that this policy decided, or would in a dry run: namespace/name, or default
    #[arg(long)]
    policy: Option<String>,
    /// Only flows that policies in dry run would treat like this
    #[arg(long, value_parser = PossibleValuesParser::new(["allow", "deny"]))]
    dry_run: Option<String>,
    /// Only flows that this node's pods opened, or received
    #[arg(long, value_parser = PossibleValuesParser::new(["outbound", "inbound"]))]
    direction: Option<String>,
    /// Only flows that live, or that have ended
    #[arg(long, value_parser = PossibleValuesParser::new(["open", "ended"]))]
    state: Option<String>,
    /// At most so many flows, the newest; with --follow, so many before the stream
    #[arg(long, default_value_t = 500)]
    limit: usize,
}

/// What a table shows beside what every table does.
#[derive(Debug, Clone, Copy)]
struct Columns {
    wide: bool,
    policy: bool,
    dry_run: bool,
}

impl FlowsArgs {
    /// Who asks what policies do is shown which policy it was.
    fn columns(&self, wide: bool) -> Columns {
        let of_one = self.policy.is_some();
        let denied = self.verdict.as_deref() == Some("denied");
        Columns {
            wide,
            policy: wide || of_one || denied,
            dry_run: wide || of_one || self.dry_run.is_some(),
        }
    }

    fn path(&self) -> String {
        let parts = [
            ("namespace", self.namespace.clone()),
            ("workload", self.workload.clone()),
            ("peer", self.peer.clone()),
            ("port", self.port.map(|port| port.to_string())),
            ("protocol", self.protocol.clone()),
            ("verdict", self.verdict.clone()),
            ("policy", self.policy.clone()),
            ("dryRun", self.dry_run.clone()),
            ("direction", self.direction.clone()),
            ("state", self.state.clone()),
            ("limit", Some(self.limit.to_string())),
            ("follow", self.follow.then(|| "true".to_owned())),
        ];
        let given: Vec<_> =
            parts.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        query("/v1/flows", &given)
    }
}

pub(super) async fn run(context: &mut Context<'_>, args: FlowsArgs) -> Result<(), Failed> {
    if args.follow {
        return follow(context, &args).await;
    }
    let list: Vec<FlowView> = context.client.get(&args.path()).await?;
    output::list(context, "flows", &list, |wide| {
        let columns = args.columns(wide);
        let mut table = Table::new(&headers(columns));
        for flow in &list {
            table.push(row(flow, columns));
        }
        table
    })
}

async fn follow(context: &mut Context<'_>, args: &FlowsArgs) -> Result<(), Failed> {
    let wide = context.format == Format::Wide;
    let columns = args.columns(wide);
    let mut table = Table::new(&headers(columns)).with_widths(&WIDTHS);
    let mut lines = context.client.stream(&args.path()).await?;
    let is_table = wide || context.format == Format::Table;
    if is_table && context.headers {
        context.out.write_all(table.header().as_bytes())?;
        context.out.flush()?;
    }
    while let Some(line) = lines.next().await? {
        let event: FollowEvent =
            serde_json::from_slice(&line).map_err(ClientError::NotUnderstood)?;
        match (context.format, &event) {
            (Format::Json, _) => {
                // One object a line; pretty ones cannot be told apart.
                context.out.write_all(&line)?;
                context.out.write_all(b"\n")?;
            }
            (Format::Yaml, _) => {
                context.out.write_all(b"---\n")?;
                // Read again as YAML's own value: an enum would be printed as a tag.
                let event: serde_yaml::Value =
                    serde_json::from_slice(&line).map_err(ClientError::NotUnderstood)?;
                output::whole(Format::Yaml, context.out, &event)?;
            }
            (Format::Table | Format::Wide, FollowEvent::Flow(flow)) => {
                table.push(row(flow, columns));
                context.out.write_all(table.take_rows().as_bytes())?;
            }
            (Format::Table | Format::Wide, FollowEvent::Missed(count)) => {
                // In its place between the flows, so that whoever reads them later knows.
                writeln!(
                    context.out,
                    "-- {count} events missed: this output is read too slowly --"
                )?;
            }
            (Format::Table | Format::Wide, FollowEvent::Lost(count)) => {
                writeln!(
                    context.out,
                    "-- {count} events lost: the agent could not record them --"
                )?;
            }
        }
        context.out.flush()?;
    }
    writeln!(context.remarks, "The agent has ended.")?;
    Ok(())
}

fn headers(columns: Columns) -> Vec<&'static str> {
    let mut headers = vec![
        "TIME",
        "DIR",
        "SOURCE",
        "DESTINATION",
        "SERVICE",
        "PROTOCOL",
        "VERDICT",
        "SENT",
        "RECV",
        "DURATION",
        "END",
    ];
    if columns.wide {
        headers.extend([
            "SOURCE ADDRESS",
            "DESTINATION ADDRESS",
            "SOURCE IDENTITY",
            "DESTINATION IDENTITY",
            "TLS",
            "GROUP",
            "CIPHER",
            "ID",
        ]);
    }
    headers.extend(columns.policy.then_some("POLICY"));
    headers.extend(columns.wide.then_some("NEAREST MISS"));
    headers.extend(columns.dry_run.then_some("DRY RUN"));
    headers
}

fn row(flow: &FlowView, Columns { wide, policy, dry_run }: Columns) -> Vec<String> {
    let started = flow.started.to_string();
    let time = if wide { started } else { time_of_day(&started) };
    let protocol = flow
        .plaintext_reason
        .as_ref()
        .map_or_else(|| flow.protocol.clone(), |reason| format!("{}({reason})", flow.protocol));
    let mut row = vec![
        time,
        flow.direction.clone(),
        name(&flow.source),
        destination(&flow.destination),
        or_dash(flow.service.as_ref()),
        protocol,
        flow.verdict.as_label().to_owned(),
        span::bytes(flow.bytes_sent),
        span::bytes(flow.bytes_received),
        span::short(Duration::from_millis(flow.duration_ms)),
        flow.end.clone().unwrap_or_else(|| "open".to_owned()),
    ];
    if wide {
        let tls = flow.tls.as_ref();
        row.push(address(&flow.source));
        row.push(address(&flow.destination));
        row.push(or_dash(flow.source.identity.as_ref()));
        row.push(or_dash(flow.destination.identity.as_ref()));
        row.push(or_dash(tls.map(|tls| &tls.version)));
        row.push(or_dash(tls.map(|tls| &tls.group)));
        row.push(or_dash(tls.map(|tls| &tls.cipher)));
        row.push(flow.id.to_string());
    }
    row.extend(policy.then(|| or_dash(flow.policy.as_ref())));
    if wide {
        let missed = (!flow.missed.is_empty()).then(|| flow.missed.join("; "));
        row.push(or_dash(missed));
    }
    row.extend(dry_run.then(|| or_dash(flow.dry_run.as_ref())));
    row
}

/// `12:00:00.250` of `2026-03-01T12:00:00.250Z`.
fn time_of_day(rfc3339: &str) -> String {
    let time = rfc3339.split_once('T').map_or(rfc3339, |(_, time)| time);
    time.trim_end_matches('Z').to_owned()
}

fn name(party: &PartyView) -> String {
    match &party.pod {
        Some(pod) => pod.to_string(),
        None => party.address.to_string(),
    }
}

fn destination(party: &PartyView) -> String {
    match &party.pod {
        Some(pod) => format!("{pod}:{}", party.port),
        None => SocketAddr::from((party.address, party.port)).to_string(),
    }
}

/// A tunnel does not tell the source's port.
fn address(party: &PartyView) -> String {
    if party.port == 0 {
        party.address.to_string()
    } else {
        SocketAddr::from((party.address, party.port)).to_string()
    }
}
