//! Policies of every state for the tests of what shows them, and the answers to `explain`.

use adit_core::policy::spec::{
    AuthorizationPolicySpec, OperationSpec, PeerAuthenticationSpec, RuleSpec, SourceSpec,
};
use adit_core::policy::{AuthorizationPolicy, PeerAuthentication, PolicyId, PolicyKind};

use super::*;

#[tokio::test]
async fn policies_are_listed_with_their_state_and_the_pods_they_are_for() {
    let agent = Agent::start().await;
    let (status, body) = agent.ask("GET", "/v1/policies", "").await;
    assert_eq!(status, 200, "{body}");
    let list: Vec<view::PolicyView> = serde_json::from_str(&body).unwrap();
    let shown: Vec<String> = list
        .iter()
        .map(|policy| {
            let view::PolicyView { namespace, name, scope, action, workloads, .. } = policy;
            let action = action.as_deref().unwrap_or("-");
            let (state, pods) = (policy.state.as_label(), workloads.len());
            format!("{namespace}/{name} {action} {scope} {state} {pods}")
        })
        .collect();
    assert_eq!(
        shown,
        [
            "istio-system/tunnels STRICT mesh valid 1",
            "shop/broken - none invalid 0",
            "shop/client DENY workload invalid 1",
            "shop/default PERMISSIVE namespace valid 1",
            "shop/friends ALLOW namespace valid 1",
            "shop/http DENY namespace partial 1",
            "shop/unread ALLOW workload invalid 0",
        ]
    );
    assert!(list[6].closed && list[6].in_force && !list[2].closed);
    assert!(!list[1].in_force);
    assert!(list[2].in_force, "its last good version");
    assert!(list[0].dry_run);
    let outside: Vec<String> = list[0].outside.iter().map(ToString::to_string).collect();
    assert_eq!(outside, ["shop/legacy"], "it has opted out of the mesh");
    let client = "/v1/policies?workload=shop/client-6d4cf56db6-x7k2p";
    let (_, body) = agent.ask("GET", client, "").await;
    let list: Vec<view::PolicyView> = serde_json::from_str(&body).unwrap();
    assert_eq!(list.len(), 5, "{list:?}");
    // An empty list would say that nothing restricts the pod.
    let (status, body) = agent.ask("GET", "/v1/policies?workload=shop/clinet", "").await;
    assert_eq!(status, 404, "{body}");
    assert!(body.contains("shop/clinet") && body.contains("on this node"), "{body}");
}

#[tokio::test]
async fn explain_answers_with_route_policies_and_verdict() {
    let agent = Agent::start().await;
    for (name, query) in [
        ("allowed", "source=shop/client-6d4cf56db6-x7k2p&destination=shop/cart:80"),
        ("denied", "source=spiffe://cluster.local/ns/prod/sa/x&destination=shop/cart-0:8080"),
        ("plaintext", "source=10.1.0.7&destination=10.2.0.3:8080"),
        ("not-enforced", "source=shop/cart-0&destination=shop/legacy:5432"),
        ("refused", "source=shop/cart-0&destination=10.96.0.12:81"),
    ] {
        let (status, body) = agent.ask("GET", &format!("/v1/explain?{query}"), "").await;
        assert_eq!(status, 200, "{body}");
        let value: Value = serde_json::from_str(&body).unwrap();
        let text = serde_json::to_string_pretty(&value).unwrap() + "\n";
        crate::cli::golden::check(&format!("api/explain-{name}.json"), &text);
    }
}

#[tokio::test]
async fn explain_says_which_network_policy_keeps_the_tunnel_from_being_made_and_decides_as_without_it()
 {
    let agent = Agent::start().await;
    let question = "/v1/explain?source=shop/client-6d4cf56db6-x7k2p&destination=shop/cart:80";
    let explained = async || -> view::ExplainView {
        let (status, body) = agent.ask("GET", question, "").await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    };
    let before = explained().await;
    agent.publish(network_policies());
    let after = explained().await;
    let shown: Vec<String> = after
        .blocked
        .iter()
        .map(|blocked| format!("{} {} {}", blocked.whose(), blocked.what(), blocked.with_whom()))
        .collect();
    assert_eq!(
        shown,
        [
            "NetworkPolicy shop/client port 15008 out of shop/client-6d4cf56db6-x7k2p to shop/cart-0",
            "NetworkPolicy shop/dark port 15008 into shop/cart-0 from shop/client-6d4cf56db6-x7k2p",
        ]
    );
    let other_ports: Vec<bool> = after.blocked.iter().map(|blocked| blocked.other_ports).collect();
    assert_eq!(other_ports, [true, false]);
    assert_eq!(view::ExplainView { blocked: Vec::new(), ..after }, before);
    // What goes without a tunnel is not asked about.
    let (_, body) = agent.ask("GET", &format!("{question}&protocol=plaintext"), "").await;
    let plain: view::ExplainView = serde_json::from_str(&body).unwrap();
    assert_eq!(plain.blocked, []);

    let (_, body) = agent.ask("GET", "/v1/network-policies", "").await;
    let all: view::NetworkPoliciesView = serde_json::from_str(&body).unwrap();
    assert_eq!((all.lack, all.blocked.len()), (None, 1), "of this node's pods");
}

#[tokio::test]
async fn a_flow_says_which_policy_decided_and_what_a_dry_run_would_do() {
    let agent = Agent::start().await;
    agent.recorder.record(samples::denied(7));
    agent.settled(1).await;
    let flows = agent.flows("?policy=shop/friends").await;
    let [flow] = &*flows else { panic!("{flows:?}") };
    assert_eq!(flow.verdict, view::Verdict::Denied);
    assert!(flow.policy.as_ref().unwrap().starts_with("AuthorizationPolicy shop/friends"));
    assert_eq!(flow.missed.len(), 1, "{flow:?}");
    let would = flow.dry_run.as_ref().unwrap();
    assert!(would.starts_with("would deny by PeerAuthentication shop/default"), "{would}");
    let (_, body) = agent.ask("GET", "/v1/policies?namespace=shop", "").await;
    let list: Vec<view::PolicyView> = serde_json::from_str(&body).unwrap();
    let friends = list.iter().find(|policy| policy.name == "friends").unwrap();
    assert_eq!((friends.hits, friends.last_hit.is_some()), (1, true));
    assert_eq!(agent.flows("?dryRun=deny").await, flows);
}

/// One that lets clients out to port 8080 alone, and one that lets nobody into carts.
pub(crate) fn network_policies() -> Vec<Delta> {
    let policy = |name: &str, spec: Value| {
        let metadata = serde_json::json!({"namespace": "shop", "name": name});
        let object = serde_json::json!({"metadata": metadata, "spec": spec});
        let object = serde_json::from_value(object).unwrap();
        Delta::NetworkPolicy(crate::discovery::translate::network_policy(&object).unwrap())
    };
    let app = |app: &str| serde_json::json!({"matchLabels": {"app": app}});
    let unlabelled = serde_json::json!({"key": "app", "operator": "DoesNotExist"});
    let http = serde_json::json!([{"ports": [{"port": 8080}]}]);
    vec![
        policy(
            "client",
            serde_json::json!({"podSelector": app("client"), "policyTypes": ["Egress"], "egress": http}),
        ),
        policy("dark", serde_json::json!({"podSelector": {"matchExpressions": [unlabelled]}})),
    ]
}

pub(super) fn rejected() -> BTreeMap<PolicyId, String> {
    let port = "spec.rules[0].to[0].operation.ports[0]: \"http\": \
                is not a port: a number from 1 to 65535";
    [("broken", port), ("client", port), ("unread", port)]
        .map(|(name, why)| {
            let name = ObjectName::new("shop", name);
            (PolicyId { kind: PolicyKind::AuthorizationPolicy, name }, why.to_owned())
        })
        .into()
}

pub(super) fn deltas() -> Vec<Delta> {
    let peer = |namespace: &str, name: &str, mode: &str, dry_run| {
        let mut spec = PeerAuthenticationSpec::new(ObjectName::new(namespace, name));
        mode.clone_into(&mut spec.mode);
        spec.dry_run = dry_run;
        spec.created = Some(samples::noon());
        Delta::PeerAuthentication(PeerAuthentication::try_new(spec).unwrap())
    };
    let authorization = |name: &str, change: &dyn Fn(&mut AuthorizationPolicySpec)| {
        let mut spec = AuthorizationPolicySpec::new(ObjectName::new("shop", name));
        change(&mut spec);
        Delta::AuthorizationPolicy(AuthorizationPolicy::try_new(spec).unwrap())
    };
    let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    let from = |source: SourceSpec| RuleSpec { from: Some(vec![source]), ..RuleSpec::default() };
    let to = |operation| RuleSpec { to: Some(vec![operation]), ..RuleSpec::default() };
    vec![
        peer("istio-system", "tunnels", "STRICT", true),
        peer("shop", "default", "PERMISSIVE", false),
        authorization("friends", &|spec| {
            spec.rules = vec![from(SourceSpec {
                service_accounts: texts(&["client", "cart", "legacy"]),
                ..SourceSpec::default()
            })];
        }),
        authorization("http", &|spec| {
            "DENY".clone_into(&mut spec.action);
            let ports = texts(&["9999"]);
            let unsupported = texts(&["methods"]);
            let operation = OperationSpec { ports, unsupported, ..OperationSpec::default() };
            spec.rules = vec![to(operation)];
        }),
        authorization("client", &|spec| {
            "DENY".clone_into(&mut spec.action);
            spec.selector = [("app".to_owned(), "client".to_owned())].into();
            let ports = texts(&["22"]);
            spec.rules = vec![to(OperationSpec { ports, ..OperationSpec::default() })];
        }),
        unread(),
    ]
}

/// One that has been invalid since the agent started.
fn unread() -> Delta {
    let mut spec = AuthorizationPolicySpec::new(ObjectName::new("shop", "unread"));
    spec.selector = [("app".to_owned(), "reports".to_owned())].into();
    let ports = vec!["http".to_owned()];
    let operation = OperationSpec { ports, ..OperationSpec::default() };
    spec.rules = vec![RuleSpec { to: Some(vec![operation]), ..RuleSpec::default() }];
    Delta::AuthorizationPolicy(AuthorizationPolicy::closed(spec, &[]))
}
