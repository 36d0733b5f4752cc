//! A pod whose workload is compromised, against the policies of another one. Every refusal has a twin
//! that is let in.

use std::net::IpAddr;

use adit_e2e::cluster::TRUST_DOMAIN;
use adit_e2e::{Node, Pod, server};

use super::{allowed, apply, denied, refused};
use crate::peer::{Authority, Credentials, Validity, ask, connect_to, dial, inside};
use crate::support::Scene;

const AUTHORIZATION: &str = "AuthorizationPolicy";

fn scene(ns: &str) -> Option<Scene> {
    Scene::shared("policy", ns)
}

/// A server that takes nothing but tunnels of one service account; another pod of its node; and a
/// pod that is not enrolled and speaks HBONE for itself.
#[track_caller]
fn locked(scene: &Scene) -> [Pod; 3] {
    let pods = scene.pods([
        scene.pod("server", Node::B),
        scene.pod("neighbour", Node::B),
        scene.pod("intruder", Node::A).label("adit.dev/mode", "none"),
    ]);
    apply(scene, "PeerAuthentication", "default", "{ mtls: { mode: STRICT } }");
    let spec = format!(
        "{{ rules: [ {{ from: [ {{ source: {{ principals: [ {TRUST_DOMAIN}/ns/{}/sa/friend ] }} }} ] }} ] }}",
        scene.ns
    );
    apply(scene, AUTHORIZATION, "friends", &spec);
    pods
}

fn issue(scene: &Scene, trust_domain: &str, account: &str) -> Credentials {
    let mesh = Authority::of_the_mesh(scene.cluster.ca().directory());
    let uri = format!("spiffe://{trust_domain}/ns/{}/sa/{account}", scene.ns);
    mesh.issue(&[&uri], Validity::Now)
}

/// What the intruder gets that opens a tunnel to `to` and asks there for `authority`.
fn enter(
    intruder: &Pod,
    to: &Pod,
    own: Credentials,
    (authority, headers): (String, Vec<(&'static str, String)>),
) -> Result<u16, String> {
    let address = IpAddr::V4(to.v4());
    inside(intruder, async move {
        let tls = dial(address, Some(own)).await.map_err(|error| error.to_string())?;
        let mut request = connect_to(&authority);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let answer = ask(tls, request.body(()).unwrap(), b"let me in").await;
        answer.map(|(status, _)| status).map_err(|error| error.to_string())
    })
}

#[test]
fn a_port_under_strict_cannot_be_reached_in_plaintext() {
    let Some(scene) = scene("no-plaintext") else { return };
    let [server, _, intruder] = locked(&scene);
    let echo = server.serve(8080, server::echo).unwrap();
    refused(intruder.netns(), server.at4(8080));
    refused(intruder.netns(), server.at6(8080));
    assert_eq!(echo.connections(), 0);
    let own = issue(&scene, TRUST_DOMAIN, "friend");
    let request = (server.at4(8080).to_string(), Vec::new());
    assert_eq!(enter(&intruder, &server, own, request), Ok(200));
}

#[test]
fn a_connect_for_another_pod_than_the_one_dialled_is_refused() {
    let Some(scene) = scene("other-authority") else { return };
    let [server, neighbour, intruder] = locked(&scene);
    let echoes = [&server, &neighbour].map(|pod| pod.serve(8080, server::echo).unwrap());
    for authority in
        [neighbour.at4(8080).to_string(), "127.0.0.1:8080".to_owned(), "[::1]:8080".to_owned()]
    {
        let own = issue(&scene, TRUST_DOMAIN, "friend");
        let entered = enter(&intruder, &server, own, (authority.clone(), Vec::new()));
        assert_eq!(entered, Ok(400), "{authority}");
    }
    assert!(echoes.iter().all(|echo| echo.connections() == 0));
    let own = issue(&scene, TRUST_DOMAIN, "friend");
    let request = (server.at4(8080).to_string(), Vec::new());
    assert_eq!(enter(&intruder, &server, own, request), Ok(200));
}

#[test]
fn a_name_of_another_trust_domain_is_none_even_if_a_rule_fits_it() {
    let Some(scene) = scene("other-trust") else { return };
    let [server, _, intruder] = locked(&scene);
    let echo = server.serve(8080, server::echo).unwrap();
    apply(&scene, AUTHORIZATION, "everybody", "{ rules: [ {} ] }");
    let own = issue(&scene, "elsewhere.example", "friend");
    let request = (server.at4(8080).to_string(), Vec::new());
    let entered = enter(&intruder, &server, own, request.clone());
    assert!(entered.is_err(), "{entered:?}");
    assert_eq!(echo.connections(), 0);
    let own = issue(&scene, TRUST_DOMAIN, "anybody");
    assert_eq!(enter(&intruder, &server, own, request), Ok(200));
}

#[test]
fn headers_that_claim_another_source_change_no_verdict() {
    let Some(scene) = scene("headers") else { return };
    let [server, friend, intruder] = scene.pods([
        scene.pod("server", Node::B),
        scene.pod("friend", Node::A),
        scene.pod("intruder", Node::A).label("adit.dev/mode", "none"),
    ]);
    let echo = server.serve(8080, server::echo).unwrap();
    let spec = format!(
        "{{ rules: [ {{ from: [ {{ source: {{ ipBlocks: [ {} ] }} }} ] }} ] }}",
        friend.v4()
    );
    apply(&scene, AUTHORIZATION, "by-address", &spec);
    let claims = vec![
        ("forwarded", format!("for={};host=server", friend.v4())),
        ("x-forwarded-for", friend.v4().to_string()),
        (
            "baggage",
            format!(
                "k8s.cluster.name=e2e,k8s.namespace.name={},k8s.pod.name=friend,\
                 service.name=friend,source.principal={}",
                scene.ns,
                friend.identity()
            ),
        ),
    ];
    let own = issue(&scene, TRUST_DOMAIN, "friend");
    let request = (server.at4(8080).to_string(), claims);

    assert_eq!(enter(&intruder, &server, own, request), Ok(401));

    assert_eq!(echo.connections(), 0);
    let flow = denied(&scene, intruder.v4(), &server, 8080);
    assert_eq!(flow.source.address, IpAddr::V4(intruder.v4()));
    allowed(friend.netns(), server.at4(8080));
}
