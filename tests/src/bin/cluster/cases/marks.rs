//! What a pod may do to its own sockets.

use anyhow::Result;

use super::SHOP;
use crate::flows::{Done, is_from};
use crate::lab::Lab;

/// ztunnel's, those of adit's connect hook and of its connections into a pod, and every bit.
const MARKS: [&str; 4] = ["0x539", "0x111", "0x1111", "0xffffffff"];

/// A container's default capabilities allow to mark sockets (CAP_NET_RAW, since Linux 5.17).
pub(crate) fn no_way_out(lab: &Lab) -> Result<String> {
    let (client, _) = lab.pod(SHOP, "client", "n1")?;
    let (_, server) = lab.pod(SHOP, "web", "n2")?;
    let url = format!("http://{server}:8080/");
    for mark in MARKS {
        let exec = ["-n", SHOP, "exec", &client, "--", "/testapp", "marked", mark, &url];
        let asked = Done::by(lab, &exec)?;
        // Nothing else asks the server meanwhile: it is this one.
        asked
            .first(lab, "n1", |flow| is_from(flow, &client, 8080) && flow["protocol"] == "hbone")?;
    }
    Ok(format!("{} went through the tunnel all the same", MARKS.join(", ")))
}
