//! How fast enrolled pods talk, beside pods that are not: reported, and no reason to fail. What is built without
//! optimisation (`--dev`) is slow; docs/performance.md has figures.

use anyhow::{Context as _, Result};

use super::{SHOP, STREET};
use crate::lab::Lab;

const ROUNDS: usize = 3;

pub(crate) fn beside_plaintext(lab: &Lab) -> Result<String> {
    let manifest = lab.file("manifests/plain.yaml");
    lab.kubectl(&["apply", "-f", &manifest])?;
    for pod in ["pod/near", "pod/far"] {
        lab.kubectl(&["-n", STREET, "wait", "--for=condition=Ready", pod, "--timeout=60s"])?;
    }
    let (client, _) = lab.pod(SHOP, "client", "n1")?;
    let mut seen = Vec::new();
    for (path, plain, node) in [("across nodes", "far", "n2"), ("on one node", "near", "n1")] {
        let (_, plain) = lab.pod(STREET, plain, node)?;
        let (_, tunnelled) = lab.pod(SHOP, "web", node)?;
        let mut medians = [(STREET, "stranger", plain), (SHOP, &client, tunnelled)].map(
            |(namespace, client, server)| Rounds { namespace, client, server, ..Rounds::default() },
        );
        for _ in 0..ROUNDS {
            for rounds in &mut medians {
                rounds.one(lab)?;
            }
        }
        let [without, with] = medians.map(Rounds::median);
        seen.push(format!(
            "{path}: a request takes {:.0} µs, {:.0} without adit; one stream carries {:.2} of {:.0} MB/s",
            with.0, without.0, with.1 / without.1, without.1
        ));
    }
    lab.kubectl(&["delete", "-f", &manifest, "--grace-period=1"])?;
    Ok(seen.join("; "))
}

/// Of one client and one server.
#[derive(Default)]
struct Rounds<'a> {
    namespace: &'a str,
    client: &'a str,
    server: String,
    /// Median time of a request, in µs, and MB/s of one stream; a pair for each round.
    latency: Vec<f64>,
    bulk: Vec<f64>,
}

impl Rounds<'_> {
    fn one(&mut self, lab: &Lab) -> Result<()> {
        let ask = |command: &str, port: u16, amount: &str| {
            let address = format!("{}:{port}", self.server);
            let said =
                lab.exec(self.namespace, self.client, &["/testapp", command, &address, amount])?;
            said.trim().parse::<f64>().with_context(|| format!("{command}: {said}"))
        };
        let (latency, bulk) = (ask("latency", 9000, "2000")?, ask("bulk", 9001, "1s")?);
        self.latency.push(latency);
        self.bulk.push(bulk);
        Ok(())
    }

    fn median(mut self) -> (f64, f64) {
        let middle = |values: &mut Vec<f64>| {
            values.sort_unstable_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
        };
        (middle(&mut self.latency), middle(&mut self.bulk))
    }
}
