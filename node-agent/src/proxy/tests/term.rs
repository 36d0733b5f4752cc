//! Tunnels that outlive what proved their ends.

use adit_core::term::Outlived;

use super::*;
use crate::worker::TunnelStatus;

/// Short, but long enough to be renewed before its end.
const LIFETIME: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flow_goes_on_in_a_drained_tunnel_and_new_flows_go_into_one_with_new_certificates() {
    let hour = Duration::from_secs(3600);
    let scene = Scene::with(short(hour), short(hour)).await;
    let app = scene.application(80).await;
    let (mut old, (mut old_app, _)) = scene.flow(&app, 80).await;
    pass(&mut old, &mut old_app).await;
    let drained = |tunnels: &[TunnelStatus]| {
        tunnels.iter().any(|tunnel| !tunnel.accepting && tunnel.streams == 1)
    };
    for agent in [&scene.a, &scene.b] {
        wait_until(agent, |tunnels| tunnels.len() == 1 && drained(tunnels)).await;
    }
    pass(&mut old, &mut old_app).await;

    let (mut new, (mut new_app, _)) = scene.flow(&app, 80).await;
    pass(&mut new, &mut new_app).await;
    for agent in [&scene.a, &scene.b] {
        wait_until(agent, |tunnels| tunnels.len() >= 2 && drained(tunnels)).await;
    }

    pass(&mut old_app, &mut old).await;
    drop((old, old_app));
    for agent in [&scene.a, &scene.b] {
        wait_until(agent, |tunnels| tunnels.len() == 1).await;
    }
    pass(&mut new, &mut new_app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_accepting_end_ends_the_flows_of_a_tunnel_that_is_past_its_time() {
    let scene = Scene::with(short(Duration::from_secs(3600)), short(Duration::ZERO)).await;
    let app = scene.application(80).await;
    let (mut client, (mut server, _)) = scene.flow(&app, 80).await;
    pass(&mut client, &mut server).await;
    let [out, inn] = scene.ended().await;
    assert_eq!(inn.end, Some(CloseReason::TunnelOutlived(Outlived::Certificate)));
    assert_eq!(out.end, Some(CloseReason::ResetByDestination), "its own agent gives an hour");
    rest(&mut client).await.unwrap_err();
    rest(&mut server).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dialling_end_too_ends_the_flows_of_a_tunnel_that_is_past_its_time() {
    let scene = Scene::with(short(Duration::ZERO), short(Duration::from_secs(3600))).await;
    let app = scene.application(80).await;
    let (mut client, (mut server, _)) = scene.flow(&app, 80).await;
    pass(&mut client, &mut server).await;
    let [out, inn] = scene.ended().await;
    assert_eq!(out.end, Some(CloseReason::TunnelOutlived(Outlived::Certificate)));
    assert_eq!(inn.end, Some(CloseReason::ResetBySource));
    rest(&mut client).await.unwrap_err();
    rest(&mut server).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_whose_root_is_taken_out_of_the_bundle_is_cut_off_with_the_next_certificate() {
    let day = TestSettings::default();
    let scene = Scene::with(short(Duration::from_secs(3600)), day).await;
    let app = scene.application(80).await;
    let (mut client, (mut server, _)) = scene.flow(&app, 80).await;
    pass(&mut client, &mut server).await;

    // The server's agent keeps what it has for a day; the client's comes to know new roots only.
    scene.ca.replace_root();

    let out = scene.a.ended(Direction::Outbound).await;
    assert_eq!(out.end, Some(CloseReason::TunnelOutlived(Outlived::Trust)));
    rest(&mut client).await.unwrap_err();
    rest(&mut server).await.unwrap_err();
}

fn short(expired_grace: Duration) -> TestSettings {
    let settings = TestSettings { lifetime: LIFETIME, ..TestSettings::default() };
    let tunnel = tunnel::Settings { expired_grace, ..settings.tunnel };
    TestSettings { tunnel, ..settings }
}

async fn pass(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"hello").await.unwrap();
    let mut got = [0; 5];
    to.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello");
}

async fn wait_until(agent: &TestAgent, reached: impl Fn(&[TunnelStatus]) -> bool) {
    let reached = async {
        while !reached(&agent.workers.tunnels().await) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reached).await.unwrap();
}
