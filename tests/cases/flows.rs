//! What carries a flow, who is at its ends, and what is said of it.

use std::net::{IpAddr, SocketAddr};

use adit_e2e::view::Flow;
use adit_e2e::{Node, Pod, client, server};

use crate::support::Scene;

fn scene(ns: &str) -> Option<Scene> {
    Scene::shared("flows", ns)
}

#[track_caller]
fn assert_tunnelled(flow: &Flow, client: &Pod, server: &Pod) {
    assert_eq!(flow.protocol, "hbone", "{flow:?}");
    assert_eq!(flow.plaintext_reason, None);
    assert_eq!(flow.source.identity.as_deref(), Some(&*client.identity()));
    assert_eq!(flow.destination.identity.as_deref(), Some(&*server.identity()));
    assert_eq!(flow.verdict, "allowed");
    let tls = flow.tls.as_ref().unwrap();
    assert_eq!(tls.version, "TLSv1.3");
    assert_eq!(tls.group, "X25519MLKEM768");
    assert!(tls.cipher.starts_with("TLS_"), "{tls:?}");
}

#[test]
fn a_flow_between_nodes_is_tunnelled_and_both_agents_know_both_identities() {
    let Some(scene) = scene("between-nodes") else {
        return;
    };
    let (client, server) = scene.pair();
    let echo = server.serve(8080, server::echo).unwrap();

    client.run(|| client::echo(server.at4(8080), b"twelve bytes")).unwrap().unwrap();

    for flow in [scene.outbound(&client, &server, 8080), scene.inbound(&client, &server, 8080)] {
        assert_tunnelled(&flow, &client, &server);
        assert_eq!((flow.bytes_sent, flow.bytes_received), (12, 12));
        assert_eq!(flow.end.as_deref(), Some("finished"));
        assert_eq!(flow.source.address, IpAddr::V4(client.v4()));
        assert_eq!(flow.destination.address, IpAddr::V4(server.v4()));
    }
    assert_eq!(echo.clients(), [IpAddr::V4(client.v4())]);
}

#[test]
fn an_ipv6_flow_between_nodes_is_tunnelled() {
    let Some(scene) = scene("between-nodes-v6") else {
        return;
    };
    let (client, server) = scene.pair();
    let echo = server.serve(8080, server::echo).unwrap();

    client.run(|| client::echo(server.at6(8080), b"twelve bytes")).unwrap().unwrap();

    for flow in [scene.outbound(&client, &server, 8080), scene.inbound(&client, &server, 8080)] {
        assert_tunnelled(&flow, &client, &server);
        assert_eq!(flow.source.address, IpAddr::V6(client.v6()));
        assert_eq!(flow.destination.address, IpAddr::V6(server.v6()));
    }
    assert_eq!(echo.clients(), [IpAddr::V6(client.v6())]);
}

#[test]
fn a_flow_within_a_node_is_tunnelled_in_both_families() {
    let Some(scene) = scene("within-a-node") else {
        return;
    };
    let [server, client] = scene.pods([scene.pod("server", Node::A), scene.pod("client", Node::A)]);
    let echo = server.serve(8080, server::echo).unwrap();

    for to in [server.at4(8080), server.at6(8080)] {
        client.run(|| client::echo(to, b"near")).unwrap().unwrap();
    }

    assert_tunnelled(&scene.outbound(&client, &server, 8080), &client, &server);
    assert_tunnelled(&scene.inbound(&client, &server, 8080), &client, &server);
    assert_eq!(echo.clients(), [IpAddr::V4(client.v4()), IpAddr::V6(client.v6())]);
}

#[test]
fn pods_of_one_service_account_share_an_identity_and_can_talk() {
    let Some(scene) = scene("one-account") else {
        return;
    };
    let [server, client] = scene.pods([
        scene.pod("one", Node::B).service_account("same"),
        scene.pod("two", Node::A).service_account("same"),
    ]);
    let _echo = server.serve(8080, server::echo).unwrap();

    client.run(|| client::echo(server.at4(8080), b"hello, me")).unwrap().unwrap();

    let flow = scene.outbound(&client, &server, 8080);
    assert_eq!(flow.source.identity, flow.destination.identity);
}

#[test]
fn a_destination_whose_namespace_is_not_labelled_is_reached_in_plaintext_and_the_flow_says_why() {
    let Some(scene) = scene("to-unlabelled") else {
        return;
    };
    scene.cluster.manifests().namespace("unlabelled", None).unwrap();
    let [server, client] = scene.pods([
        adit_e2e::PodSpec::new("unlabelled", "server", Node::B),
        scene.pod("client", Node::A),
    ]);
    let echo = server.serve(8080, server::echo).unwrap();

    for to in [server.at4(8080), server.at6(8080)] {
        client.run(|| client::echo(to, b"in the clear")).unwrap().unwrap();
    }

    let flow = scene.outbound(&client, &server, 8080);
    assert_eq!(flow.protocol, "plaintext");
    assert_eq!(flow.plaintext_reason.as_deref(), Some("destination_namespace_not_labelled"));
    assert_eq!(flow.verdict, "allowed");
    assert!(flow.tls.is_none());
    assert_eq!(echo.clients(), [IpAddr::V4(client.v4()), IpAddr::V6(client.v6())]);
}

#[test]
fn a_pod_that_opted_out_is_reached_in_plaintext_and_the_flow_says_why() {
    let Some(scene) = scene("to-opted-out") else {
        return;
    };
    let [server, client] = scene.pods([
        scene.pod("server", Node::B).label("adit.dev/mode", "none"),
        scene.pod("client", Node::A),
    ]);
    let _echo = server.serve(8080, server::echo).unwrap();

    client.run(|| client::echo(server.at4(8080), b"in the clear")).unwrap().unwrap();

    let flow = scene.outbound(&client, &server, 8080);
    assert_eq!(flow.protocol, "plaintext");
    assert_eq!(flow.plaintext_reason.as_deref(), Some("destination_opted_out"));
}

#[test]
fn a_destination_outside_the_cluster_is_reached_in_plaintext_from_the_pods_own_address() {
    let Some(scene) = scene("to-outside") else {
        return;
    };
    let [client] = scene.pods([scene.pod("client", Node::A)]);
    let echo = server::serve(scene.cluster.outside(), 8081, server::echo).unwrap();

    for address in scene.cluster.outside_addresses() {
        let to = SocketAddr::new(address, 8081);
        client.run(|| client::echo(to, b"out")).unwrap().unwrap();
    }

    let what = "plaintext flows to an unknown destination";
    let source = client.full_name();
    let flow = scene.cluster.agent(Node::A).wait_flow(what, |flow| {
        flow.source.is(&source) && flow.to_port(8081) && flow.end.is_some()
    });
    let flow = flow.unwrap();
    assert_eq!(flow.protocol, "plaintext");
    assert_eq!(flow.plaintext_reason.as_deref(), Some("unknown_destination"));
    assert_eq!(echo.clients(), [IpAddr::V4(client.v4()), IpAddr::V6(client.v6())]);
}

#[test]
fn plaintext_from_outside_to_an_enrolled_pod_is_delivered_and_recorded() {
    let Some(scene) = scene("from-outside") else {
        return;
    };
    let [server] = scene.pods([scene.pod("server", Node::B)]);
    let echo = server.serve(8082, server::echo).unwrap();
    let outside = scene.cluster.outside();

    for to in [server.at4(8082), server.at6(8082)] {
        outside.run(|| client::echo(to, b"in")).unwrap().unwrap();
    }

    let destination = server.full_name();
    let flow = scene.cluster.agent(Node::B).wait_flow("a plaintext flow from outside", |flow| {
        flow.direction == "inbound" && flow.destination.is(&destination) && flow.end.is_some()
    });
    let flow = flow.unwrap();
    assert_eq!(flow.protocol, "plaintext");
    assert_eq!(flow.plaintext_reason.as_deref(), Some("unknown_source"));
    assert_eq!(flow.source.identity, None);
    let mut expected = scene.cluster.outside_addresses();
    expected.sort_unstable();
    assert_eq!(echo.clients(), expected);
}

#[test]
fn plaintext_from_a_pod_that_is_not_enrolled_is_delivered_and_recorded_with_the_reason() {
    let Some(scene) = scene("from-opted-out") else {
        return;
    };
    let [server, client] = scene.pods([
        scene.pod("server", Node::B),
        scene.pod("client", Node::A).label("adit.dev/mode", "none"),
    ]);
    let echo = server.serve(8080, server::echo).unwrap();

    client.run(|| client::echo(server.at4(8080), b"in")).unwrap().unwrap();

    let flow = scene.inbound(&client, &server, 8080);
    assert_eq!(flow.protocol, "plaintext");
    assert_eq!(flow.plaintext_reason.as_deref(), Some("source_opted_out"));
    assert_eq!(flow.source.identity, None);
    assert_eq!(echo.clients(), [IpAddr::V4(client.v4())]);
}

#[test]
fn the_tunnel_of_a_flow_is_shown_at_both_ends_with_both_identities() {
    let Some(scene) = scene("tunnels") else {
        return;
    };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();

    client.run(|| client::echo(server.at4(8080), b"hello")).unwrap().unwrap();

    for (node, direction, local, peer) in
        [(Node::A, "outbound", &client, &server), (Node::B, "inbound", &server, &client)]
    {
        let tunnels = scene.cluster.agent(node).tunnels().unwrap();
        let found = tunnels.iter().find(|tunnel| {
            tunnel.direction == direction
                && tunnel.local_identity == local.identity()
                && tunnel.peer_identity == peer.identity()
        });
        assert!(found.is_some_and(|tunnel| tunnel.streams_total >= 1), "{tunnels:?}");
    }
}

#[test]
fn a_second_flow_of_the_same_pods_uses_the_tunnel_of_the_first() {
    let Some(scene) = scene("reuse") else { return };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();

    for _ in 0..20 {
        client.run(|| client::echo(server.at4(8080), b"hello")).unwrap().unwrap();
    }

    let tunnels = scene.cluster.agent(Node::A).tunnels().unwrap();
    let ours = tunnels.iter().filter(|tunnel| {
        tunnel.direction == "outbound" && tunnel.peer_identity == server.identity()
    });
    // One for each worker that took one of the connections.
    let count = ours.count();
    assert!((1..=4).contains(&count), "{count} tunnels for 20 flows");
}
