//! Connections that a pod opens, one after the other, while something is done to them.

use std::process::Child;

use anyhow::{Context as _, Result, ensure};

use crate::lab::Lab;

/// They are under way.
pub(crate) struct Opening(Child);

impl Opening {
    /// From a pod to a server's port 8080, for `seconds`, with a pause after each.
    pub(crate) fn begin(
        lab: &Lab,
        (namespace, client): (&str, &str),
        server: &str,
        (pause, seconds): (&str, u32),
    ) -> Result<Self> {
        let (url, period) = (format!("http://{server}:8080/"), format!("{seconds}s"));
        let every =
            ["-n", namespace, "exec", client, "--", "/testapp", "every", pause, &period, &url];
        lab.start_kubectl(&every).map(Self)
    }

    /// Waits for their end: how many succeeded, failed, were not made at all, and how long one took at most.
    pub(crate) fn ended(self) -> Result<String> {
        let output = self.0.wait_with_output().context("the connections")?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// The same; none may have failed.
    pub(crate) fn none_failed(self) -> Result<String> {
        let seen = self.ended()?;
        ensure!(seen.contains("failed=0"), "connections opened meanwhile: {seen}");
        Ok(seen)
    }
}
