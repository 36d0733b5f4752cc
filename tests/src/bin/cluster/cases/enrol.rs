//! Opting in and out.

use std::process::Child;
use std::time::{Duration, Instant};

use adit_e2e::wait::{wait_for, wait_until};
use anyhow::{Context as _, Result, ensure};

use super::{PODS, SHOP, STREET};
use crate::lab::Lab;

/// A connection between two pods that is used for eight seconds.
struct Held(Child);

impl Held {
    fn open(lab: &Lab, client: &str, server: &str) -> Result<Self> {
        let to = format!("{server}:9000");
        lab.start_kubectl(&["-n", SHOP, "exec", client, "--", "/testapp", "hold", &to, "8s"])
            .map(Self)
    }

    /// Waits for its end. It must not have broken before.
    fn lived(self) -> Result<String> {
        let output = self.0.wait_with_output().context("the held connection")?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        ensure!(said.starts_with("echoes:"), "the connection that was open: {said}");
        Ok(said)
    }
}

pub(crate) fn label(lab: &Lab) -> Result<String> {
    let (client, _) = lab.pod(SHOP, "client", "n1")?;
    let (_, server) = lab.pod(SHOP, "web", "n2")?;
    // Connections that are open, and connections that are opened meanwhile.
    let held = Held::open(lab, &client, &server)?;
    let url = format!("http://{server}:8080/");
    let opened = lab.start_kubectl(&[
        "-n", SHOP, "exec", &client, "--", "/testapp", "every", "20ms", "8s", &url,
    ])?;
    wait_until("both to begin", Duration::from_secs(1), || false).unwrap_or(());
    let began = Instant::now();
    lab.kubectl(&["label", "namespace", SHOP, "adit.dev/mode=ambient"])?;
    lab.wait_enrolled(SHOP, PODS)?;
    let took = began.elapsed().as_secs_f32();
    let held = held.lived()?;
    let opened = opened.wait_with_output().context("the new connections")?;
    let opened = String::from_utf8_lossy(&opened.stdout).trim().to_owned();
    ensure!(opened.contains("failed=0"), "connections opened meanwhile: {opened}");
    Ok(format!("seen after {took:.2} s; open one: {held}; new ones: {opened}"))
}

pub(crate) fn new_pod(lab: &Lab) -> Result<String> {
    let began = Instant::now();
    lab.kubectl(&["apply", "-f", &lab.file("manifests/late.yaml")])?;
    for namespace in [SHOP, STREET] {
        lab.kubectl(&[
            "-n",
            namespace,
            "wait",
            "--for=condition=Ready",
            "pod/late",
            "--timeout=60s",
        ])?;
    }
    let took = began.elapsed().as_secs_f32();
    let address = lab.pod(SHOP, "late", "n1")?.1;
    let flows = wait_for("the first flow of the new pod", Duration::from_secs(10), || {
        let flows = lab.adit("n1", &["flows"])?;
        let of_pod = flows.as_array().into_iter().flatten();
        let of_pod = of_pod.filter(|flow| {
            flow["source"]["address"].as_str().is_some_and(|from| from.contains(&address))
                && flow["direction"] == "outbound"
        });
        let of_pod: Vec<String> =
            of_pod.map(|flow| flow["protocol"].as_str().unwrap_or_default().to_owned()).collect();
        Ok((!of_pod.is_empty()).then_some(of_pod))
    })?;
    ensure!(flows.iter().any(|protocol| protocol == "hbone"), "its flows went as {flows:?}");
    lab.kubectl(&["delete", "-f", &lab.file("manifests/late.yaml"), "--grace-period=1"])?;
    Ok(format!("ready after {took:.1} s"))
}

pub(crate) fn unlabel(lab: &Lab) -> Result<String> {
    let (client, _) = lab.pod(SHOP, "client", "n1")?;
    let (_, server) = lab.pod(SHOP, "web", "n2")?;
    let held = Held::open(lab, &client, &server)?;
    wait_until("it to begin", Duration::from_secs(1), || false).unwrap_or(());
    lab.kubectl(&["label", "namespace", SHOP, "adit.dev/mode-"])?;
    wait_for("no pod enrolled", Duration::from_secs(30), || {
        Ok((lab.enrolled(SHOP)? == 0).then_some(()))
    })?;
    lab.get(SHOP, &client, &format!("http://{server}:8080/"))?;
    let held = held.lived()?;
    Ok(held)
}
