//! The fake steers connections as the kernel programs do.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use adit_core::enrolment::Step;
use adit_core::workload::PodUid;
use tokio::net::TcpStream;

use super::{Asked, FakeDatapath, FakeNetwork, FakePod};
use crate::datapath::{Datapath, OpenPod, PodSockets, PodTarget};

#[tokio::test]
async fn a_captured_connection_comes_to_each_worker_in_turn_with_its_original_destination() {
    let network = FakeNetwork::new();
    let pod = enrolled(&network, "127.20.0.1", 2).await;
    let listeners = pod.take_listeners();
    let sockets = pod.sockets();
    let mut seen = Vec::new();
    for port in [80, 81] {
        let destination = SocketAddr::new(ip("10.9.9.9"), port);
        let client = pod.connect(destination).await.unwrap();
        for (worker, listeners) in listeners.iter().enumerate() {
            if let Ok((accepted, peer)) = listeners.outbound.accept() {
                assert_eq!(peer, client.local_addr().unwrap());
                assert_eq!(peer.ip(), ip("127.20.0.1"));
                let original = original(&*sockets, accepted);
                seen.push((worker, original));
            }
        }
    }
    seen.sort_unstable();
    let workers: Vec<usize> = seen.iter().map(|(worker, _)| *worker).collect();
    assert_eq!(workers, [0, 1]);
    let mut ports: Vec<u16> = seen.iter().map(|(_, address)| address.port()).collect();
    ports.sort_unstable();
    assert_eq!(ports, [80, 81]);
}

#[tokio::test]
async fn a_connection_to_a_looked_up_pod_comes_to_the_listener_of_its_port() {
    let network = FakeNetwork::new();
    let pod = enrolled(&network, "10.1.0.1", 1).await;
    let [listeners] = &pod.take_listeners()[..] else {
        panic!("one worker");
    };
    for (port, listener) in [(15008, &listeners.hbone), (80, &listeners.plaintext)] {
        let destination = SocketAddr::new(ip("10.1.0.1"), port);
        let client = network.connect(ip("127.0.0.9"), destination).await.unwrap();
        let (accepted, peer) = listener.accept().unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        assert_eq!(original(&*pod.sockets(), accepted), destination);
    }
}

#[tokio::test]
async fn the_agent_reaches_the_application_with_the_clients_address() {
    let network = FakeNetwork::new();
    let pod = enrolled(&network, "10.1.0.1", 1).await;
    let (application, at) = server();
    let address = SocketAddr::new(ip("10.1.0.1"), 80);
    network.serve(address, at);
    let dial = pod.sockets().inward(ip("127.0.0.7"), address).unwrap();
    let _client = dial.connect().await.unwrap();
    let (_, peer) = application.accept().unwrap();
    assert_eq!(peer.ip(), ip("127.0.0.7"));
    let recorded = network.inward();
    assert_eq!(recorded.len(), 1);
    assert_eq!((recorded[0].source, recorded[0].destination), (ip("127.0.0.7"), address));
}

#[tokio::test]
async fn a_connection_of_a_pod_that_is_not_captured_goes_straight_to_its_destination() {
    let network = FakeNetwork::new();
    let pod = enrolled(&network, "10.1.0.1", 1).await;
    pod.undo(Step::Capture);
    let (there, at) = server();
    let address = SocketAddr::new(ip("10.2.0.1"), 80);
    network.serve(address, at);
    let client = pod.connect(address).await.unwrap();
    let (_, peer) = there.accept().unwrap();
    assert_eq!(peer, client.local_addr().unwrap());
}

#[tokio::test]
async fn a_connection_to_an_address_that_nobody_has_is_refused() {
    let network = FakeNetwork::new();
    let pod = enrolled(&network, "10.1.0.1", 1).await;
    let nowhere = SocketAddr::new(ip("10.3.0.1"), 80);
    let outward = pod.sockets().outward(nowhere).unwrap().connect().await;
    assert_eq!(outward.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let inward = pod.sockets().inward(ip("10.2.0.1"), nowhere).unwrap();
    let error = inward.connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_step_told_to_fail_fails_once() {
    let datapath = FakeDatapath::new(&FakeNetwork::new(), 1);
    let target = target("10.1.0.1");
    let open = Asked::Open(target.uid.clone());
    datapath.fail_once(open.clone());
    datapath.open(&target).await.unwrap_err();
    let pod = datapath.open(&target).await.unwrap();
    assert_eq!(datapath.take_asked(), [open.clone(), open]);
    assert!(datapath.pod(pod.uid()).is_some());
    drop(pod);
    assert!(datapath.pod(&target.uid).is_none());
}

async fn enrolled(network: &FakeNetwork, address: &str, workers: usize) -> Arc<FakePod> {
    let datapath = FakeDatapath::new(network, workers);
    let pod = datapath.open(&target(address)).await.unwrap();
    for step in Step::ALL {
        datapath.perform(&pod, step).await.unwrap();
    }
    assert_eq!(pod.standing(), Step::ALL);
    pod
}

fn target(address: &str) -> PodTarget {
    PodTarget {
        uid: PodUid::parse("p").unwrap(),
        addresses: vec![ip(address)],
        netns: PathBuf::from("/run/netns/p"),
    }
}

fn original(sockets: &dyn PodSockets, accepted: std::net::TcpStream) -> SocketAddr {
    accepted.set_nonblocking(true).unwrap();
    let accepted = TcpStream::from_std(accepted).unwrap();
    sockets.original_destination(&accepted).unwrap()
}

fn server() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
