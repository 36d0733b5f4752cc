//! NetworkPolicies of the cluster: adit does not enforce them, and tells of those that block its tunnels.

use adit_e2e::wait::{SOON, wait_for};
use adit_e2e::{Node, server};
use serde_json::Value;

use super::allowed;
use crate::support::Scene;

#[test]
fn explain_and_doctor_name_the_network_policy_that_blocks_tunnels_and_the_verdict_stays() {
    let Some(scene) = Scene::shared("policy", "network-policy") else { return };
    let [server, client] = scene.pods([scene.pod("server", Node::B), scene.pod("client", Node::A)]);
    let _echo = server.serve(8080, server::echo).unwrap();
    let (from, to) = (client.full_name(), format!("{}:8080", server.full_name()));
    let explain = |node| scene.cluster.agent(node).cli::<Value>(&["explain", &from, &to]);
    let before = explain(Node::A).unwrap();
    assert!(before["blocked"].is_null(), "{before}");

    let ns = &scene.ns;
    let file = format!("networkpolicy-{ns}");
    let text = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: http, namespace: {ns} }}\n\
         spec: {{ podSelector: {{}}, ingress: [ {{ ports: [ {{ port: 8080 }} ] }} ] }}\n"
    );
    scene.cluster.manifests().write(&file, &text).unwrap();
    for node in [Node::A, Node::B] {
        let after = wait_for("the policy", SOON, || {
            Ok(explain(node).ok().filter(|answer| !answer["blocked"].is_null()))
        });
        let after = after.unwrap();
        assert_eq!(after["verdict"], before["verdict"], "{after}");
        let blocked = &after["blocked"][0];
        assert_eq!(blocked["pod"]["name"], "server", "{after}");
        assert_eq!(
            (&blocked["direction"], &blocked["otherPorts"]),
            (&"ingress".into(), &true.into()),
            "{after}"
        );
        let text = scene.cluster.agent(node).cli_text(&["explain", &from, &to]).unwrap();
        let told =
            format!("NetworkPolicy {ns}/http blocks port 15008 into {ns}/server: the tunnel");
        assert!(text.contains(&told), "{text}");
    }
    let findings: Value = scene.cluster.agent(Node::B).cli(&["doctor"]).unwrap();
    let feature = format!("port 15008 into {ns}/server");
    let named = |finding: &&Value| finding["feature"] == *feature;
    let finding = findings.as_array().unwrap().iter().find(named);
    let found = finding.unwrap_or_else(|| panic!("{findings}"))["found"].as_str().unwrap();
    assert!(found.contains(&format!("NetworkPolicy {ns}/http")), "{found}");
    // Nothing enforces it here, and adit does not.
    allowed(client.netns(), server.at4(8080));

    scene.cluster.manifests().remove(&file).unwrap();
    wait_for("the policy to go", SOON, || {
        Ok(explain(Node::A).ok().filter(|answer| answer["blocked"].is_null()))
    })
    .unwrap();
}
