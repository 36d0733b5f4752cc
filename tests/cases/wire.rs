//! HBONE on the wire, as a foreign implementation meets it at either end.

use std::net::IpAddr;

use adit_e2e::{Node, Pod, client, server};
use http::{Method, Request};

use crate::peer::{Authority, TunnelServer, Validity, ask, connect_to, dial, inside};
use crate::support::Scene;

fn scene(ns: &str) -> Option<Scene> {
    Scene::shared("wire", ns)
}

/// An enrolled server with an echo, and a pod from which a foreign client dials.
#[track_caller]
fn server_and_foreigner(scene: &Scene) -> (Pod, Pod) {
    let [server, foreigner] = scene.pods([
        scene.pod("server", Node::B),
        scene.pod("foreigner", Node::A).label("adit.dev/mode", "none"),
    ]);
    (server, foreigner)
}

/// The answer to a request of a foreign client with a sound certificate.
#[track_caller]
fn answer(
    scene: &Scene,
    (foreigner, server): (&Pod, &Pod),
    to: IpAddr,
    request: Request<()>,
) -> (u16, Vec<u8>) {
    let mesh = Authority::of_the_mesh(scene.cluster.ca().directory());
    let own = mesh.issue(&["spiffe://cluster.local/ns/foreign/sa/client"], Validity::Now);
    assert!([IpAddr::V4(server.v4()), IpAddr::V6(server.v6())].contains(&to));
    inside(foreigner, async move {
        let tls = dial(to, Some(own)).await.unwrap();
        ask(tls, request, b"from afar").await.unwrap()
    })
}

#[test]
fn a_foreign_connect_is_answered_200_in_both_families_and_unknown_headers_are_ignored() {
    let Some(scene) = scene("foreign") else {
        return;
    };
    let (server, foreigner) = server_and_foreigner(&scene);
    let echo = server.serve(8080, server::echo).unwrap();

    for (to, authority) in [
        (IpAddr::V4(server.v4()), format!("{}:8080", server.v4())),
        (IpAddr::V6(server.v6()), format!("[{}]:8080", server.v6())),
    ] {
        let request = connect_to(&authority)
            .header("x-from-the-future", "\u{fe}whatever")
            .header("baggage", "not=what;you expect,,=")
            .header("forwarded", "for=unknown")
            .body(())
            .unwrap();
        let (status, text) = answer(&scene, (&foreigner, &server), to, request);
        assert_eq!((status, text), (200, b"from afar".to_vec()));
    }

    assert_eq!(echo.clients(), [IpAddr::V4(foreigner.v4()), IpAddr::V6(foreigner.v6())]);
}

#[test]
fn a_connect_for_an_address_of_another_pod_is_refused() {
    let Some(scene) = scene("foreign-authority") else {
        return;
    };
    let (server, foreigner) = server_and_foreigner(&scene);
    let [other] = scene.pods([scene.pod("other", Node::B)]);
    let echo = other.serve(8080, server::echo).unwrap();
    let (to, pair) = (IpAddr::V4(server.v4()), (&foreigner, &server));

    for authority in [
        other.at4(8080).to_string(),
        "127.0.0.1:8080".to_owned(),
        "server.example:8080".to_owned(),
        format!("{}:0", server.v4()),
    ] {
        let request = connect_to(&authority).body(()).unwrap();
        assert_eq!(answer(&scene, pair, to, request).0, 400, "{authority}");
    }

    assert_eq!(echo.connections(), 0);
}

#[test]
fn any_other_method_is_refused() {
    let Some(scene) = scene("method") else { return };
    let (server, foreigner) = server_and_foreigner(&scene);
    let echo = server.serve(8080, server::echo).unwrap();
    let (to, pair) = (IpAddr::V4(server.v4()), (&foreigner, &server));

    for method in [Method::GET, Method::POST, Method::OPTIONS] {
        let uri = format!("https://{}/", server.at4(8080));
        let request = Request::builder().method(&method).uri(uri).body(()).unwrap();
        let (status, _) = answer(&scene, pair, to, request);
        assert!((400..500).contains(&status), "{method}: {status}");
    }

    assert_eq!(echo.connections(), 0);
}

#[test]
fn a_connect_to_a_port_where_nothing_listens_is_answered_503() {
    let Some(scene) = scene("unavailable") else {
        return;
    };
    let (server, foreigner) = server_and_foreigner(&scene);

    let request = connect_to(&server.at4(8099).to_string()).body(()).unwrap();
    let (status, _) = answer(&scene, (&foreigner, &server), server.v4().into(), request);

    assert_eq!(status, 503);
    assert_eq!(scene.inbound(&foreigner, &server, 8099).end.as_deref(), Some("connect_refused"));
}

#[test]
fn what_adit_sends_to_a_foreign_server_is_hbone() {
    let Some(scene) = scene("sends") else { return };
    let [far, client] = scene.pods([
        scene.pod("far", Node::B).declared_on("node-c"),
        scene.pod("client", Node::A).label("version", "v7"),
    ]);
    let mesh = Authority::of_the_mesh(scene.cluster.ca().directory());
    let own = mesh.issue(&[&far.identity()], Validity::Now);
    let tunnel = TunnelServer::start(&far, own, 200);

    for to in [far.at4(8080), far.at6(8080)] {
        client.run(|| client::echo(to, b"hello")).unwrap().unwrap();
    }

    let heard = tunnel.requests();
    let expected = [format!("{}:8080", far.v4()), format!("[{}]:8080", far.v6())];
    assert_eq!(heard.iter().map(|one| one.authority.clone()).collect::<Vec<_>>(), expected);
    for (one, own) in heard.iter().zip([IpAddr::V4(client.v4()), IpAddr::V6(client.v6())]) {
        assert_eq!(one.method, Method::CONNECT);
        assert_eq!(one.sni, None);
        assert_eq!(one.alpn.as_deref(), Some(&b"h2"[..]));
        assert_eq!(one.group, Some(rustls::NamedGroup::X25519MLKEM768));
        assert!(one.certificates >= 1);
        let header = |name: &str| one.headers[name].to_str().unwrap().to_owned();
        let baggage = header("baggage");
        for part in [
            "k8s.cluster.name=e2e",
            "k8s.namespace.name=sends",
            "k8s.pod.name=client",
            "service.name=client",
            "service.version=v7",
        ] {
            assert!(baggage.split(',').any(|one| one.trim() == part), "{part} in {baggage}");
        }
        let forwarded = header("forwarded");
        let shown = match own {
            IpAddr::V4(v4) => format!("for={v4}"),
            IpAddr::V6(v6) => format!("for=\"[{v6}]\""),
        };
        assert!(forwarded.starts_with(&shown), "{forwarded}");
        let trace = header("traceparent");
        assert_eq!(trace.split('-').map(str::len).collect::<Vec<_>>(), [2, 32, 16, 2], "{trace}");
    }
}

#[test]
fn a_refusal_by_a_foreign_server_ends_the_flow_with_its_reason() {
    let Some(scene) = scene("refusals") else {
        return;
    };
    for (name, status, reason) in [
        ("denies", 401, "denied_by_peer"),
        ("fails", 503, "unavailable_at_peer"),
        ("rejects", 400, "rejected_by_peer_400"),
    ] {
        let client = format!("{name}-client");
        let [far, client] = scene
            .pods([scene.pod(name, Node::B).declared_on("node-c"), scene.pod(&client, Node::A)]);
        let mesh = Authority::of_the_mesh(scene.cluster.ca().directory());
        let own = mesh.issue(&[&far.identity()], Validity::Now);
        let _tunnel = TunnelServer::start(&far, own, status);

        assert!(client.run(|| client::echo(far.at4(8080), b"hello")).unwrap().is_err());

        assert_eq!(scene.outbound(&client, &far, 8080).end.as_deref(), Some(reason));
    }
}
