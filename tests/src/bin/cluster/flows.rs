//! When something came of what kubectl did, by the flow lists of the agents.

use std::time::{Duration, SystemTime};

use adit_e2e::wait::wait_for;
use anyhow::{Context as _, Result};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::lab::Lab;

/// When it was accepted.
pub(crate) fn started(flow: &Value) -> Result<SystemTime> {
    let text = flow["started"].as_str().with_context(|| format!("no start: {flow}"))?;
    Ok(OffsetDateTime::parse(text, &Rfc3339).with_context(|| text.to_owned())?.into())
}

/// When it ended, if it has.
pub(crate) fn ended(flow: &Value) -> Result<Option<SystemTime>> {
    if flow["state"] != "ended" {
        return Ok(None);
    }
    let lasted = flow["durationMs"].as_u64().with_context(|| format!("no duration: {flow}"))?;
    Ok(Some(started(flow)? + Duration::from_millis(lasted)))
}

/// Something that kubectl did.
#[derive(Debug)]
pub(crate) struct Done {
    began: SystemTime,
    returned: SystemTime,
}

impl Done {
    /// Does it.
    pub(crate) fn by(lab: &Lab, arguments: &[&str]) -> Result<Self> {
        let began = SystemTime::now();
        lab.kubectl(arguments)?;
        Ok(Self { began, returned: SystemTime::now() })
    }

    /// How long after it something was that came of it; that can be before kubectl returned. Agents and cases
    /// read the same clock.
    pub(crate) fn until(&self, then: SystemTime) -> String {
        match then.duration_since(self.returned) {
            Ok(after) => format!("{} ms after kubectl returned", after.as_millis()),
            Err(_) => "before kubectl returned".to_owned(),
        }
    }

    /// When the first flow was accepted since then that a node's agent lists and that is `wanted`.
    pub(crate) fn first(
        &self,
        lab: &Lab,
        node: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<SystemTime> {
        self.earliest(
            lab,
            node,
            |flow| if wanted(flow) { started(flow).map(Some) } else { Ok(None) },
        )
    }

    /// When the first flow ended since then that a node's agent lists and that is `wanted`.
    pub(crate) fn first_end(
        &self,
        lab: &Lab,
        node: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<SystemTime> {
        self.earliest(lab, node, |flow| if wanted(flow) { ended(flow) } else { Ok(None) })
    }

    fn earliest(
        &self,
        lab: &Lab,
        node: &str,
        time: impl Fn(&Value) -> Result<Option<SystemTime>>,
    ) -> Result<SystemTime> {
        wait_for(&format!("such a flow on {node}"), Duration::from_secs(10), || {
            let flows = lab.adit(node, &["flows", "--limit", "4000"])?;
            let mut times = Vec::new();
            for flow in flows.as_array().into_iter().flatten() {
                times.extend(time(flow)?.filter(|time| *time >= self.began));
            }
            Ok(times.into_iter().min())
        })
    }
}

/// Whether the pod that called is called so, and asked for that port.
pub(crate) fn is_from(flow: &Value, pod: &str, port: u16) -> bool {
    flow["source"]["pod"]["name"] == pod && flow["destination"]["port"] == port
}
