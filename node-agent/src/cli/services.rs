//! `adit services`.

use clap::Args;

use crate::admin::view::{EndpointView, ServicePortView, ServiceView};
use crate::cli::output::{self, Table, or_dash};
use crate::cli::{Context, Failed};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  adit services -n shop
  adit services -o wide         with endpoints")]
pub(super) struct ServicesArgs {
    /// Only services of this namespace
    #[arg(short, long)]
    namespace: Option<String>,
}

pub(super) async fn run(context: &mut Context<'_>, args: ServicesArgs) -> Result<(), Failed> {
    let mut list: Vec<ServiceView> = context.client.get("/v1/services").await?;
    let namespace = args.namespace.as_ref();
    list.retain(|service| namespace.is_none_or(|wanted| *wanted == service.namespace));
    output::list(context, "services", &list, |wide| table(&list, wide))
}

fn table(list: &[ServiceView], wide: bool) -> Table {
    let mut headers = vec!["NAMESPACE", "NAME", "ADDRESSES", "PORTS", "READY"];
    if wide {
        headers.extend(["AFFINITY", "ENDPOINTS"]);
    }
    let mut table = Table::new(&headers);
    for service in list {
        let ready = service.endpoints.iter().filter(|endpoint| endpoint.ready);
        let addresses = joined(service.addresses.iter().map(ToString::to_string));
        let mut row = vec![
            service.namespace.clone(),
            service.name.clone(),
            addresses.unwrap_or_else(|| "headless".to_owned()),
            or_dash(joined(service.ports.iter().map(port))),
            format!("{}/{}", ready.count(), service.endpoints.len()),
        ];
        if wide {
            let affinity = service.client_affinity_seconds;
            row.push(or_dash(affinity.map(|time| format!("client({time}s)"))));
            row.push(or_dash(joined(service.endpoints.iter().map(endpoint))));
        }
        table.push(row);
    }
    table
}

fn port(port: &ServicePortView) -> String {
    if port.name.is_empty() {
        port.port.to_string()
    } else {
        format!("{}:{}", port.name, port.port)
    }
}

fn endpoint(endpoint: &EndpointView) -> String {
    let who = match &endpoint.pod {
        Some(pod) => pod.to_string(),
        None => endpoint.address.to_string(),
    };
    if endpoint.ready { who } else { format!("{who}(not ready)") }
}

fn joined(parts: impl Iterator<Item = String>) -> Option<String> {
    let parts: Vec<String> = parts.collect();
    (!parts.is_empty()).then(|| parts.join(","))
}
