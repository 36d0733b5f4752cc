//! `adit tunnels`.

use std::time::SystemTime;

use crate::admin::view::TunnelView;
use crate::cli::output::{self, Table};
use crate::cli::{Context, Failed, span};

pub(super) async fn run(context: &mut Context<'_>) -> Result<(), Failed> {
    let list: Vec<TunnelView> = context.client.get("/v1/tunnels").await?;
    let now = context.now;
    output::list(context, "tunnels", &list, |wide| table(&list, wide, now))
}

fn table(list: &[TunnelView], wide: bool, now: SystemTime) -> Table {
    let mut headers = vec![
        "DIR",
        "LOCAL IDENTITY",
        "PEER IDENTITY",
        "PEER",
        "GROUP",
        "STREAMS",
        "TOTAL",
        "STATE",
        "AGE",
    ];
    if wide {
        headers.extend(["TLS", "CIPHER", "WORKER"]);
    }
    let mut table = Table::new(&headers);
    for tunnel in list {
        let state = if tunnel.accepting { "open" } else { "closing" };
        let mut row = vec![
            tunnel.direction.clone(),
            tunnel.local_identity.clone(),
            tunnel.peer_identity.clone(),
            tunnel.peer.to_string(),
            tunnel.tls.group.clone(),
            tunnel.streams.to_string(),
            tunnel.streams_total.to_string(),
            state.to_owned(),
            span::age(now, tunnel.since.0),
        ];
        if wide {
            row.push(tunnel.tls.version.clone());
            row.push(tunnel.tls.cipher.clone());
            row.push(tunnel.worker.to_string());
        }
        table.push(row);
    }
    table
}
