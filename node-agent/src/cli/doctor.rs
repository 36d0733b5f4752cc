//! `adit doctor`: what this node's kernel supports.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::cli::output::{self, Table};
use crate::cli::{Context, Exit, Failed, Local};

/// The arguments of `adit doctor`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  adit doctor                   exits 4 if the agent could not run here
  adit doctor -o json | jq '.[] | select(.required and (.available | not))'")]
pub struct DoctorOptions {
    /// A directory on bpffs for the pins of the probes
    #[arg(long, default_value = "/sys/fs/bpf/adit")]
    pub pins: PathBuf,
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
    let findings = (local.probe)(options)?;
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
