//! The directory of manifests, and what is wrong in it.

use std::fs;
use std::os::unix::fs::symlink;

use adit_e2e::process::Log;
use adit_e2e::wait::{SOON, wait_until};
use adit_e2e::{Node, client, server};

use crate::support::Scene;

/// Waits until a log has a line with all of these words.
#[track_caller]
fn wait_line(log: &Log, mark: u64, words: &[&str]) {
    wait_until(&format!("a log line with {words:?}"), SOON, || {
        let text = log.since(mark);
        text.lines().any(|line| words.iter().all(|word| line.contains(word)))
    })
    .unwrap();
}

#[test]
fn an_invalid_document_is_reported_with_its_place_and_everything_else_keeps_working() {
    let Some(scene) = Scene::own("invalid") else {
        return;
    };
    scene.cluster.tolerate("broken.yaml");
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();
    let log = scene.cluster.agent(Node::A).log();
    let mark = log.mark();

    let broken = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: beside-a-broken-one\n  labels: {adit.dev/mode: ambient}\n---\n\
        apiVersion: v1\nkind: Pod\nmetadata: {name: bad, namespace: invalid, uid: u1}\n\
        spec: {nodeName: node-a, containers: []}\nstatus: {podIP: \"not an address\"}\n---\n\
        kind: [what, is, this]\n";
    scene.cluster.manifests().write("broken", broken).unwrap();

    wait_line(log, mark, &["broken.yaml", "podIP"]);
    client.run(|| client::echo(server.at4(8080), b"fine")).unwrap().unwrap();
    // The sound document of the same file counts.
    let [beside] = scene.pods([adit_e2e::PodSpec::new("beside-a-broken-one", "pod", Node::A)]);
    scene.cluster.wait_state(&beside, "enrolled").unwrap();
    beside.run(|| client::echo(server.at4(8080), b"fine")).unwrap().unwrap();
}

#[test]
fn a_file_that_turns_invalid_keeps_its_last_good_state() {
    let Some(scene) = Scene::own("turned-invalid") else {
        return;
    };
    scene.cluster.tolerate(".yaml");
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();
    let log = scene.cluster.agent(Node::A).log();
    let mark = log.mark();

    let file = format!("namespace-{}", scene.ns);
    scene
        .cluster
        .manifests()
        .write(&file, "apiVersion: v1\nkind: Namespace\nmetadata: {{{")
        .unwrap();
    wait_line(log, mark, &[&format!("{file}.yaml")]);

    client.run(|| client::echo(server.at4(8080), b"still tunnelled")).unwrap().unwrap();
    assert_eq!(scene.outbound(&client, &server, 8080).protocol, "hbone");
}

#[test]
fn a_directory_swapped_by_a_symlink_as_a_config_map_is_followed() {
    let Some(scene) = Scene::own("swapped") else {
        return;
    };
    let manifests = scene.cluster.manifests().directory();
    let version = |number: u8, mode: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: mounted\n  labels: {{adit.dev/mode: \"{mode}\"}}\n"
        );
        let directory = manifests.join(format!("..{number}"));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("mounted.yaml"), text).unwrap();
        // As the kubelet does: a new link, renamed over the old one.
        symlink(format!("..{number}"), manifests.join("..data_tmp")).unwrap();
        fs::rename(manifests.join("..data_tmp"), manifests.join("..data")).unwrap();
    };
    version(1, "ambient");
    symlink("..data/mounted.yaml", manifests.join("mounted.yaml")).unwrap();
    let [pod] = scene.pods([adit_e2e::PodSpec::new("mounted", "pod", Node::A)]);
    scene.cluster.wait_state(&pod, "enrolled").unwrap();

    version(2, "none");

    scene.cluster.wait_state(&pod, "not_enrolled").unwrap();
}
