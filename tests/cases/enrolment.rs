//! Labels that change while traffic flows.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use adit_e2e::wait::{SOON, wait_until};
use adit_e2e::{Pod, client, server};

use crate::support::Scene;

fn scene(ns: &str) -> Option<Scene> {
    Scene::shared("enrolment", ns)
}

/// Sends a line on an open connection and reads it back.
fn ping(mut stream: &TcpStream, text: &[u8]) {
    stream.write_all(text).unwrap();
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, text);
}

/// Opens short connections without pause while `change` happens, and says how many there were.
/// One that fails ends the case.
#[track_caller]
fn under_traffic(client: &Pod, to: SocketAddr, change: impl FnOnce(&AtomicUsize)) {
    let stop = AtomicBool::new(false);
    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            client.run(|| {
                while !stop.load(Ordering::Relaxed) {
                    client::echo(to, b"under traffic").unwrap();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let changed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| change(&done)));
        stop.store(true, Ordering::Relaxed);
        traffic.join().unwrap().unwrap();
        if let Err(panicked) = changed {
            std::panic::resume_unwind(panicked);
        }
    });
    assert!(done.load(Ordering::Relaxed) > 20, "too little traffic to say anything");
}

/// Lets some more connections come and go.
fn some_more(done: &AtomicUsize) {
    let before = done.load(Ordering::Relaxed);
    wait_until("more connections", SOON, || done.load(Ordering::Relaxed) > before + 20).unwrap();
}

#[track_caller]
fn newest_protocol(scene: &Scene, client: &Pod, server: &Pod) -> String {
    let (source, destination) = (client.full_name(), server.full_name());
    let flows = scene.cluster.agent(client.node()).flows().unwrap();
    let ours = flows
        .into_iter()
        .filter(|flow| flow.is("outbound", &source, &destination) && flow.end.is_some());
    ours.max_by_key(|flow| flow.id).unwrap().protocol
}

#[test]
fn a_namespace_opts_in_under_traffic_without_a_failed_connection() {
    let Some(scene) = scene("opt-in") else { return };
    let manifests = scene.cluster.manifests();
    manifests.namespace(&scene.ns, None).unwrap();
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();
    let older = client.connect(server.at4(8080)).unwrap();
    ping(&older, b"before");
    let capture = scene.cluster.capture().unwrap();

    under_traffic(&client, server.at4(8080), |done| {
        some_more(done);
        manifests.namespace(&scene.ns, Some("ambient")).unwrap();
        for pod in [&client, &server] {
            scene.cluster.wait_protocol(pod, "hbone").unwrap();
        }
        some_more(done);
    });

    assert_eq!(newest_protocol(&scene, &client, &server), "hbone");
    ping(&older, b"an older connection lives on");
    // As what it was: adit does not touch it.
    wait_until("the older connection on the wire", SOON, || {
        capture.has(b"an older connection lives on")
    })
    .unwrap();
}

#[test]
fn a_namespace_opts_out_under_traffic_without_a_failed_connection() {
    let Some(scene) = scene("opt-out") else {
        return;
    };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();
    let older = client.connect(server.at4(8080)).unwrap();
    ping(&older, b"before");
    let capture = scene.cluster.capture().unwrap();

    under_traffic(&client, server.at4(8080), |done| {
        some_more(done);
        scene.cluster.manifests().namespace(&scene.ns, None).unwrap();
        for pod in [&client, &server] {
            scene.cluster.wait_protocol(pod, "plaintext").unwrap();
        }
        some_more(done);
    });

    // Not a beginning of another case's marker: they share the wire.
    let tunnelled = b"what was tunnelled before stays in its tunnel";
    ping(&older, tunnelled);
    let marker = b"in the clear again";
    client.run(|| client::echo(server.at4(8080), marker)).unwrap().unwrap();
    let packets = capture.finish().unwrap();
    assert!(!packets.with(marker).is_empty());
    assert!(packets.with(tunnelled).is_empty());
}

#[test]
fn one_pod_opts_out_and_in_again_while_its_neighbours_stay() {
    let Some(scene) = scene("one-pod") else {
        return;
    };
    let (client, mut server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();
    let to = server.at4(8080);

    for (mode, protocol) in [(Some("none"), "plaintext"), (None, "hbone")] {
        under_traffic(&client, to, |done| {
            server.set_label("adit.dev/mode", mode).unwrap();
            scene.cluster.wait_protocol(&server, protocol).unwrap();
            some_more(done);
        });
        assert_eq!(newest_protocol(&scene, &client, &server), protocol);
    }
}

#[test]
fn a_withdrawn_pod_is_left_as_it_was_found() {
    let Some(scene) = scene("restored") else {
        return;
    };
    let state = |pod: &Pod| -> Vec<String> {
        let name = pod.netns().name();
        let rules = ["-4", "-6"]
            .map(|family| adit_e2e::netns::ip(&["-n", name, family, "rule", "show"]).unwrap());
        let routes = ["-4", "-6"].map(|family| {
            adit_e2e::netns::ip(&["-n", name, family, "route", "show", "table", "all"]).unwrap()
        });
        [rules, routes].concat()
    };
    scene.cluster.manifests().namespace(&scene.ns, None).unwrap();
    let (client, server) = scene.pair();
    let before = state(&client);

    scene.cluster.manifests().namespace(&scene.ns, Some("ambient")).unwrap();
    scene.cluster.wait_protocol(&client, "hbone").unwrap();
    assert_ne!(state(&client), before);
    scene.cluster.manifests().namespace(&scene.ns, None).unwrap();
    scene.cluster.wait_protocol(&client, "plaintext").unwrap();
    scene.cluster.wait_settled(&client).unwrap();

    wait_until("the routes and rules of before", Duration::from_secs(5), || {
        state(&client) == before
    })
    .unwrap();
    drop(server);
}
