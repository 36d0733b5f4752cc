//! `adit explain`.

use adit_core::hbone::TUNNEL_PORT;
use clap::Args;
use clap::builder::PossibleValuesParser;

use crate::admin::view::{BlockedView, ExplainView, ExplainedParty};
use crate::cli::client::query;
use crate::cli::output::{Format, clean, whole};
use crate::cli::{Context, Failed};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  adit explain shop/web shop/cart:8080
  adit explain 10.0.0.9 shop/cart:8080          from an address, in plaintext if it is no pod of the mesh
  adit explain spiffe://cluster.local/ns/shop/sa/web shop/cart:8080
  adit explain shop/web shop/cart:8080 --protocol plaintext   if it came without a tunnel")]
pub(super) struct ExplainArgs {
    /// Who calls: a pod (namespace/name), an identity (spiffe://…) or an address
    source: String,
    /// Who is called, and its port: namespace/name:port of a pod or a service, spiffe://…:port,
    /// address:port or [address]:port
    destination: String,
    /// As if it were carried like this, whatever the route says
    #[arg(long, value_parser = PossibleValuesParser::new(["hbone", "plaintext"]))]
    protocol: Option<String>,
}

pub(super) async fn run(context: &mut Context<'_>, args: ExplainArgs) -> Result<(), Failed> {
    let ExplainArgs { source, destination, protocol } = args;
    let mut given = vec![("source", source), ("destination", destination)];
    given.extend(protocol.map(|protocol| ("protocol", protocol)));
    let view: ExplainView = context.client.get(&query("/v1/explain", &given)).await?;
    match context.format {
        Format::Json | Format::Yaml => whole(context.format, context.out, &view),
        Format::Table | Format::Wide => Ok(context.out.write_all(text(&view).as_bytes())?),
    }
}

/// For people: from the names to the verdict, a line a step.
fn text(view: &ExplainView) -> String {
    let mut text = Lines(String::new());
    text.add("Source", &party(&view.source, None));
    text.more(view.source.identity.iter());
    text.add("Destination", &party(&view.destination, Some(view.port)));
    text.more(view.destination.identity.iter());
    if let Some(service) = &view.service {
        text.add("Service", &service.to_string());
    }
    let reason = view.route.reason.as_ref();
    let reason = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
    text.add("Route", &format!("{}{reason}", view.route.protocol));
    text.add("TLS", view.route.tls.as_deref().unwrap_or("none"));
    for blocked in &view.blocked {
        text.add("Blocked", &self::blocked(blocked));
    }
    let mut considered = view.considered.iter();
    text.add("Policies", considered.next().map_or("none is for this pod", |first| first));
    text.more(considered);
    let mut verdict = view.verdict.as_label().to_uppercase();
    if let Some(policy) = &view.policy {
        verdict.push_str(&format!(" by {policy}"));
    }
    if let Some(reason) = &view.reason {
        // The policy that is named then refuses nothing by itself.
        let nearest = match (reason.as_str(), &*view.missed) {
            ("denied_no_rule", []) => ": it has no rule",
            ("denied_no_rule", _) => ": no rule matches, the nearest is this one",
            _ => "",
        };
        verdict.push_str(&format!(" ({reason}{nearest})"));
    }
    text.add("Verdict", &verdict);
    let mut missed = view.missed.iter();
    if let Some(first) = missed.next() {
        text.add("Nearest miss", first);
        text.more(missed);
    }
    if let Some(dry_run) = &view.dry_run {
        text.add("Dry run", dry_run);
    }
    for note in &view.notes {
        text.add("Note", note);
    }
    text.0
}

/// The verdict is without it: no policy of adit's is asked about a flow whose tunnel is never made.
fn blocked(blocked: &BlockedView) -> String {
    let verb = if blocked.policies.len() == 1 { "blocks" } else { "block" };
    let may = if blocked.other_ports {
        " beside the ports that are allowed"
    } else {
        ", where no port is allowed now"
    };
    format!(
        "{} {verb} {}: the tunnel cannot be made; allow TCP {TUNNEL_PORT} {}{may}",
        blocked.whose(),
        blocked.what(),
        blocked.with_whom()
    )
}

struct Lines(String);

impl Lines {
    fn add(&mut self, topic: &str, line: &str) {
        self.0.push_str(&format!("{topic:<14}{}\n", clean(line)));
    }

    fn more<'a>(&mut self, lines: impl Iterator<Item = &'a String>) {
        lines.for_each(|line| self.add("", line));
    }
}

fn party(party: &ExplainedParty, port: Option<u16>) -> String {
    let mut parts = Vec::new();
    parts.push(match &party.pod {
        Some(pod) => format!("pod {pod}"),
        None => "no known pod".to_owned(),
    });
    if let Some(node) = &party.node {
        parts.push(format!("on {node}"));
    }
    match (party.address, port) {
        (Some(address), Some(port)) => {
            parts.push(std::net::SocketAddr::new(address, port).to_string());
        }
        (Some(address), None) => parts.push(address.to_string()),
        (None, _) => {}
    }
    if party.pod.is_some() {
        parts.push(match &party.not_enrolled {
            None => "in the mesh".to_owned(),
            Some(why) => format!("not in the mesh: {why}"),
        });
    }
    parts.join(", ")
}
