//! The harness itself: what the other cases rest on. These need no adit.

use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use adit_e2e::agent::Setup;
use adit_e2e::netns::ip;
use adit_e2e::wait::{SOON, wait_until};
use adit_e2e::{Cluster, Node, PodSpec, client, run, server};

use crate::peer::{Authority, TunnelServer, Validity, ask, connect_to, dial, inside};
use crate::support::can_run;

const HOLDER: &str = "E2E_HOLD_A_NETWORK";

fn network() -> Option<Cluster> {
    can_run(false).then(|| Cluster::network(&Setup::default()).unwrap())
}

#[test]
fn pods_reach_each_other_in_both_families_on_one_node_and_across_nodes() {
    let Some(cluster) = network() else { return };
    let [server, near, far] = cluster
        .unsettled_pods([
            PodSpec::new("plain", "server", Node::B),
            PodSpec::new("plain", "near", Node::B),
            PodSpec::new("plain", "far", Node::A),
        ])
        .unwrap();
    let echo = server.serve(8080, server::echo).unwrap();

    for pod in [&near, &far] {
        for to in [server.at4(8080), server.at6(8080)] {
            pod.run(|| client::echo(to, b"hello")).unwrap().unwrap();
        }
    }

    let (near4, near6, far4, far6) = (near.v4(), near.v6(), far.v4(), far.v6());
    let mut expected: [IpAddr; 4] = [near4.into(), near6.into(), far4.into(), far6.into()];
    expected.sort_unstable();
    assert_eq!(echo.clients(), expected);
}

#[test]
fn a_host_outside_reaches_pods_and_is_reached() {
    let Some(cluster) = network() else { return };
    let [pod] = cluster.unsettled_pods([PodSpec::new("plain", "pod", Node::A)]).unwrap();
    let _inside = pod.serve(80, server::echo).unwrap();
    let _outside = server::serve(cluster.outside(), 80, server::echo).unwrap();

    for address in cluster.outside_addresses() {
        pod.run(|| client::echo((address, 80).into(), b"out")).unwrap().unwrap();
    }
    for to in [pod.at4(80), pod.at6(80)] {
        cluster.outside().run(|| client::echo(to, b"in")).unwrap().unwrap();
    }
}

#[test]
fn a_capture_between_the_nodes_sees_what_is_sent_in_plaintext() {
    let Some(cluster) = network() else { return };
    let [server, pod] = cluster
        .unsettled_pods([
            PodSpec::new("plain", "server", Node::B),
            PodSpec::new("plain", "client", Node::A),
        ])
        .unwrap();
    let _echo = server.serve(8080, server::echo).unwrap();
    let capture = cluster.capture().unwrap();

    pod.run(|| client::echo(server.at4(8080), b"marker-in-the-clear")).unwrap().unwrap();

    let packets = capture.finish().unwrap();
    assert!(!packets.with(b"marker-in-the-clear").is_empty());
    assert!(packets.with(b"another-marker").is_empty());
}

#[test]
fn a_dropped_cluster_leaves_nothing_behind() {
    let Some(cluster) = network() else { return };
    let id = cluster.run().id().to_owned();
    let directory = cluster.run().directory().to_owned();
    let [_pod] = cluster.unsettled_pods([PodSpec::new("plain", "pod", Node::A)]).unwrap();
    assert!(ip(&["netns", "list"]).unwrap().contains(&id));

    drop(_pod);
    drop(cluster);

    assert!(!ip(&["netns", "list"]).unwrap().contains(&format!("adit-{id}-")));
    assert!(!directory.exists());
}

#[test]
fn a_deleted_pod_takes_its_veth_along_unless_a_socket_is_left_in_it() {
    let Some(cluster) = network() else { return };
    let [pod] = cluster.unsettled_pods([PodSpec::new("plain", "pod", Node::A)]).unwrap();
    let socket = pod.run(|| std::net::TcpListener::bind("127.0.0.1:0")).unwrap().unwrap();

    pod.delete().unwrap();

    assert!(pod.is_attached());
    drop(socket);
    wait_until("the veth to go", SOON, || !pod.is_attached()).unwrap();
}

#[test]
fn the_tunnel_client_and_the_tunnel_server_of_the_tests_understand_each_other() {
    let Some(cluster) = network() else { return };
    let [server, client] = cluster
        .unsettled_pods([
            PodSpec::new("plain", "server", Node::B),
            PodSpec::new("plain", "client", Node::A),
        ])
        .unwrap();
    let authority = Authority::stranger();
    let own = authority.issue(&[&server.identity()], Validity::Now);
    let tunnel = TunnelServer::start(&server, own, 200);
    let own = authority.issue(&[&client.identity()], Validity::Now);
    let (to, request) = (server.v6().into(), connect_to("192.0.2.1:80").body(()).unwrap());

    let answer = inside(&client, async move {
        let tls = dial(to, Some(own)).await.unwrap();
        ask(tls, request, b"through").await.unwrap()
    });

    assert_eq!(answer, (200, b"through".to_vec()));
    let heard = tunnel.requests();
    assert_eq!(heard.len(), 1);
    assert_eq!(heard[0].authority, "192.0.2.1:80");
    assert_eq!(heard[0].certificates, 2);
}

#[test]
fn what_a_killed_run_left_is_removed_by_the_next() {
    if !can_run(false) {
        return;
    }
    // This very case in another process holds a network, until it is killed.
    if std::env::var_os(HOLDER).is_some() {
        let cluster = Cluster::network(&Setup::default()).unwrap();
        let mut sleeper = cluster.outside().command("sleep").arg("600").spawn().unwrap();
        use std::io::Write as _;
        writeln!(std::io::stdout(), "HOLDS {} {}", cluster.run().id(), sleeper.id()).unwrap();
        sleeper.wait().unwrap();
        return;
    }
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "network::what_a_killed_run_left_is_removed_by_the_next"])
        .env(HOLDER, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let mut words = lines.map(Result::unwrap).filter_map(|line| {
        let (_, rest) = line.split_once("HOLDS ")?;
        let (id, pid) = rest.split_once(' ')?;
        Some((id.to_owned(), pid.to_owned()))
    });
    let (id, sleeper) = words.next().unwrap();
    assert!(Path::new("/proc").join(&sleeper).exists());

    holder.kill().unwrap();
    holder.wait().unwrap();
    run::sweep_dead().unwrap();

    assert!(!ip(&["netns", "list"]).unwrap().contains(&format!("adit-{id}-")));
    assert!(!Path::new("/run/adit-e2e").join(&id).exists());
    assert!(!Path::new("/proc").join(&sleeper).join("exe").exists());
}
