//! `kubectl debug`: a container that joins a pod which runs already.

use std::time::Duration;

use adit_e2e::wait::wait_for;
use anyhow::{Result, ensure};

use super::SHOP;
use crate::flows::{Done, is_from};
use crate::lab::Lab;

pub(crate) fn container(lab: &Lab) -> Result<String> {
    let (client, own) = lab.pod(SHOP, "client", "n1")?;
    let (_, server) = lab.pod(SHOP, "web", "n2")?;
    let url = format!("http://{server}:8080/");
    let image = "--image=local.test/testapp:1";
    let options = [image, "--image-pull-policy=Never", "--container=look", "--profile=general"];
    let command = ["--", "/testapp", "get", &url, "10s"];
    let debug = [&["-n", SHOP, "debug", &client], &options[..], &command[..]].concat();
    let asked = Done::by(lab, &debug)?;
    let said = wait_for("the ephemeral container's answer", Duration::from_secs(30), || {
        let said = lab.kubectl(&["-n", SHOP, "logs", &client, "-c", "look"])?;
        Ok((!said.is_empty()).then_some(said))
    })?;
    ensure!(said.contains(&format!("remote={own}:")), "{said}");
    asked.first(lab, "n1", |flow| is_from(flow, &client, 8080) && flow["protocol"] == "hbone")?;
    Ok("its connections are its pod's".to_owned())
}
