//! `adit version`.

use serde::Serialize;

use crate::admin::view::StatusView;
use crate::cli::output::{Format, whole};
use crate::cli::{Context, Failed};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    client: &'static str,
    agent: Option<String>,
}

pub(super) async fn run(context: &mut Context<'_>) -> Result<(), Failed> {
    let client = env!("CARGO_PKG_VERSION");
    let status = context.client.get::<StatusView>("/v1/status").await;
    if matches!(context.format, Format::Json | Format::Yaml) {
        let agent = status.ok().map(|status| status.node.version);
        return whole(context.format, context.out, &Versions { client, agent });
    }
    writeln!(context.out, "client  {client}")?;
    match status {
        Ok(status) => {
            let node = status.node;
            writeln!(context.out, "agent   {} ({})", node.version, node.name)?;
        }
        Err(error) => writeln!(context.out, "agent   unknown: {error}")?,
    }
    Ok(())
}
