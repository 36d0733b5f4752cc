//! `adit status`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::admin::view::{DeniedView, DiscoveryView, PolicyCounts, StatusView};
use crate::cli::output::{Format, clean, whole};
use crate::cli::{Context, Exit, Failed, span};

/// Policies that `Denied` names.
const SHOWN: usize = 3;

pub(super) async fn run(context: &mut Context<'_>) -> Result<Exit, Failed> {
    let status: StatusView = context.client.get("/v1/status").await?;
    match context.format {
        Format::Json | Format::Yaml => whole(context.format, context.out, &status)?,
        Format::Table => context.out.write_all(text(&status, false).as_bytes())?,
        Format::Wide => context.out.write_all(text(&status, true).as_bytes())?,
    }
    Ok(if status.healthy { Exit::Fine } else { Exit::Unhealthy })
}

/// For people: a line a topic, then what is wrong.
pub(super) fn text(status: &StatusView, wide: bool) -> String {
    let node = &status.node;
    let ready = if status.readiness.ready { "ready" } else { "not ready" };
    let health = match (status.healthy, status.problems.len()) {
        _ if status.draining.is_some() => "DRAINING".to_owned(),
        (true, 0) => "healthy".to_owned(),
        (true, count) => format!("healthy, {count} to look at"),
        (false, _) => "NOT HEALTHY".to_owned(),
    };
    let up = span::short(Duration::from_secs(node.uptime_seconds));
    let mut lines = vec![
        ("Health", health),
        ("Node", node.name.clone()),
        ("Cluster", format!("{}, trust domain {}", node.cluster, node.trust_domain)),
        ("Agent", format!("{}, up {up}, {ready}", node.version)),
        ("Pods", counts(&status.pods)),
        ("Certificates", counts(&status.certificates)),
        ("Tunnels", counts(&status.tunnels_open)),
        ("Flows", flows(status)),
        ("Policies", policies(&status.policies)),
        ("Denied", denied(&status.denied)),
        ("Discovery", discovery(&status.discovery)),
    ];
    if wide {
        lines.push(("Started", node.started.to_string()));
        let missed = match status.records.missed {
            0 => String::new(),
            missed => format!(", {missed} events missed by slow ones"),
        };
        lines.push(("Followers", format!("{}{missed}", status.records.followers)));
    }
    let mut text = String::new();
    for (topic, line) in lines {
        add(&mut text, topic, &line);
    }
    for (index, fact) in status.datapath.iter().enumerate() {
        let topic = if index == 0 { "Datapath" } else { "" };
        add(&mut text, topic, &format!("{}: {}", fact.name, fact.value));
    }
    for problem in &status.problems {
        let severity = problem.severity.as_label();
        text.push('\n');
        text.push_str(&format!("{severity}: {}\n", clean(&problem.what)));
        text.push_str(&format!("  help: {}\n", clean(&problem.help)));
    }
    text
}

fn add(text: &mut String, topic: &str, lines: &str) {
    for (index, line) in lines.lines().enumerate() {
        let topic = if index == 0 { topic } else { "" };
        // A String takes every write.
        let _always = writeln!(text, "{topic:<14}{}", clean(line));
    }
}

fn flows(status: &StatusView) -> String {
    let records = &status.records;
    let lost = match records.dropped {
        0 => String::new(),
        lost => format!(", {lost} records lost"),
    };
    format!("{} open, {} ended ones kept{lost}", status.flows_open, records.kept)
}

fn discovery(discovery: &DiscoveryView) -> String {
    let changed = discovery.age_seconds.map_or_else(
        || "nothing seen yet".to_owned(),
        |age| format!("changed {} ago", span::short(Duration::from_secs(age))),
    );
    let rejected = match discovery.errors.len() {
        0 => String::new(),
        count => format!(", {count} rejected"),
    };
    format!(
        "{}: {}, {}, {}{rejected}, {changed}",
        discovery.source,
        number(discovery.namespaces, "namespace"),
        number(discovery.workloads, "pod"),
        number(discovery.services, "service")
    )
}

fn policies(counts: &PolicyCounts) -> String {
    let PolicyCounts { total, dry_run, partial, invalid } = counts;
    let mut parts = vec![if *total == 0 { "none".to_owned() } else { total.to_string() }];
    let states = [(dry_run, "dry run"), (partial, "partly enforced"), (invalid, "invalid")];
    let some = states.into_iter().filter(|(count, _)| **count > 0);
    parts.extend(some.map(|(count, state)| format!("{count} {state}")));
    parts.join(", ")
}

/// The policies by which, one a line, stand under it.
fn denied(denied: &DeniedView) -> String {
    let DeniedView { window_seconds, of, flows, by } = denied;
    let lately = span::short(Duration::from_secs(*window_seconds));
    let mut lines = vec![format!("{flows} of the {of} flows that ended in the last {lately}")];
    lines.extend(by.iter().take(SHOWN).map(ToString::to_string));
    if by.len() > SHOWN {
        lines.push(format!("and by {} more", by.len() - SHOWN));
    }
    lines.join("\n")
}

fn counts(counts: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> = counts
        .iter()
        .map(|(state, count)| format!("{count} {}", state.replace('_', " ")))
        .collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

fn number(count: u64, noun: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{s}")
}
