//! Tunnels and peers that break in the middle of flows: noticed in time, told as what it was, never
//! made up for by a second connection to the application.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::time::{Duration, Instant};

use adit_e2e::agent::Setup;
use adit_e2e::cluster::TRUST_DOMAIN;
use adit_e2e::wait::{SOON, wait_for, wait_until};
use adit_e2e::{Node, Pod, client, server};
use http::{Method, Request};

use crate::peer::{Authority, Conduct, TunnelServer, Validity, ask, connect_to, dial, inside};
use crate::support::Scene;

/// PING after one second of silence, and one second for the answer.
fn impatient() -> Setup {
    let more = "tunnel: { pingInterval: 1s, pingTimeout: 1s, connectTimeout: 2s }
plaintext: { keepaliveTime: 1s, keepaliveInterval: 1s }
";
    Setup { more: more.to_owned(), ..Setup::default() }
}

/// A flow over which something went already.
#[track_caller]
fn talking(client: &Pod, server: &Pod) -> TcpStream {
    let mut stream = client.connect(server.at4(8080)).unwrap();
    stream.write_all(b"alive").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    stream
}

#[test]
fn when_the_peers_agent_is_killed_flows_end_as_lost_and_new_ones_take_a_new_tunnel() {
    let Some(scene) = Scene::own("peer-killed") else {
        return;
    };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();
    let mut stream = talking(&client, &server);
    let agent = scene.cluster.agent(Node::B);

    agent.kill().unwrap();
    let heard = client::heard(&mut stream);

    assert_eq!(heard, Err(io::ErrorKind::ConnectionReset));
    let flow = scene.outbound(&client, &server, 8080);
    assert_eq!(flow.end.as_deref(), Some("tunnel_lost"));
    agent.start().unwrap();
    scene.cluster.wait_settled(&server).unwrap();
    client.run(|| client::echo(server.at4(8080), b"a new tunnel")).unwrap().unwrap();
}

#[test]
fn a_link_that_goes_down_is_noticed_by_ping_and_one_that_comes_back_works_again() {
    let Some(scene) = Scene::own_with(&impatient(), "link-down") else {
        return;
    };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();
    let mut stream = talking(&client, &server);

    scene.cluster.cut(Node::B).unwrap();
    let cut = Instant::now();
    let heard = client::heard(&mut stream);
    let took = cut.elapsed();

    assert_eq!(heard, Err(io::ErrorKind::ConnectionReset));
    // pingInterval and pingTimeout are 2 s together; without them the kernel would try for minutes.
    assert!(took <= Duration::from_secs(15), "{took:?}");
    let agent = scene.cluster.agent(Node::A);
    let ended = |why: &'static str| {
        agent.wait_flow(why, move |flow| flow.to_port(8080) && flow.end.as_deref() == Some(why))
    };
    ended("tunnel_lost").unwrap();
    let during = client.run(|| client::echo(server.at4(8080), b"into the void")).unwrap();
    assert!(during.is_err());
    // How the kernel calls it depends on whether the neighbour was still known.
    let failed = agent.wait_flow("a flow that could not be connected", |flow| {
        let end = flow.end.as_deref().unwrap_or_default();
        flow.to_port(8080) && ["connect_timed_out", "connect_unreachable"].contains(&end)
    });
    assert_eq!(failed.unwrap().verdict, "failed");

    scene.cluster.mend(Node::B).unwrap();
    wait_until("a flow to get through", SOON, || {
        matches!(client.run(|| client::echo(server.at4(8080), b"back")), Ok(Ok(())))
    })
    .unwrap();
    ended("finished").unwrap();
}

#[test]
fn a_plaintext_peer_that_vanishes_is_noticed_by_keep_alive_in_both_directions() {
    let Some(scene) = Scene::own_with(&impatient(), "plaintext-vanished") else {
        return;
    };
    let [plain, meshed] = scene.pods([
        scene.pod("plain", Node::B).label("adit.dev/mode", "none"),
        scene.pod("meshed", Node::A),
    ]);
    let _plain = plain.serve(8080, server::echo).unwrap();
    let _meshed = meshed.serve(8081, server::echo).unwrap();
    let mut outbound = talking(&meshed, &plain);
    let mut inbound = plain.connect(meshed.at4(8081)).unwrap();
    inbound.write_all(b"alive").unwrap();
    inbound.read_exact(&mut [0; 5]).unwrap();

    plain.unplug().unwrap();

    let heard = client::heard(&mut outbound);
    assert_eq!(heard, Err(io::ErrorKind::ConnectionReset));
    let flow = scene.outbound(&meshed, &plain, 8080);
    assert_eq!(flow.end.as_deref(), Some("destination_silent"));
    let flow = scene.inbound(&plain, &meshed, 8081);
    assert_eq!(flow.end.as_deref(), Some("source_silent"));
}

/// An enrolled client, and a pod that plays its own node's agent with this conduct.
#[track_caller]
fn client_and_foreign_server(scene: &Scene, conduct: Conduct) -> (Pod, Pod, TunnelServer) {
    let [foreign, client] = scene
        .pods([scene.pod("foreign", Node::B).declared_on("node-c"), scene.pod("client", Node::A)]);
    let mesh = Authority::of_the_mesh(scene.cluster.ca().directory());
    let own = mesh.issue(&[&foreign.identity()], Validity::Now);
    let tunnel = TunnelServer::start_with(&foreign, own, conduct);
    (client, foreign, tunnel)
}

#[test]
fn a_request_that_the_peer_may_have_processed_is_not_sent_again() {
    let Some(scene) = Scene::shared("broken", "broke-off") else {
        return;
    };
    let (client, foreign, tunnel) = client_and_foreign_server(&scene, Conduct::BreakOff);

    let heard = client.run(|| client::echo(foreign.at4(8080), b"once")).unwrap();

    assert!(heard.is_err());
    let flow = scene.outbound(&client, &foreign, 8080);
    assert_eq!(flow.end.as_deref(), Some("tunnel_lost"));
    assert_eq!(tunnel.requests().len(), 1, "a second request is a second connection");
}

#[test]
fn a_request_that_the_peer_refused_unprocessed_is_sent_again() {
    let Some(scene) = Scene::shared("broken", "refused") else {
        return;
    };
    let (client, foreign, tunnel) = client_and_foreign_server(&scene, Conduct::RefuseFirst);

    client.run(|| client::echo(foreign.at4(8080), b"again")).unwrap().unwrap();

    assert_eq!(tunnel.requests().len(), 2);
    assert_eq!(scene.outbound(&client, &foreign, 8080).end.as_deref(), Some("finished"));
}

#[test]
fn after_a_peers_goaway_open_flows_finish_and_new_ones_take_a_new_tunnel() {
    let Some(scene) = Scene::shared("broken", "goaway") else {
        return;
    };
    let (client, foreign, tunnel) = client_and_foreign_server(&scene, Conduct::GoAway);
    let open = client.connect(foreign.at4(8080)).unwrap();
    wait_until("the first request", SOON, || tunnel.requests().len() == 1).unwrap();

    // The GOAWAY is under way: what is asked meanwhile may still be served on the first connection.
    wait_for("a request on a second connection", SOON, || {
        client.run(|| client::echo(foreign.at4(8080), b"another"))??;
        let again = tunnel.requests().iter().any(|request| request.connection > 0);
        Ok(again.then_some(()))
    })
    .unwrap();

    assert_eq!(client::exchange(open, b"not cut").unwrap(), b"not cut");
}

#[test]
fn a_malformed_request_is_answered_400_and_recorded_with_the_reason() {
    let Some(scene) = Scene::shared("broken", "malformed") else {
        return;
    };
    let [server, foreigner] = scene.pods([
        scene.pod("server", Node::B),
        scene.pod("foreigner", Node::A).label("adit.dev/mode", "none"),
    ]);
    let echo = server.serve(8080, server::echo).unwrap();
    let mesh = Authority::of_the_mesh(scene.cluster.ca().directory());
    let identity = format!("spiffe://{TRUST_DOMAIN}/ns/anywhere/sa/friend");
    let address = IpAddr::V4(server.v4());
    let get = Request::builder().method(Method::GET).uri("https://10.0.0.1:8080/");

    for (request, reason) in [
        (connect_to("a-name:8080"), "malformed_authority"),
        (connect_to("10.0.0.1:0"), "malformed_port"),
        (get, "malformed_method"),
    ] {
        let own = mesh.issue(&[&identity], Validity::Now);
        let request = request.body(()).unwrap();
        let (status, _) = inside(&foreigner, async move {
            ask(dial(address, Some(own)).await.unwrap(), request, b"").await.unwrap()
        });
        assert_eq!(status, 400);
        let flow = scene.cluster.agent(Node::B).wait_flow(reason, |flow| {
            flow.source.address == IpAddr::V4(foreigner.v4()) && flow.end.as_deref() == Some(reason)
        });
        let flow = flow.unwrap();
        assert_eq!(flow.verdict, "refused");
        assert_eq!(flow.source.identity.as_deref(), Some(&*identity));
        assert!(flow.destination.is(&server.full_name()));
    }
    assert_eq!(echo.connections(), 0);
}
