//! `adit policies`.

use clap::Args;

use crate::admin::view::{PolicyState, PolicyView};
use crate::cli::client::query;
use crate::cli::output::{self, Table, or_dash};
use crate::cli::{Context, Failed};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  adit policies                       what is in force, what is not, and how often it decided
  adit policies --workload shop/cart  those that are for one pod of this node
  adit policies -o wide               with selectors, dry-run hits and the pods they are for")]
pub(super) struct PoliciesArgs {
    /// Only policies of this namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// Only policies that are for this pod of this node: namespace/name
    #[arg(short, long)]
    workload: Option<String>,
}

pub(super) async fn run(context: &mut Context<'_>, args: PoliciesArgs) -> Result<(), Failed> {
    let given = [("namespace", args.namespace), ("workload", args.workload)];
    let given: Vec<_> =
        given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let list: Vec<PolicyView> = context.client.get(&query("/v1/policies", &given)).await?;
    output::list(context, "policies", &list, |wide| table(&list, wide))
}

fn table(list: &[PolicyView], wide: bool) -> Table {
    let mut headers =
        vec!["NAMESPACE", "NAME", "KIND", "SCOPE", "ACTION", "STATE", "PODS", "HITS", "LAST HIT"];
    if wide {
        headers.extend([
            "DRY-RUN HITS",
            "SELECTOR",
            "RULES",
            "PORTS",
            "CREATED",
            "WORKLOADS",
            "OUTSIDE",
        ]);
    }
    // Last, because it is long where there is one.
    headers.push("REASON");
    let mut table = Table::new(&headers);
    for policy in list {
        table.push(row(policy, wide));
    }
    table
}

fn row(policy: &PolicyView, wide: bool) -> Vec<String> {
    let mut row = vec![
        policy.namespace.clone(),
        policy.name.clone(),
        policy.kind.clone(),
        policy.scope.clone(),
        or_dash(policy.action.as_ref()) + if policy.dry_run { "(dry-run)" } else { "" },
        state(policy),
        policy.workloads.len().to_string(),
        policy.hits.to_string(),
        or_dash(policy.last_hit),
    ];
    if wide {
        row.push(policy.dry_run_hits.to_string());
        row.push(or_dash(policy.selector.as_ref()));
        row.push(or_dash(policy.rules));
        let ports = policy.ports.iter().map(|(port, mode)| format!("{port}={mode}"));
        row.push(or_dash(joined(ports)));
        row.push(or_dash(policy.created));
        row.push(or_dash(joined(policy.workloads.iter().map(ToString::to_string))));
        row.push(or_dash(joined(policy.outside.iter().map(ToString::to_string))));
    }
    row.push(or_dash(joined_by("; ", policy.reasons.iter().cloned())));
    row
}

fn state(policy: &PolicyView) -> String {
    match (policy.state, policy.in_force) {
        (PolicyState::Invalid, true) if policy.closed => "invalid(closed)".to_owned(),
        (PolicyState::Invalid, true) => "invalid(last good in force)".to_owned(),
        (PolicyState::Invalid, false) => "invalid(not in force)".to_owned(),
        (state @ (PolicyState::Valid | PolicyState::Partial), _) => state.as_label().to_owned(),
    }
}

fn joined(parts: impl Iterator<Item = String>) -> Option<String> {
    joined_by(",", parts)
}

fn joined_by(separator: &str, parts: impl Iterator<Item = String>) -> Option<String> {
    let parts: Vec<String> = parts.collect();
    (!parts.is_empty()).then(|| parts.join(separator))
}
