//! `adit doctor`: what this node's kernel supports, and where an agent runs, which of its pods the cluster
//! keeps from tunnels.

use std::path::PathBuf;

use adit_core::hbone::TUNNEL_PORT;
use clap::Args;
use serde::Serialize;

use crate::admin::view::{BlockedView, NetworkPoliciesView};
use crate::cli::client::ClientError;
use crate::cli::output::{self, Table};
use crate::cli::{Context, Exit, Failed, Local};

/// The arguments of `adit doctor`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  adit doctor                   exits 4 if the agent could not run here; where one runs, also says which of its
                                pods a NetworkPolicy keeps from tunnels
  adit doctor -o json | jq '.[] | select(.required and (.available | not))'")]
pub struct DoctorOptions {
    /// The agent's configuration; by default /etc/adit/config.yaml, if it is there
    #[arg(short, long, env = "ADIT_CONFIG")]
    pub config: Option<PathBuf>,
    /// A directory on bpffs for the pins of the probes, instead of the configuration's
    #[arg(long)]
    pub pins: Option<PathBuf>,
}

/// What a probe of one feature found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The feature.
    pub feature: String,
    /// What adit needs it for.
    pub needed_for: String,
    /// Whether it is there.
    pub available: bool,
    /// What was found, or why it is not there.
    pub found: String,
    /// What follows if it is not there.
    pub consequence: String,
    /// Whether the agent cannot run without it.
    pub required: bool,
}

pub(super) fn run(
    context: &mut Context<'_>,
    options: DoctorOptions,
    local: &Local,
) -> Result<Exit, Failed> {
    let mut findings = (local.probe)(options)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| anyhow::Error::new(error).context("start a runtime"))?;
    let answer = runtime.block_on(context.client.get("/v1/network-policies"));
    findings.extend(of_the_cluster(answer));
    output::list(context, "features", &findings, |_wide| table(&findings))?;
    let missing: Vec<&str> = findings
        .iter()
        .filter(|finding| finding.required && !finding.available)
        .map(|finding| finding.feature.as_str())
        .collect();
    if missing.is_empty() {
        return Ok(Exit::Fine);
    }
    writeln!(
        context.remarks,
        "The agent cannot run on this node: it lacks {}.",
        missing.join(", ")
    )?;
    Ok(Exit::Unhealthy)
}

/// What an agent knows of the cluster's NetworkPolicies; nothing where there is none to ask.
fn of_the_cluster(answer: Result<NetworkPoliciesView, ClientError>) -> Vec<Finding> {
    let about_all = |found: Result<String, String>| Finding {
        feature: "NetworkPolicies".to_owned(),
        needed_for: format!("tunnels, which come to TCP port {TUNNEL_PORT} of enrolled pods"),
        available: found.is_ok(),
        found: found.unwrap_or_else(|why| why),
        consequence: format!("one that blocks port {TUNNEL_PORT} may go unnoticed"),
        required: false,
    };
    let view = match answer {
        Ok(view) => view,
        Err(ClientError::Connect { .. }) => return Vec::new(),
        Err(error) => {
            let error = anyhow::Error::new(error);
            return vec![about_all(Err(format!("not known: {error:#}")))];
        }
    };
    let mut findings: Vec<Finding> = view.blocked.iter().map(of_a_pod).collect();
    match view.lack {
        Some(lack) => findings.push(about_all(Err(format!("not known: {lack}")))),
        None if findings.is_empty() => {
            let fine = "none in the way of this node's enrolled pods";
            findings.push(about_all(Ok(fine.to_owned())));
        }
        None => {}
    }
    findings
}

fn of_a_pod(blocked: &BlockedView) -> Finding {
    let whose = blocked.whose();
    let (found, consequence) = if blocked.other_ports {
        (
            format!("blocked by {whose}: allowed are other ports"),
            format!("these connections fail: allow TCP {TUNNEL_PORT} beside the other ports"),
        )
    } else {
        (format!("blocked by {whose}: no port is allowed"), "none, if that is meant".to_owned())
    };
    Finding {
        feature: blocked.what(),
        needed_for: format!("tunnels {}", blocked.with_whom()),
        available: false,
        found,
        consequence,
        required: false,
    }
}

fn table(findings: &[Finding]) -> Table {
    let mut table = Table::new(&["FEATURE", "NEEDED FOR", "FOUND", "CONSEQUENCE"]);
    for finding in findings {
        let (found, consequence) = match (finding.available, finding.required) {
            (true, _) => (finding.found.clone(), "-".to_owned()),
            (false, true) => {
                let found = format!("MISSING: {}", finding.found);
                (found, finding.consequence.clone())
            }
            (false, false) => {
                let found = format!("missing: {}", finding.found);
                (found, finding.consequence.clone())
            }
        };
        table.push(vec![finding.feature.clone(), finding.needed_for.clone(), found, consequence]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::admin::tests::Agent;
    use crate::admin::tests::policies::network_policies;
    use crate::cli::golden;
    use crate::cli::tests::{FORMATS, adit};

    #[tokio::test(flavor = "multi_thread")]
    async fn doctor_fails_only_where_something_required_is_missing() {
        let nowhere = Path::new("/nonexistent/adit.sock");
        for format in FORMATS {
            let ended = adit(nowhere, &["doctor", "-o", format]).await;
            assert_eq!(ended.code, 4);
            assert!(ended.remarks.contains("it lacks sk_lookup"), "{}", ended.remarks);
            golden::check(&format!("cli/doctor.{format}"), &ended.out);
        }
        let fine = adit(nowhere, &["doctor", "--pins", "/fine"]).await;
        assert_eq!((fine.code, fine.remarks.as_str()), (0, ""));
        assert!(!fine.out.contains("NetworkPolic"), "{}", fine.out);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn doctor_names_the_pods_that_a_network_policy_keeps_from_tunnels() {
        let agent = Agent::start().await;
        let ask = ["doctor", "--pins", "/fine"];
        let fine = adit(&agent.socket, &ask).await;
        assert_eq!(fine.code, 0);
        assert!(fine.out.contains("none in the way of this node's enrolled pods"), "{}", fine.out);
        agent.publish(network_policies());
        let blocked = adit(&agent.socket, &ask).await;
        assert_eq!(blocked.code, 0, "the agent can run");
        golden::check("cli/doctor-blocked.table", &blocked.out);
    }
}
