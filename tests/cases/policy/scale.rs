//! Many policies arrive while traffic runs.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use adit_e2e::wait::wait_for;
use adit_e2e::{Node, client, server};

use super::{Open, measured};
use crate::support::Scene;

const POLICIES: usize = 5000;
const NAMESPACES: usize = 500;

/// Each with a few rules, all of other namespaces or letting everybody of this one in.
fn policies(ns: &str) -> String {
    let mut text = String::new();
    for n in 0..POLICIES {
        let own = n % 50 == 0;
        let namespace = if own { ns.to_owned() } else { format!("tenant-{}", n % NAMESPACES) };
        let _infallible = write!(
            text,
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {{ name: many-{n}, namespace: {namespace} }}\n\
             spec: {{ rules: [ {{ from: [ {{ source: {{ namespaces: [ {namespace} ] }} }} ] }},\n  \
             {{ from: [ {{ source: {{ principals: [ \"cluster.local/ns/a-{n}/*\" ], \
             notIpBlocks: [ 10.{}.0.0/16 ] }} }} ], \
             to: [ {{ operation: {{ ports: [ \"{}\" ] }} }} ] }} ] }}\n",
            n % 200,
            1 + n
        );
    }
    text
}

#[test]
fn five_thousand_policies_arrive_and_go_and_no_flow_fails() {
    let Some(scene) = Scene::own("many") else { return };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();
    let to = server.at4(8080);
    let mut open = Open::new(client.netns(), to);
    let (stop, flows) = (AtomicBool::new(false), AtomicUsize::new(0));
    let known = |count: usize| {
        let began = Instant::now();
        for agent in scene.cluster.agents() {
            let what = format!("{count} policies on {}", agent.node().name());
            wait_for(&what, Duration::from_secs(60), || {
                let status: serde_json::Value = agent.cli(&["status"])?;
                Ok((status["policies"]["total"] == count).then_some(()))
            })
            .unwrap();
        }
        began.elapsed()
    };
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            client.run(|| {
                while !stop.load(Ordering::Relaxed) {
                    client::echo(to, b"through all of it").unwrap();
                    flows.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let text = policies(&scene.ns);
        let manifests = scene.cluster.manifests();
        for _ in 0..2 {
            manifests.write("many", &text).unwrap();
            measured("5,000 policies loaded by both agents", known(POLICIES));
            open.beats();
            manifests.remove("many").unwrap();
            measured("5,000 policies removed by both agents", known(0));
        }
        stop.store(true, Ordering::Relaxed);
        traffic.join().unwrap().unwrap();
    });
    open.beats();
    assert!(flows.load(Ordering::Relaxed) > 20, "{flows:?}");
    for node in Node::ALL {
        let flows = scene.cluster.agent(node).flows().unwrap();
        let failed: Vec<_> = flows.iter().filter(|flow| flow.verdict != "allowed").collect();
        assert!(failed.is_empty(), "{failed:?}");
    }
}
