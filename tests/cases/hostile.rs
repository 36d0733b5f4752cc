//! Peers that are not who they should be. Every refusal has a twin that is accepted.

use std::net::IpAddr;

use adit_e2e::cluster::TRUST_DOMAIN;
use adit_e2e::view::Flow;
use adit_e2e::{Node, Pod, client, server};

use crate::peer::{Authority, Credentials, TunnelServer, Validity, ask, connect_to, dial, inside};
use crate::support::Scene;

fn scene(ns: &str) -> Option<Scene> {
    Scene::shared("hostile", ns)
}

fn identity(account: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/anywhere/sa/{account}")
}

/// An enrolled server, and a pod that is not enrolled and plays a client's agent.
#[track_caller]
fn server_and_intruder(scene: &Scene) -> (Pod, Pod) {
    let [server, intruder] = scene.pods([
        scene.pod("server", Node::B),
        scene.pod("intruder", Node::A).label("adit.dev/mode", "none"),
    ]);
    (server, intruder)
}

/// What came of it when the intruder asked for an echo with these credentials.
fn try_to_enter(intruder: &Pod, server: &Pod, own: Option<Credentials>) -> Result<Vec<u8>, String> {
    let (address, authority) = (IpAddr::V4(server.v4()), server.at4(8080).to_string());
    inside(intruder, async move {
        let tls = dial(address, own).await.map_err(|error| error.to_string())?;
        let request = connect_to(&authority).body(()).unwrap();
        match ask(tls, request, b"let me in").await {
            Ok((200, answer)) => Ok(answer),
            Ok((status, _)) => Err(format!("status {status}")),
            Err(error) => Err(error.to_string()),
        }
    })
}

#[track_caller]
fn refused_inbound(scene: &Scene, intruder: &Pod, server: &Pod, reason: &str) -> Flow {
    let from = IpAddr::V4(intruder.v4());
    let destination = server.full_name();
    let what = format!("a flow from {from} refused as {reason}");
    let flow = scene.cluster.agent(Node::B).wait_flow(&what, |flow| {
        flow.direction == "inbound"
            && flow.source.address == from
            && flow.destination.is(&destination)
            && flow.end.as_deref() == Some(reason)
    });
    flow.unwrap()
}

#[test]
fn a_client_of_the_mesh_is_let_in() {
    let Some(scene) = scene("sound-client") else {
        return;
    };
    let (server, intruder) = server_and_intruder(&scene);
    let _echo = server.serve(8080, server::echo).unwrap();
    let mesh = Authority::of_the_mesh(scene.cluster.ca().directory());

    let own = mesh.issue(&[&identity("friend")], Validity::Now);

    assert_eq!(try_to_enter(&intruder, &server, Some(own)), Ok(b"let me in".to_vec()));
    let flow = scene.inbound(&intruder, &server, 8080);
    assert_eq!(flow.source.identity, Some(identity("friend")));
    assert_eq!(flow.protocol, "hbone");
}

/// A client with these credentials is refused for this reason and hears nothing of the server.
#[track_caller]
fn a_client_is_refused(ns: &str, own: impl FnOnce(&Scene) -> Option<Credentials>, reason: &str) {
    let Some(scene) = scene(ns) else { return };
    let (server, intruder) = server_and_intruder(&scene);
    let echo = server.serve(8080, server::echo).unwrap();

    let entered = try_to_enter(&intruder, &server, own(&scene));

    assert!(entered.is_err(), "{entered:?}");
    let flow = refused_inbound(&scene, &intruder, &server, reason);
    assert_eq!(flow.verdict, "failed");
    assert_eq!(flow.source.identity, None);
    assert_eq!(echo.connections(), 0);
}

fn mesh(scene: &Scene) -> Authority {
    Authority::of_the_mesh(scene.cluster.ca().directory())
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    a_client_is_refused("no-certificate", |_| None, "tls_no_peer_certificate");
}

#[test]
fn a_client_whose_certificate_comes_from_a_stranger_is_refused() {
    let own = |_: &Scene| Some(Authority::stranger().issue(&[&identity("friend")], Validity::Now));
    a_client_is_refused("stranger", own, "tls_untrusted_issuer");
}

#[test]
fn a_client_of_another_trust_domain_is_refused() {
    let uri = "spiffe://elsewhere.example/ns/anywhere/sa/friend";
    let own = |scene: &Scene| Some(mesh(scene).issue(&[uri], Validity::Now));
    a_client_is_refused("other-domain", own, "tls_other_trust_domain");
}

#[test]
fn a_client_with_an_expired_certificate_is_refused() {
    let own = |scene: &Scene| Some(mesh(scene).issue(&[&identity("friend")], Validity::Past));
    a_client_is_refused("expired", own, "tls_certificate_expired");
}

#[test]
fn a_client_with_a_certificate_of_the_future_is_refused() {
    let own = |scene: &Scene| Some(mesh(scene).issue(&[&identity("friend")], Validity::Future));
    a_client_is_refused("future", own, "tls_certificate_not_yet_valid");
}

#[test]
fn a_client_without_a_spiffe_name_is_refused() {
    let own = |scene: &Scene| Some(mesh(scene).issue(&["https://example.org/me"], Validity::Now));
    a_client_is_refused("no-spiffe", own, "tls_not_spiffe");
}

#[test]
fn a_client_with_two_names_is_refused() {
    let own = |scene: &Scene| {
        Some(mesh(scene).issue(&[&identity("friend"), &identity("boss")], Validity::Now))
    };
    a_client_is_refused("two-names", own, "tls_not_spiffe");
}

/// A pod that the mesh believes to be enrolled on a node of its own, and that plays that node's
/// agent; and an enrolled client.
#[track_caller]
fn client_and_impostor(scene: &Scene) -> (Pod, Pod) {
    let [impostor, client] = scene
        .pods([scene.pod("impostor", Node::B).declared_on("node-c"), scene.pod("client", Node::A)]);
    (client, impostor)
}

#[test]
fn a_server_with_the_identity_that_discovery_gave_is_talked_to() {
    let Some(scene) = scene("sound-server") else {
        return;
    };
    let (client, impostor) = client_and_impostor(&scene);
    let own = mesh(&scene).issue(&[&impostor.identity()], Validity::Now);
    let tunnel = TunnelServer::start(&impostor, own, 200);

    client.run(|| client::echo(impostor.at4(8080), b"hello")).unwrap().unwrap();

    assert_eq!(tunnel.requests().len(), 1);
    assert_eq!(scene.outbound(&client, &impostor, 8080).protocol, "hbone");
}

/// A server with these credentials is refused for this reason and hears nothing of the client.
#[track_caller]
fn a_server_is_refused(ns: &str, own: impl FnOnce(&Scene) -> Credentials, reason: &str) {
    let Some(scene) = scene(ns) else { return };
    let (client, impostor) = client_and_impostor(&scene);
    let tunnel = TunnelServer::start(&impostor, own(&scene), 200);

    let heard = client.run(|| client::echo(impostor.at4(8080), b"secret")).unwrap();

    assert!(heard.is_err());
    let flow = scene.outbound(&client, &impostor, 8080);
    assert_eq!(flow.end.as_deref(), Some(reason));
    assert_eq!(flow.verdict, "failed");
    assert_eq!(tunnel.requests().len(), 0);
}

#[test]
fn a_server_with_another_identity_of_the_mesh_is_refused() {
    let own = |scene: &Scene| mesh(scene).issue(&[&identity("another")], Validity::Now);
    a_server_is_refused("wrong-identity", own, "tls_wrong_identity");
}

#[test]
fn a_server_of_another_trust_domain_is_refused() {
    let own = |scene: &Scene| {
        let uri = "spiffe://elsewhere.example/ns/server-domain/sa/impostor";
        mesh(scene).issue(&[uri], Validity::Now)
    };
    a_server_is_refused("server-domain", own, "tls_other_trust_domain");
}

#[test]
fn a_server_whose_certificate_comes_from_a_stranger_is_refused() {
    let own = |scene: &Scene| {
        let uri = format!("spiffe://{TRUST_DOMAIN}/ns/{}/sa/impostor", scene.ns);
        Authority::stranger().issue(&[&uri], Validity::Now)
    };
    a_server_is_refused("server-stranger", own, "tls_untrusted_issuer");
}

#[test]
fn a_server_with_an_expired_certificate_is_refused() {
    let own = |scene: &Scene| {
        let uri = format!("spiffe://{TRUST_DOMAIN}/ns/{}/sa/impostor", scene.ns);
        mesh(scene).issue(&[&uri], Validity::Past)
    };
    a_server_is_refused("server-expired", own, "tls_certificate_expired");
}
