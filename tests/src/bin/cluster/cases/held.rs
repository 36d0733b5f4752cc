//! A connection that stays open while something is done to it.

use std::process::Child;
use std::time::Duration;

use adit_e2e::wait::{wait_for, wait_until};
use anyhow::{Context as _, Result, ensure};

use crate::lab::Lab;

/// A connection from a pod to a server's echo, used ten times a second for eight seconds.
pub(crate) struct Held(Child);

impl Held {
    pub(crate) fn open(lab: &Lab, namespace: &str, client: &str, server: &str) -> Result<Self> {
        let to = format!("{server}:9000");
        let hold = ["-n", namespace, "exec", client, "--", "/testapp", "hold", &to, "8s"];
        let held = lab.start_kubectl(&hold).map(Self);
        // Nobody tells when kubectl has got that far.
        wait_until("it to begin", Duration::from_secs(1), || false).unwrap_or(());
        held
    }

    /// Waits for its end. It must not have broken before.
    pub(crate) fn lived(self) -> Result<String> {
        let said = self.ended()?;
        ensure!(said.starts_with("echoes:"), "the connection that was open: {said}");
        Ok(said)
    }

    /// Waits until it breaks, which it must.
    pub(crate) fn broke(mut self) -> Result<()> {
        wait_for("the open connection to be closed", Duration::from_secs(10), || {
            Ok(self.0.try_wait()?)
        })?;
        let said = self.ended()?;
        ensure!(said.starts_with("failed after"), "the connection that was open: {said}");
        ensure!(!said.starts_with("failed after 0 "), "it was never open: {said}");
        Ok(())
    }

    fn ended(self) -> Result<String> {
        let output = self.0.wait_with_output().context("the held connection")?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}
