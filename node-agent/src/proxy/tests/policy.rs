//! What becomes of flows that policy does not permit: new ones, open ones, and ones in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use adit_core::policy::spec::{AuthorizationPolicySpec, RuleSpec};
use adit_core::policy::{AuthorizationPolicy, Denied, PolicyId, PolicyKind};
use adit_core::workload::ObjectName;
use tokio::task::JoinSet;

use super::*;
use crate::datapath::fake::FakePod;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_a_reset_at_once_and_both_agents_know_it() {
    let scene = Scene::new().await;
    let app = scene.application(80).await;
    scene.b.worlds.publish([policy("nothing", "ALLOW", Vec::new())]);

    let mut client = scene.client.connect(at(SERVER, 80)).await.unwrap();
    let seen = rest(&mut client).await.unwrap_err();

    assert_eq!(seen.kind(), std::io::ErrorKind::ConnectionReset);
    let [out, inn] = scene.ended().await;
    assert_eq!(out.end, Some(CloseReason::Rejected(401)));
    assert_eq!(inn.end, Some(CloseReason::Denied(Denied::NoRule)));
    let by = inn.grounds.unwrap().by.clone().unwrap();
    assert_eq!(by.policy.to_string(), "AuthorizationPolicy shop/nothing");
    drop(app);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_flow_that_is_no_longer_permitted_ends_with_a_reset_and_both_agents_know_why() {
    let scene = Scene::new().await;
    let app = scene.application(80).await;
    let (mut client, (mut server, _)) = scene.flow(&app, 80).await;
    client.write_all(b"!").await.unwrap();
    server.read_exact(&mut [0]).await.unwrap();

    scene.b.worlds.publish([policy("all", "DENY", vec![RuleSpec::default()])]);

    for end in [&mut client, &mut server] {
        let seen = rest(end).await.unwrap_err();
        assert_eq!(seen.kind(), std::io::ErrorKind::ConnectionReset);
    }
    let [out, inn] = scene.ended().await;
    assert_eq!((out.end, out.sent), (Some(CloseReason::Rejected(401)), 1));
    assert_eq!(inn.end, Some(CloseReason::Denied(Denied::ByRule)));
    assert_eq!(inn.sent, 1);
    assert_eq!(inn.grounds.unwrap().by.clone().unwrap().rule, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_allows_disturbs_no_open_flow() {
    let scene = Scene::new().await;
    let app = scene.application(80).await;
    let (mut client, (mut server, _)) = scene.flow(&app, 80).await;
    for round in 0..20 {
        let rules = vec![RuleSpec::default(); 1 + round];
        scene.b.worlds.publish([policy("all", "ALLOW", rules)]);
        client.write_all(b"!").await.unwrap();
        server.read_exact(&mut [0]).await.unwrap();
    }
    // The open flow is decided on again soon after the policy is there, not before its bytes pass.
    let decided = async {
        loop {
            let flows = scene.b.workers.flows().await;
            let grounds = flows.first().expect("the flow is open").grounds.as_ref();
            if let Some(by) = grounds.and_then(|grounds| grounds.by.clone()) {
                break by;
            }
            tokio::task::yield_now().await;
        }
    };
    let by = tokio::time::timeout(Duration::from_secs(10), decided).await.expect("a decision");
    assert_eq!(by.policy.to_string(), "AuthorizationPolicy shop/all");
}

/// Clients open flows without a pause while a policy arrives that permits none of them. Whatever was
/// accepted before, during and after it: none of them lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_flow_that_is_accepted_while_a_policy_arrives_escapes_it() {
    let scene = Scene::new().await;
    let app = scene.application(80).await;
    let holding = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok(accepted) = app.accept().await {
            held.push(accepted);
        }
    });
    let let_in = Arc::new(AtomicUsize::new(0));
    for round in 0..30 {
        let (stop, attempts) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut clients = JoinSet::new();
        for _ in 0..4 {
            clients.spawn(open_flows(
                Arc::clone(&scene.client),
                Arc::clone(&stop),
                Arc::clone(&attempts),
                Arc::clone(&let_in),
            ));
        }
        reach(&attempts, 10 + round).await;

        scene.b.worlds.publish([policy("nothing", "ALLOW", Vec::new())]);
        reach(&attempts, attempts.load(Ordering::Relaxed) + 20).await;
        stop.store(true, Ordering::Relaxed);

        let none_lives = async {
            while !scene.b.workers.flows().await.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        let within = Duration::from_secs(5);
        let gone = tokio::time::timeout(within, none_lives).await;
        let left = scene.b.workers.flows().await;
        assert!(gone.is_ok(), "round {round}: {} flows live on: {:?}", left.len(), left.first());
        clients.join_all().await;
        let name = ObjectName::new("shop", "nothing");
        let id = PolicyId { kind: PolicyKind::AuthorizationPolicy, name };
        scene.b.worlds.publish([Delta::PolicyGone(id)]);
    }
    assert!(let_in.load(Ordering::Relaxed) > 0);
    holding.abort();
}

/// Opens flows and keeps them until it is told to stop.
async fn open_flows(
    client: Arc<FakePod>,
    stop: Arc<AtomicBool>,
    attempts: Arc<AtomicUsize>,
    let_in: Arc<AtomicUsize>,
) {
    let mut open = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if let Ok(mut tcp) = client.connect(at(SERVER, 80)).await {
            let sent = tcp.write_all(b"!").await;
            let_in.fetch_add(usize::from(sent.is_ok()), Ordering::Relaxed);
            open.push(tcp);
        }
        attempts.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
    }
}

async fn reach(attempts: &AtomicUsize, count: usize) {
    let reached = async {
        while attempts.load(Ordering::Relaxed) < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reached).await.expect("attempts");
}

fn policy(name: &str, action: &str, rules: Vec<RuleSpec>) -> Delta {
    let mut spec = AuthorizationPolicySpec::new(ObjectName::new("shop", name));
    action.clone_into(&mut spec.action);
    spec.rules = rules;
    Delta::AuthorizationPolicy(AuthorizationPolicy::try_new(spec).unwrap())
}
