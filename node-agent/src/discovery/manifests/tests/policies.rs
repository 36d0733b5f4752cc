//! Policies in a directory: Istio's own manifests, and what happens to one that becomes invalid.

use adit_core::policy::{Mode, PolicyId, PolicyKind, Test};

use super::*;

const PEER: &str = include_str!("../../../../tests/istio/peer-authentication.yaml");
const AUTHORIZATION: &str = include_str!("../../../../tests/istio/authorization-policy.yaml");

#[tokio::test]
async fn manifests_of_istio_work_as_they_are() {
    let directory = TempDir::new();
    directory.write("peer.yaml", PEER);
    directory.write("authorization.yaml", AUTHORIZATION);
    let agent = Agent::start_synced(&directory.path).await;

    agent.no_errors().await;

    let world = agent.worlds.load();
    let policies = world.policies();
    let peer: Vec<String> =
        policies.peer_authentications().map(|policy| policy.id().to_string()).collect();
    assert_eq!(
        peer,
        [
            "PeerAuthentication bar/inherit",
            "PeerAuthentication foo/default",
            "PeerAuthentication foo/finance",
            "PeerAuthentication istio-system/default",
        ]
    );
    assert_eq!(policies.authorization_policies().count(), 13);
    let dry: Vec<String> = policies
        .authorization_policies()
        .filter(|policy| policy.dry_run())
        .map(|policy| policy.id().to_string())
        .collect();
    assert_eq!(dry, ["AuthorizationPolicy foo/path-baz"]);
    let ids = policies.peer_authentications().map(|policy| policy.id());
    let ids = ids.chain(policies.authorization_policies().map(|policy| policy.id()));
    let gaps: Vec<String> = ids
        .flat_map(|id| {
            let gaps = policies.gaps(id).into_iter();
            gaps.map(move |gap| format!("{} {}: {}", id.name, gap.field, gap.why.as_label()))
        })
        .collect();
    assert_eq!(
        gaps,
        [
            "foo/finance spec.portLevelMtls[8080].mode: mode_disable",
            "foo/audit spec.action: action_audit",
            "foo/deny-admin spec.rules[0].from[0].source.notRequestPrincipals: field_ignored",
            "foo/deny-admin spec.rules[0].to[0].operation.paths: field_ignored",
            "foo/ext-authz spec.action: action_custom",
            "foo/ext-authz spec.rules[0].to[0].operation.paths: field_ignored",
            "foo/httpbin spec.rules[0].to[0].operation.methods: rule_never_matches",
            "foo/httpbin spec.rules[0].when[0].key \"request.auth.claims[iss]\": \
             rule_never_matches",
            "foo/waypoint spec.targetRefs: target_refs",
            "foo/waypoint spec.rules[0].to[0].operation.methods: rule_never_matches",
        ]
    );
}

#[tokio::test]
async fn a_policy_that_becomes_invalid_stays_in_force_as_it_was_and_is_reported() {
    let directory = TempDir::new();
    directory.write("p.yaml", &policy("ports: [\"8080\"]"));
    let agent = Agent::start_synced(&directory.path).await;
    let id = id("cart");
    let port = |world: &World| {
        let policy = world.policies().authorization_policy(&id.name)?;
        let Test::Port(ports) = policy.rules().first()?.operations.first()?.first()? else {
            panic!("not a test of the port");
        };
        ports.any_of.first().copied()
    };
    assert_eq!(port(&agent.worlds.load()), Some(8080));

    directory.write("p.yaml", &policy("ports: [\"http\"]"));
    let status = agent.status(|status| !status.rejected.is_empty()).await;
    let why =
        "spec.rules[0].to[0].operation.ports[0]: \"http\": is not a port: a number from 1 to 65535";
    assert_eq!(status.rejected[&id], why);
    assert_eq!(
        status.errors,
        [format!("p.yaml: document 1: AuthorizationPolicy shop/cart: {why}")]
    );
    assert_eq!(port(&agent.worlds.load()), Some(8080));

    // The text is broken: which policy it was is known by its place.
    directory.write("p.yaml", "kind: [\n");
    agent.status(|status| status.rejected.get(&id).is_some_and(|error| error != why)).await;
    assert_eq!(port(&agent.worlds.load()), Some(8080));

    directory.write("p.yaml", &policy("ports: [\"9090\"]"));
    agent.world(|world| port(world) == Some(9090)).await;
    agent.status(|status| status.rejected.is_empty() && status.errors.is_empty()).await;

    fs::remove_file(directory.path.join("p.yaml")).unwrap();
    agent.world(|world| port(world).is_none()).await;
}

#[tokio::test]
async fn a_policy_that_was_never_valid_is_reported_and_not_in_force() {
    let directory = TempDir::new();
    let agent = Agent::start_synced(&directory.path).await;
    for port in ["http", "https"] {
        directory.write("p.yaml", &policy(&format!("ports: [\"{port}\"]")));
        let status = agent.status(|status| rejection(status).is_some_and(|why| why.contains(port)));
        assert_eq!(status.await.rejected.keys().collect::<Vec<_>>(), [&id("cart")]);
        assert_eq!(agent.worlds.load().policies().authorization_policies().count(), 0);
    }
}

#[tokio::test]
async fn policies_that_are_invalid_when_the_agent_starts_open_nothing_up() {
    let directory = TempDir::new();
    directory.write("allow.yaml", &policy("ports: [\"http\"]"));
    // A number where Istio has a text: as an ALLOW rule without ports it would let everybody in.
    directory.write("ports.yaml", &named("numbers", "rules: [{to: [{operation: {ports: [80]}}]}]"));
    directory.write("scalar.yaml", &named("scalar", "rules: [{from: all}]"));
    directory.write("peer.yaml", &peer("{mtls: {mode: strict}}"));
    let agent = Agent::start_synced(&directory.path).await;

    let world = agent.worlds.load();
    let policies = world.policies();
    for name in ["cart", "numbers", "scalar"] {
        let policy = policies.authorization_policy(&id(name).name).unwrap();
        assert!(policy.is_closed() && policy.rules().iter().all(|rule| rule.never), "{policy:?}");
    }
    let peer = policies.peer_authentication(&id("cart").name).unwrap();
    assert_eq!((peer.is_closed(), peer.mode()), (true, Some(Mode::Strict)));
    assert_eq!(agent.status.load().rejected.len(), 4);

    // Invalid otherwise: read anew. Half of it is repaired: the rule that is valid lets in.
    directory
        .write("ports.yaml", &named("numbers", "rules: [{}, {to: [{operation: {ports: [80]}}]}]"));
    let lets_in = |world: &World, name| {
        let policy = world.policies().authorization_policy(&id(name).name);
        policy.is_some_and(|policy| policy.rules().iter().any(|rule| !rule.never))
    };
    agent.world(|world| lets_in(world, "numbers")).await;

    // Valid, and invalid again: now a good version is known.
    directory.write("allow.yaml", &policy("ports: [\"80\"]"));
    agent.world(|world| lets_in(world, "cart")).await;
    directory.write("allow.yaml", &policy("ports: [\"http\"]"));
    agent.status(|status| rejection(status).is_some()).await;
    assert!(lets_in(&agent.worlds.load(), "cart"));
}

#[tokio::test]
async fn what_a_broken_text_said_before_the_agent_started_is_not_guessed() {
    let directory = TempDir::new();
    directory.write("p.yaml", "kind: [\n");
    let agent = Agent::start_synced(&directory.path).await;
    agent.status(|status| status.errors.len() == 1).await;

    // It turns out to be a policy, which still is not valid.
    directory.write("p.yaml", &policy("ports: [\"http\"]"));
    agent.world(|world| world.policies().is_closed(&id("cart"))).await;
}

#[tokio::test]
async fn a_policy_of_a_version_that_is_not_known_is_an_error() {
    let directory = TempDir::new();
    let agent = Agent::start_synced(&directory.path).await;
    let text = policy("ports: [\"80\"]").replace("istio.io/v1", "istio.io/v2");
    directory.write("p.yaml", &text);
    let status = agent.status(|status| rejection(status).is_some()).await;
    let why = "apiVersion: \"security.istio.io/v2\": \
               not security.istio.io/v1 or security.istio.io/v1beta1";
    assert_eq!(rejection(&status), Some(why));
}

#[test]
fn a_file_that_is_being_written_keeps_its_last_state_until_it_rests() {
    let directory = TempDir::new();
    let (path, now) = (directory.path.join("p.yaml"), std::time::Instant::now());
    let date = |at: SystemTime| {
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(at).unwrap();
    };
    // A date that stays recent however slow the test is.
    let (just_now, long_ago) =
        (SystemTime::now() + Duration::from_secs(600), SystemTime::now() - Duration::from_secs(1));
    let text = policy("ports: [\"80\"]");
    directory.write("p.yaml", &text);
    let mut catalog = Catalog::new(directory.path.clone(), domain());
    assert_eq!(catalog.scan(now).deltas.len(), 1, "nobody knows anything better at the start");

    // Emptied by a writer who is about to write it anew.
    directory.write("p.yaml", "");
    date(just_now);
    let scan = catalog.scan(now);
    assert!(scan.unrested && scan.deltas.is_empty(), "{scan:?}");

    // It rests: nobody means that to withdraw a policy, and a writer may have been stopped there.
    date(long_ago);
    let scan = catalog.scan(now);
    assert!(!scan.unrested && scan.deltas.is_empty() && scan.objects == 1, "{scan:?}");
    assert!(scan.errors[0].starts_with("p.yaml: the file is empty: "), "{:?}", scan.errors);
    directory.write("p.yaml", "# withdrawn");
    date(long_ago);
    let scan = catalog.scan(now);
    assert!(scan.errors.is_empty() && scan.deltas.len() == 1, "{scan:?}");

    // It is written all the time, first this, then always the same.
    for text in ["kind: [", &text] {
        directory.write("p.yaml", text);
        date(just_now);
        let scan = catalog.scan(now + Duration::from_secs(2));
        assert!(scan.unrested && scan.deltas.is_empty(), "{scan:?}");
    }
    let scan = catalog.scan(now + Duration::from_secs(4));
    assert!(!scan.unrested && scan.deltas.len() == 1, "{scan:?}");
}

fn rejection(status: &SourceStatus) -> Option<&str> {
    status.rejected.get(&id("cart")).map(|why| &**why)
}

fn id(name: &str) -> PolicyId {
    PolicyId { kind: PolicyKind::AuthorizationPolicy, name: ObjectName::new("shop", name) }
}

fn policy(operation: &str) -> String {
    named("cart", &format!("rules: [{{to: [{{operation: {{{operation}}}}}]}}]"))
}

fn named(name: &str, fields: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {name}, namespace: shop}}\nspec: {{{fields}}}\n"
    )
}

fn peer(spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
         metadata: {{name: cart, namespace: shop}}\nspec: {spec}\n"
    )
}
