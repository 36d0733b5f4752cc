//! Who may talk to whom.

use std::time::Duration;

use adit_e2e::wait::wait_for;
use anyhow::{Result, ensure};

use super::held::Held;
use super::opening::Opening;
use super::{SHOP, STREET};
use crate::flows::{Done, is_from};
use crate::lab::Lab;

pub(crate) fn strict(lab: &Lab) -> Result<String> {
    let (client, _) = lab.pod(SHOP, "client", "n1")?;
    let (_, server) = lab.pod(SHOP, "web", "n2")?;
    lab.get(STREET, "stranger", &url(&server))?;
    let seen = cuts_off(lab, STREET, "stranger", &server, "manifests/strict.yaml")?;
    lab.get(SHOP, &client, &url(&server))?;
    let_in_again(lab, STREET, "stranger", &server, "manifests/strict.yaml")?;
    Ok(seen)
}

/// By a policy with a selector.
pub(crate) fn deny(lab: &Lab) -> Result<String> {
    let (client, _) = lab.pod(SHOP, "client", "n1")?;
    let (_, server) = lab.pod(SHOP, "web", "n2")?;
    let seen = cuts_off(lab, SHOP, &client, &server, "manifests/deny-client.yaml")?;
    let (web, _) = lab.pod(SHOP, "web", "n2")?;
    let (from, to) = (format!("{SHOP}/{client}"), format!("{SHOP}/{web}:8080"));
    let questions: [&[&str]; 3] =
        [&["flows", "--verdict", "denied"], &["status"], &["explain", &from, &to]];
    for question in questions {
        let said = lab.adit("n2", question)?.to_string();
        let named = said.contains("AuthorizationPolicy shop/no-client rule 0");
        ensure!(named, "adit {} does not name the policy: {said}", question.join(" "));
    }
    let_in_again(lab, SHOP, &client, &server, "manifests/deny-client.yaml")?;
    Ok(seen)
}

/// What a policy does to a client of a server on n2: to a connection that is open, and to those that it opens.
fn cuts_off(
    lab: &Lab,
    namespace: &str,
    client: &str,
    server: &str,
    policy: &str,
) -> Result<String> {
    let opened = Opening::begin(lab, (namespace, client), server, ("20ms", 8))?;
    let held = Held::open(lab, namespace, client, server)?;
    let applied = Done::by(lab, &["apply", "-f", &lab.file(policy)])?;
    held.broke()?;
    let closed = applied.first_end(lab, "n2", |flow| is_from(flow, client, 9000))?;
    let refused = applied
        .first(lab, "n2", |flow| is_from(flow, client, 8080) && flow["verdict"] == "denied")?;
    opened.ended()?;
    ensure!(lab.get(namespace, client, &url(server)).is_err(), "let in by {policy}");
    let (refused, closed) = (applied.until(refused), applied.until(closed));
    Ok(format!("a new connection refused {refused}, an open one closed {closed}"))
}

fn let_in_again(
    lab: &Lab,
    namespace: &str,
    client: &str,
    server: &str,
    policy: &str,
) -> Result<()> {
    lab.kubectl(&["delete", "-f", &lab.file(policy)])?;
    wait_for(&format!("{client} to be let in again"), Duration::from_secs(15), || {
        Ok(lab.get(namespace, client, &url(server)).is_ok().then_some(()))
    })
}

fn url(server: &str) -> String {
    format!("http://{server}:8080/")
}
