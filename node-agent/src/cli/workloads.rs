//! `adit workloads`.

use std::time::SystemTime;

use clap::Args;

use crate::admin::view::WorkloadView;
use crate::cli::output::{self, Table, or_dash};
use crate::cli::{Context, Failed, span};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  adit workloads --local        the pods of this node, and how far their enrolment is
  adit workloads -n shop -o wide")]
pub(super) struct WorkloadsArgs {
    /// Only pods of this namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// Only pods of this agent's node
    #[arg(long)]
    local: bool,
}

pub(super) async fn run(context: &mut Context<'_>, args: WorkloadsArgs) -> Result<(), Failed> {
    let mut list: Vec<WorkloadView> = context.client.get("/v1/workloads").await?;
    let namespace = args.namespace.as_ref();
    list.retain(|pod| {
        namespace.is_none_or(|wanted| *wanted == pod.namespace) && (pod.local || !args.local)
    });
    let now = context.now;
    output::list(context, "workloads", &list, |wide| table(&list, wide, now))
}

fn table(list: &[WorkloadView], wide: bool, now: SystemTime) -> Table {
    let mut headers = vec!["NAMESPACE", "NAME", "NODE", "ADDRESS", "PROTOCOL", "STATE", "SINCE"];
    if wide {
        headers.extend(["ADDRESSES", "IDENTITY", "OWNER", "UID", "ERROR"]);
    }
    let mut table = Table::new(&headers);
    for pod in list {
        let enrolment = pod.enrolment.as_ref();
        let protocol = pod
            .reason
            .as_ref()
            .map_or_else(|| pod.protocol.clone(), |reason| format!("{}({reason})", pod.protocol));
        let state = enrolment.map(|now| match &now.step {
            Some(step) => format!("{}({step})", now.state),
            None => now.state.clone(),
        });
        let mut row = vec![
            pod.namespace.clone(),
            pod.name.clone(),
            or_dash(pod.node.as_ref()),
            or_dash(pod.addresses.first()),
            protocol,
            or_dash(state),
            or_dash(enrolment.map(|state| span::age(now, state.since.0))),
        ];
        if wide {
            let addresses: Vec<_> = pod.addresses.iter().map(ToString::to_string).collect();
            let addresses = Some(addresses.join(",")).filter(|text| !text.is_empty());
            row.push(or_dash(addresses));
            row.push(pod.identity.clone());
            row.push(pod.owner.clone());
            row.push(pod.uid.clone());
            row.push(or_dash(enrolment.and_then(|state| state.error.as_ref())));
        }
        table.push(row);
    }
    table
}
