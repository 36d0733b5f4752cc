//! What the feeds tell, and what comes of it.

use adit_core::world::World;
use serde_json::json;

use super::*;

#[test]
fn nothing_is_published_before_every_kind_was_listed_once() {
    let mut hub = hub(&[Kind::Namespace, Kind::Pod]);
    hub.hear(Kind::Namespace, [News::Listing, namespace("shop"), News::Listed]);
    hub.hear(Kind::Pod, [News::Listing, pod("web", "10.0.0.1")]);
    assert!(!hub.is_synced());
    assert_eq!(hub.take_deltas(now()), []);
    hub.hear(Kind::Pod, [News::Listed]);
    assert!(hub.is_synced());
    assert_eq!(hub.take_deltas(now()).len(), 2);
    assert_eq!(hub.status().last_change, Some(now()));
}

#[test]
fn what_a_new_list_does_not_bring_is_gone() {
    let mut hub = hub(&[Kind::Pod]);
    hub.hear(Kind::Pod, [News::Listing, pod("a", "10.0.0.1"), pod("b", "10.0.0.2"), News::Listed]);
    let mut world = World::default().apply(hub.take_deltas(now())).0;
    // A list that broke off says nothing of what it did not come to.
    hub.hear(Kind::Pod, [News::Listing, pod("c", "10.0.0.3"), News::Failing("cut".to_owned())]);
    world = world.apply(hub.take_deltas(now())).0;
    assert_eq!(names(&world), ["a", "b", "c"]);
    hub.hear(Kind::Pod, [News::Listing, pod("c", "10.0.0.3"), pod("a", "10.0.0.1"), News::Listed]);
    world = world.apply(hub.take_deltas(now())).0;
    assert_eq!(names(&world), ["a", "c"]);
}

#[test]
fn a_failing_server_leaves_everything_as_it_was_and_says_since_when() {
    let mut hub = hub(&[Kind::Pod, Kind::Service]);
    hub.hear(Kind::Pod, [News::Listing, pod("a", "10.0.0.1"), News::Listed]);
    hub.hear(Kind::Service, [News::Failing("403 Forbidden: no".to_owned())]);
    let expected = "API server: Service: not listed yet, tried since 2027-01-15T08:00:00Z: \
                    403 Forbidden: no";
    assert_eq!(hub.status().stale.as_deref(), Some(expected));
    hub.hear(Kind::Service, [News::Listing, News::Listed]);
    let world = World::default().apply(hub.take_deltas(now())).0;
    assert_eq!(hub.status().errors, [""; 0]);

    hub.take(Kind::Pod, News::Failing("refused".to_owned()), now());
    let later = now() + std::time::Duration::from_secs(3600);
    hub.take(Kind::Pod, News::Failing("still refused".to_owned()), later);
    let expected = "API server: Pod: as of 2027-01-15T08:00:00Z: still refused";
    assert_eq!(hub.status().stale.as_deref(), Some(expected));
    assert_eq!(hub.status().errors, [expected]);
    assert_eq!(hub.take_deltas(now()), []);
    assert_eq!(names(&world), ["a"]);
    hub.take(Kind::Pod, News::Current, later);
    assert_eq!(hub.status().stale, None);
}

#[test]
fn an_invalid_object_is_reported_and_its_last_good_version_kept() {
    let mut hub = hub(&[Kind::Pod]);
    hub.hear(Kind::Pod, [News::Listing, pod("a", "10.0.0.1"), pod("b", "nowhere"), News::Listed]);
    let error = r#"Pod shop/b: status.podIPs[0].ip: "nowhere": not an IP address"#;
    assert_eq!(hub.status().errors, [error]);
    let mut world = World::default().apply(hub.take_deltas(now())).0;
    assert_eq!(names(&world), ["a"]);

    hub.hear(Kind::Pod, [pod("a", "nowhere"), pod("b", "10.0.0.2")]);
    world = world.apply(hub.take_deltas(now())).0;
    assert_eq!(names(&world), ["a", "b"]);
    assert_eq!(hub.status().errors.len(), 1);
    // Also through a list that finds it still invalid.
    hub.hear(Kind::Pod, [News::Listing, pod("a", "nowhere"), News::Listed]);
    world = world.apply(hub.take_deltas(now())).0;
    assert_eq!(names(&world), ["a"]);
    hub.hear(Kind::Pod, [gone(pod("a", "nowhere"))]);
    world = world.apply(hub.take_deltas(now())).0;
    assert_eq!(names(&world), [""; 0]);
    assert_eq!(hub.status().errors, [""; 0]);
}

#[test]
fn the_newest_version_of_a_policy_that_is_wrong_is_told_with_the_policy() {
    let mut hub = hub(&[Kind::AuthorizationPolicy]);
    let policy = |action: &str| {
        News::Object(json!({
            "metadata": {"name": "p", "namespace": "shop"}, "spec": {"action": action, "rules": [{}]},
        }))
    };
    hub.hear(Kind::AuthorizationPolicy, [News::Listing, policy("DENY"), News::Listed]);
    hub.hear(Kind::AuthorizationPolicy, [policy("PERHAPS")]);
    let status = hub.status();
    assert_eq!(status.rejected.len(), 1, "{status:?}");
    assert_eq!(status.objects, 1);
}

#[test]
fn a_policy_that_is_wrong_from_the_first_opens_nothing_up_and_a_later_one_has_no_effect() {
    let mut hub = hub(&[Kind::AuthorizationPolicy]);
    let policy = |name: &str| {
        News::Object(json!({
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"action": "PERHAPS", "rules": [{}]},
        }))
    };
    hub.hear(Kind::AuthorizationPolicy, [News::Listing, policy("first"), News::Listed]);
    hub.hear(Kind::AuthorizationPolicy, [policy("later")]);
    // What was told from the API server while it was not heard may have been valid in between.
    let again = ["first", "later", "meanwhile"].map(policy);
    hub.hear(
        Kind::AuthorizationPolicy,
        [News::Listing].into_iter().chain(again).chain([News::Listed]),
    );
    let world = World::default().apply(hub.take_deltas(now())).0;
    let in_force = |name| {
        let kind = adit_core::policy::PolicyKind::AuthorizationPolicy;
        let name = adit_core::workload::ObjectName::new("shop", name);
        world.policies().contains(&PolicyId { kind, name })
    };
    assert_eq!(["first", "later", "meanwhile"].map(in_force), [true, false, true]);
    assert_eq!(hub.status().rejected.len(), 3);
}

#[test]
fn a_kind_that_the_server_does_not_have_counts_as_listed_and_empty() {
    let mut hub = hub(&[Kind::PeerAuthentication]);
    hub.hear(Kind::PeerAuthentication, [News::Absent]);
    assert!(hub.is_synced());
    let policy = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": {}});
    hub.hear(Kind::PeerAuthentication, [News::Listing, News::Object(policy), News::Listed]);
    let world = World::default().apply(hub.take_deltas(now())).0;
    assert_eq!(hub.status().objects, 1);
    hub.hear(Kind::PeerAuthentication, [News::Absent]);
    let (_, changes) = world.apply(hub.take_deltas(now()));
    assert_eq!(changes.policies.len(), 1);
    assert_eq!(hub.status().objects, 0);
}

#[test]
fn a_kind_that_nothing_is_decided_by_is_not_waited_for_and_no_error_where_it_cannot_be_read() {
    let mut hub = hub(&[Kind::Pod, Kind::NetworkPolicy]);
    assert_eq!(hub.status().network_policies_lack.as_deref(), Some("not listed yet"));
    hub.hear(Kind::NetworkPolicy, [News::Failing("403 Forbidden: no".to_owned())]);
    hub.hear(Kind::Pod, [News::Listing, pod("a", "10.0.0.1"), News::Listed]);
    assert!(hub.is_synced());
    let world = World::default().apply(hub.take_deltas(now())).0;
    assert_eq!(names(&world), ["a"]);
    let status = hub.status();
    assert_eq!((status.stale, status.errors), (None, Vec::new()));
    let lack = "not listed yet, tried since 2027-01-15T08:00:00Z: 403 Forbidden: no";
    assert_eq!(status.network_policies_lack.as_deref(), Some(lack));

    let policy =
        json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": {"podSelector": {}}});
    let listed = [News::Listing, News::Object(policy.clone()), News::Listed];
    hub.hear(Kind::NetworkPolicy, listed);
    assert_eq!(hub.status().network_policies_lack, None);
    let world = world.apply(hub.take_deltas(now())).0;
    assert_eq!(world.network_policies("shop").count(), 1);
    assert_eq!(world.network_policies("shop-2").count(), 0);
    hub.hear(Kind::NetworkPolicy, [News::Gone(policy)]);
    let world = world.apply(hub.take_deltas(now())).0;
    assert_eq!(world.network_policies("shop").count(), 0);
}

#[test]
fn the_annotation_that_names_a_network_namespace_is_not_believed() {
    let mut hub = hub(&[Kind::Pod]);
    let pod = json!({
        "metadata": {
            "name": "a", "namespace": "shop", "uid": "u",
            "annotations": {"adit.dev/netns": "/proc/1/ns/net"},
        },
        "spec": {"nodeName": "n", "containers": []},
    });
    hub.hear(Kind::Pod, [News::Listing, News::Object(pod), News::Listed]);
    let world = World::default().apply(hub.take_deltas(now())).0;
    assert_eq!(world.workloads().next().unwrap().netns, None);
}

impl Hub {
    fn hear(&mut self, kind: Kind, news: impl IntoIterator<Item = News>) {
        for news in news {
            self.take(kind, news, now());
        }
    }
}

fn hub(kinds: &[Kind]) -> Hub {
    Hub::new(kinds, TrustDomain::parse("cluster.local").unwrap())
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000)
}

fn namespace(name: &str) -> News {
    News::Object(json!({"metadata": {"name": name}}))
}

fn pod(name: &str, address: &str) -> News {
    News::Object(json!({
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}")},
        "spec": {"containers": []},
        "status": {"phase": "Running", "podIPs": [{"ip": address}]},
    }))
}

fn gone(news: News) -> News {
    let News::Object(value) = news else { panic!("{news:?}") };
    News::Gone(value)
}

fn names(world: &World) -> Vec<String> {
    world.workloads().map(|pod| pod.name.name.to_string()).collect()
}
