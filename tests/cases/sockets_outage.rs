//! Connections while an agent is away.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use adit_e2e::wait::{SOON, wait_until};
use adit_e2e::{Node, client, server};

use crate::support::Scene;

const OUTAGE: Duration = Duration::from_secs(2);

#[test]
fn while_the_agent_is_dead_connections_of_both_families_wait_out_of_the_pod_and_into_it() {
    let Some(scene) = Scene::own("outage") else { return };
    let (client, server) = scene.pair();
    let _far = server.serve(8080, server::echo).unwrap();
    let near = client.serve(9090, server::echo).unwrap();
    let outside = scene.cluster.outside();
    let agent = scene.cluster.agent(Node::A);
    let marker = b"marker-51c7-out-of-the-pod";
    let capture = scene.cluster.capture().unwrap();

    agent.kill().unwrap();
    thread::scope(|scope| {
        let out = [server.at4(8080), server.at6(8080)].map(|to| {
            let client = &client;
            scope.spawn(move || client.run(|| client::echo(to, marker)).unwrap())
        });
        let into = [client.at4(9090), client.at6(9090)].map(|to| {
            scope.spawn(move || outside.run(|| client::echo(to, b"into the pod")).unwrap())
        });
        thread::sleep(OUTAGE); // The outage itself: there is no event to wait for.
        for waiting in out.iter().chain(&into) {
            assert!(!waiting.is_finished(), "refused, or through without an agent");
        }
        assert_eq!(near.connections(), 0);
        agent.start().unwrap();
        for waiting in out.into_iter().chain(into) {
            waiting.join().unwrap().unwrap();
        }
    });

    assert_eq!(scene.outbound(&client, &server, 8080).protocol, "hbone");
    assert_eq!(near.clients(), scene.cluster.outside_addresses());
    assert!(capture.finish().unwrap().with(marker).is_empty());
}

#[test]
fn a_call_to_a_pod_whose_agent_is_dead_waits_for_it() {
    let Some(scene) = Scene::own("far-outage") else { return };
    let (client, server) = scene.pair();
    let echo = server.serve(8080, server::echo).unwrap();
    let agent = scene.cluster.agent(Node::B);

    agent.kill().unwrap();
    thread::scope(|scope| {
        let calls = [server.at4(8080), server.at6(8080)].map(|to| {
            let client = &client;
            scope.spawn(move || client.run(|| client::echo(to, b"are you there?")).unwrap())
        });
        thread::sleep(OUTAGE); // As above.
        assert_eq!(echo.connections(), 0);
        agent.start().unwrap();
        for call in calls {
            call.join().unwrap().unwrap();
        }
    });

    assert_eq!(scene.outbound(&client, &server, 8080).protocol, "hbone");
}

/// As in an upgrade: the old agent lets its flows end and goes, the new one takes over. Every call that is
/// made meanwhile is answered.
#[test]
fn an_agent_that_is_replaced_under_load_costs_no_connection() {
    let Some(scene) = Scene::own("replaced") else { return };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();
    let destinations = [server.at4(8080), server.at6(8080)];
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let call = |to: SocketAddr| {
        let mut slowest = Duration::ZERO;
        while !stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            client::echo(to, b"under load")?;
            slowest = slowest.max(begun.elapsed());
            answered.fetch_add(1, Ordering::Relaxed);
        }
        anyhow::Ok(slowest)
    };

    let agent = scene.cluster.agent(Node::A);
    let calls = thread::scope(|scope| {
        let (client, call) = (&client, &call);
        let calls: Vec<_> = [destinations, destinations]
            .concat()
            .into_iter()
            .map(|to| scope.spawn(move || client.run(|| call(to)).unwrap()))
            .collect();
        for _ in 0..2 {
            let before = answered.load(Ordering::Relaxed);
            let more = || answered.load(Ordering::Relaxed) > before + 50;
            wait_until("calls to be answered", SOON, more).unwrap();
            assert!(agent.terminate(Duration::from_secs(40)).unwrap().success());
            agent.start().unwrap();
        }
        let before = answered.load(Ordering::Relaxed);
        let more = || answered.load(Ordering::Relaxed) > before + 50;
        let went_on = wait_until("calls to be answered again", SOON, more);
        stop.store(true, Ordering::Relaxed);
        let calls: Vec<_> = calls.into_iter().map(|call| call.join().unwrap()).collect();
        went_on.unwrap();
        calls
    });

    for call in calls {
        let slowest = call.unwrap();
        assert!(slowest < Duration::from_secs(20), "{slowest:?}");
    }
}
