//! Virtual addresses of services: nothing but adit answers for them here.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use adit_e2e::cluster::vip;
use adit_e2e::manifest::{EndpointSpec, ServiceSpec};
use adit_e2e::wait::{SOON, wait_until};
use adit_e2e::{Node, Pod, client, server};

use crate::support::Scene;

fn scene(ns: &str) -> Option<Scene> {
    Scene::shared("services", ns)
}

fn endpoints(pod: &Pod, ready: bool, ports: &[(&str, u16)]) -> Vec<EndpointSpec> {
    let ports: Vec<(String, u16)> =
        ports.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect();
    [IpAddr::V4(pod.v4()), IpAddr::V6(pod.v6())]
        .map(|address| EndpointSpec { address, ready, ports: ports.clone() })
        .to_vec()
}

fn service(scene: &Scene, number: u8, ports: &[(&str, u16, &str)]) -> ServiceSpec {
    ServiceSpec {
        namespace: scene.ns.clone(),
        name: "svc".to_owned(),
        vips: vip(number).to_vec(),
        ports: ports
            .iter()
            .map(|(name, port, target)| ((*name).to_owned(), *port, (*target).to_owned()))
            .collect(),
        ..ServiceSpec::default()
    }
}

/// Writes the service and waits until the client reaches something behind it.
#[track_caller]
fn publish(scene: &Scene, service: &ServiceSpec, client: &Pod, port: u16) {
    scene.cluster.manifests().service(service).unwrap();
    for vip in &service.vips {
        let to = SocketAddr::new(*vip, port);
        wait_until("the service to be reachable", SOON, || {
            client.run(|| client::echo(to, b"there?")).unwrap().is_ok()
        })
        .unwrap();
    }
}

#[test]
fn a_service_address_leads_to_a_ready_endpoint_through_a_tunnel() {
    let Some(scene) = scene("vip") else { return };
    let [ready, unready, client] = scene.pods([
        scene.pod("ready", Node::B),
        scene.pod("unready", Node::B),
        scene.pod("client", Node::A),
    ]);
    let right = ready.serve(9000, server::echo).unwrap();
    let wrong = unready.serve(9000, server::echo).unwrap();
    let mut svc = service(&scene, 10, &[("web", 80, "9000")]);
    svc.endpoints = endpoints(&ready, true, &[("web", 9000)]);
    svc.endpoints.extend(endpoints(&unready, false, &[("web", 9000)]));

    publish(&scene, &svc, &client, 80);
    for vip in &svc.vips {
        for _ in 0..10 {
            let stream = client.connect(SocketAddr::new(*vip, 80)).unwrap();
            assert_eq!(stream.peer_addr().unwrap(), SocketAddr::new(*vip, 80));
            assert_eq!(client::exchange(stream, b"hi").unwrap(), b"hi");
        }
    }

    let flow = scene.outbound(&client, &ready, 9000);
    assert_eq!(flow.protocol, "hbone");
    let service = flow.service.map(|service| service.to_string());
    assert_eq!(service, Some(format!("{}/svc", scene.ns)));
    assert!(right.connections() >= 20);
    assert_eq!(wrong.connections(), 0);
    assert_eq!(right.clients(), [IpAddr::V4(client.v4()), IpAddr::V6(client.v6())]);
}

#[test]
fn each_port_of_a_service_leads_to_its_own_target_also_by_name() {
    let Some(scene) = scene("ports") else { return };
    let (client, server) = scene.pair();
    let web = server.serve(9001, server::echo).unwrap();
    let smtp = server.serve(9025, server::greet).unwrap();
    let mut svc = service(&scene, 11, &[("web", 80, "http-port"), ("mail", 25, "9025")]);
    svc.endpoints = endpoints(&server, true, &[("web", 9001), ("mail", 9025)]);

    publish(&scene, &svc, &client, 80);
    let stream = client.connect(SocketAddr::new(svc.vips[0], 25)).unwrap();
    let heard = client::exchange(stream, b"quit").unwrap();

    assert_eq!(heard, b"220 ready\nquit");
    assert_eq!(smtp.connections(), 1);
    assert!(web.connections() >= 2);
}

#[test]
fn a_port_that_the_service_does_not_have_is_refused_and_the_flow_says_so() {
    let Some(scene) = scene("no-such-port") else {
        return;
    };
    let (client, server) = scene.pair();
    let _web = server.serve(9001, server::echo).unwrap();
    let mut svc = service(&scene, 12, &[("web", 80, "9001")]);
    svc.endpoints = endpoints(&server, true, &[("web", 9001)]);
    publish(&scene, &svc, &client, 80);

    let to = SocketAddr::new(svc.vips[0], 81);
    assert!(client.run(|| client::echo(to, b"?")).unwrap().is_err());

    let source = client.full_name();
    let refused = scene.cluster.agent(Node::A).wait_flow("the refused flow", |flow| {
        flow.source.is(&source) && flow.end.as_deref() == Some("no_such_service_port")
    });
    assert_eq!(refused.unwrap().verdict, "refused");
}

#[test]
fn a_service_without_a_ready_endpoint_refuses_until_one_is_ready() {
    let Some(scene) = scene("no-endpoint") else {
        return;
    };
    let (client, server) = scene.pair();
    let _web = server.serve(9001, server::echo).unwrap();
    let mut svc = service(&scene, 13, &[("web", 80, "9001")]);
    svc.endpoints = endpoints(&server, true, &[("web", 9001)]);
    publish(&scene, &svc, &client, 80);

    svc.endpoints = endpoints(&server, false, &[("web", 9001)]);
    scene.cluster.manifests().service(&svc).unwrap();
    let to = SocketAddr::new(svc.vips[0], 80);
    wait_until("the service to refuse", SOON, || {
        client.run(|| client::echo(to, b"?")).unwrap().is_err()
    })
    .unwrap();

    let source = client.full_name();
    let refused = scene.cluster.agent(Node::A).wait_flow("the refused flow", |flow| {
        flow.source.is(&source) && flow.end.as_deref() == Some("no_ready_endpoint")
    });
    assert_eq!(refused.unwrap().verdict, "refused");
    svc.endpoints = endpoints(&server, true, &[("web", 9001)]);
    publish(&scene, &svc, &client, 80);
}

#[test]
fn a_client_stays_with_its_endpoint_when_the_service_asks_for_it() {
    let Some(scene) = scene("affinity") else {
        return;
    };
    let [one, two, client] = scene.pods([
        scene.pod("one", Node::A),
        scene.pod("two", Node::B),
        scene.pod("client", Node::A),
    ]);
    let at_one = one.serve(9001, server::echo).unwrap();
    let at_two = two.serve(9001, server::echo).unwrap();
    let mut svc = service(&scene, 14, &[("web", 80, "9001")]);
    svc.vips.truncate(1);
    svc.sticky = true;
    svc.endpoints = endpoints(&one, true, &[("web", 9001)]);
    svc.endpoints.extend(endpoints(&two, true, &[("web", 9001)]));
    publish(&scene, &svc, &client, 80);
    let before = (at_one.connections(), at_two.connections());

    for _ in 0..40 {
        client
            .connect(SocketAddr::new(svc.vips[0], 80))
            .map(|stream| client::exchange(stream, b"x"))
            .unwrap()
            .unwrap();
    }

    let after = (at_one.connections() - before.0, at_two.connections() - before.1);
    assert!(after == (40, 0) || after == (0, 40), "{after:?}");
}

#[test]
fn without_affinity_all_ready_endpoints_get_connections() {
    let Some(scene) = scene("spread") else { return };
    let [one, two, client] = scene.pods([
        scene.pod("one", Node::B),
        scene.pod("two", Node::B),
        scene.pod("client", Node::A),
    ]);
    let at_one = one.serve(9001, server::echo).unwrap();
    let at_two = two.serve(9001, server::echo).unwrap();
    let mut svc = service(&scene, 15, &[("web", 80, "9001")]);
    svc.endpoints = endpoints(&one, true, &[("web", 9001)]);
    svc.endpoints.extend(endpoints(&two, true, &[("web", 9001)]));
    publish(&scene, &svc, &client, 80);

    for _ in 0..60 {
        client
            .connect(SocketAddr::new(svc.vips[0], 80))
            .map(|stream| client::exchange(stream, b"x"))
            .unwrap()
            .unwrap();
    }

    assert!(at_one.connections() > 5, "{}", at_one.connections());
    assert!(at_two.connections() > 5, "{}", at_two.connections());
}

#[test]
fn a_pod_reaches_itself_through_a_service() {
    let Some(scene) = scene("hairpin") else {
        return;
    };
    let [pod] = scene.pods([scene.pod("pod", Node::A)]);
    let echo = pod.serve(9001, server::echo).unwrap();
    let mut svc = service(&scene, 16, &[("web", 80, "9001")]);
    svc.endpoints = endpoints(&pod, true, &[("web", 9001)]);

    publish(&scene, &svc, &pod, 80);

    assert!(echo.connections() >= 2);
}

#[test]
fn a_headless_service_is_reached_by_the_addresses_of_its_pods() {
    let Some(scene) = scene("headless") else {
        return;
    };
    let (client, server) = scene.pair();
    let _web = server.serve(9001, server::echo).unwrap();
    let mut svc = service(&scene, 17, &[("web", 9001, "9001")]);
    svc.vips.clear();
    svc.endpoints = endpoints(&server, true, &[("web", 9001)]);
    scene.cluster.manifests().service(&svc).unwrap();

    client.run(|| client::echo(server.at4(9001), b"direct")).unwrap().unwrap();

    let flow = scene.outbound(&client, &server, 9001);
    assert_eq!(flow.protocol, "hbone");
}

#[test]
fn an_address_of_a_service_network_that_no_service_has_is_not_answered_by_the_agent() {
    let Some(scene) = scene("no-service") else {
        return;
    };
    let [client] = scene.pods([scene.pod("client", Node::A)]);
    let to = SocketAddr::new(vip(250)[0], 80);

    let tried = client.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(2)));

    // The agent accepts in the destination's stead, finds no way, and says so by a reset.
    if let Ok(stream) = tried.unwrap() {
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        assert!(client::exchange(stream, b"?").is_err());
    }
    let source = client.full_name();
    let flow = scene
        .cluster
        .agent(Node::A)
        .wait_flow("the flow to nowhere", |flow| flow.source.is(&source) && flow.end.is_some());
    assert_eq!(flow.unwrap().verdict, "failed");
}
