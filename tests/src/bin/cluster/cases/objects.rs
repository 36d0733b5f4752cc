//! Kinds of workloads beside Deployments and DaemonSets.

use std::time::Duration;

use adit_e2e::wait::wait_for;
use anyhow::{Result, ensure};

use super::SHOP;
use crate::lab::Lab;

pub(crate) fn stateful_set_and_cron_job(lab: &Lab) -> Result<String> {
    lab.kubectl(&["apply", "-f", &lab.file("manifests/ledger.yaml")])?;
    lab.kubectl(&["-n", SHOP, "rollout", "status", "statefulset/ledger", "--timeout=60s"])?;
    let (client, _) = lab.pod(SHOP, "client", "n1")?;
    for name in ["ledger-0", "ledger-1"] {
        // The name server learns of a pod that is ready a little later than kubectl.
        let url = format!("http://{name}.ledger.shop:8080/");
        let said = wait_for(&format!("an answer of {name}"), Duration::from_secs(20), || {
            lab.get(SHOP, &client, &url).map(Some)
        })?;
        ensure!(said.contains(&format!("host={name} ")), "{name}: {said}");
    }
    lab.kubectl(&["-n", SHOP, "create", "job", "audit-now", "--from=cronjob/audit"])?;
    let completed = "--for=condition=Complete";
    lab.kubectl(&["-n", SHOP, "wait", completed, "job/audit-now", "--timeout=60s"])?;
    let said = lab.kubectl(&["-n", SHOP, "logs", "job/audit-now"])?;
    ensure!(said.contains("host=ledger-0 "), "{said}");
    lab.kubectl(&["-n", SHOP, "delete", "job/audit-now"])?;
    lab.kubectl(&["delete", "-f", &lab.file("manifests/ledger.yaml")])?;
    Ok(String::new())
}
