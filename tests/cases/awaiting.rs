//! Pods that are to be enrolled and cannot be yet.

use std::io::Read as _;
use std::time::Duration;

use adit_e2e::agent::Setup;
use adit_e2e::{Node, PodSpec, client, server};
use serde_json::Value;

use crate::support::Scene;

/// The problems that `adit status` shows, of severity error.
fn errors(scene: &Scene, node: Node) -> Vec<String> {
    let status: Value = scene.cluster.agent(node).status().unwrap();
    let problems = status["problems"].as_array().cloned().unwrap_or_default();
    let errors = problems.iter().filter(|problem| problem["severity"] == "error");
    errors.map(|problem| problem["what"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_namespace_opted_in_while_the_ca_is_down_works_on_as_before_and_says_what_it_waits_for() {
    let setup = Setup { more: "tunnel: { connectTimeout: 2s }\n".to_owned(), ..Setup::default() };
    let Some(scene) = Scene::own_with(&setup, "in-mesh") else {
        return;
    };
    let [enrolled] = scene.pods([scene.pod("enrolled", Node::A)]);
    let manifests = scene.cluster.manifests();
    manifests.namespace("late", None).unwrap();
    let spec = |name, node| PodSpec::new("late", name, node);
    let [one, two] = scene.pods([spec("one", Node::A), spec("two", Node::B)]);
    let _echo = two.serve(8080, server::echo).unwrap();
    let _outside = enrolled.serve(8080, server::echo).unwrap();
    scene.cluster.ca().kill().unwrap();

    manifests.namespace("late", Some("ambient")).unwrap();
    for pod in [&one, &two] {
        scene.cluster.wait_state(pod, "awaiting_certificate").unwrap();
    }

    // What worked goes on working: among the pods that wait, and from them to the mesh.
    one.run(|| client::echo(two.at4(8080), b"as before")).unwrap().unwrap();
    one.run(|| client::echo(enrolled.at4(8080), b"as before")).unwrap().unwrap();
    let flow = scene.inbound(&one, &enrolled, 8080);
    assert_eq!(flow.protocol, "plaintext");
    // An enrolled pod's traffic is not let out in plaintext; the reason is the true one.
    let mut refused = enrolled.connect(two.at4(8080)).unwrap();
    refused.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    refused.read_to_end(&mut Vec::new()).unwrap_err();
    let flow = scene.outbound(&enrolled, &two, 8080);
    assert_eq!(flow.end.as_deref(), Some("destination_not_ready"));
    let told = errors(&scene, Node::B);
    assert!(
        told.iter().any(|what| what.contains("late/two waits for its first certificate")),
        "{told:?}"
    );

    scene.cluster.ca().start().unwrap();
    for pod in [&one, &two] {
        scene.cluster.wait_settled(pod).unwrap();
    }
    enrolled.run(|| client::echo(two.at4(8080), b"in a tunnel")).unwrap().unwrap();
    assert!(errors(&scene, Node::B).is_empty());
}

#[test]
fn a_second_agent_of_a_node_changes_nothing_and_says_who_is_there() {
    let Some(scene) = Scene::own("second-agent") else {
        return;
    };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();
    let agent = scene.cluster.agent(Node::A);

    // The same socket; then another one, with ports of its own, but the same pins.
    let same = agent.second(&[]).unwrap();
    assert!(same.contains("another agent answers there"), "{same}");
    let other = scene.cluster.run().directory().join("second.sock");
    let own = [
        ("socket", other.display().to_string()),
        ("metrics", "\"[::]:15920\"".to_owned()),
        ("readiness", "\"[::]:15921\"".to_owned()),
    ];
    let pins = agent.second(&own).unwrap();
    assert!(pins.contains("is in use by process"), "{pins}");

    assert!(errors(&scene, Node::A).is_empty(), "{:?}", errors(&scene, Node::A));
    client.run(|| client::echo(server.at4(8080), b"undisturbed")).unwrap().unwrap();
    assert_eq!(scene.outbound(&client, &server, 8080).protocol, "hbone");
}

#[test]
fn an_agent_with_other_pins_does_not_enrol_pods_that_a_dead_ones_programs_hold() {
    let Some(scene) = Scene::own("other-pins") else {
        return;
    };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();
    let agent = scene.cluster.agent(Node::A);
    agent.kill().unwrap();

    let other = format!("{}-other", agent.pins().display());
    agent.start_with_pins(std::path::Path::new(&other)).unwrap();
    scene.cluster.wait_state(&client, "failed").unwrap();

    let told = errors(&scene, Node::A);
    let help = format!("adit cleanup --pins {}", agent.pins().display());
    assert!(told.iter().any(|what| what.contains(&help)), "{told:?}");
    let files = agent.open_files().unwrap();
    assert!(files < 200, "{files} open files");
    // As it says: end it, clean up the old place, and start.
    agent.kill().unwrap();
    agent.cleanup(agent.pins()).unwrap();
    agent.start_with_pins(std::path::Path::new(&other)).unwrap();
    scene.cluster.wait_settled(&client).unwrap();
    client.run(|| client::echo(server.at4(8080), b"again")).unwrap().unwrap();
}
