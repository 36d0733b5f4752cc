//! The requests of the admin API.

use std::collections::{BTreeMap, HashMap};
use std::future::{Ready, ready};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_core::flow::{FlowId, FlowRecord};
use adit_core::hbone::TUNNEL_PORT;
use adit_core::network_policy;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, State as Injected};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Router, body::Bytes};

use crate::admin::explain::Question;
use crate::admin::filter::FlowFilter;
use crate::admin::http::refuse;
use crate::admin::view::{
    self, BlockedView, CertificateView, DiscoveryView, DrainView, DrainingView, FlowView,
    LogLevelView, NetworkPoliciesView, NodeView, PolicyView, Problem, ReadinessView, RecordsView,
    ServiceView, StatusView, Timestamp, TunnelView, WorkloadView, state_label,
};
use crate::admin::{Shared, State, explain, follow};
use crate::cni;
use crate::enrol::{PodState, PodStatus};

/// The longest body that is read: a log filter.
const MAX_BODY: usize = 4096;
/// How long flows are given to end unless the request says.
const DRAIN_DEADLINE: Duration = Duration::from_secs(30);
/// How long a new pod may wait for its certificate before that is a problem.
const ORDINARY_WAIT: Duration = Duration::from_secs(5);
/// The longest that makes sense; Kubernetes kills the pod long before.
const MAX_DRAIN_DEADLINE: Duration = Duration::from_secs(24 * 60 * 60);

type Parameters = Result<Query<BTreeMap<String, String>>, QueryRejection>;

pub(super) fn router(state: Shared) -> Router {
    Router::new()
        .route("/v1/status", only(get(status)))
        .route("/v1/workloads", only(get(workloads)))
        .route("/v1/services", only(get(services)))
        .route("/v1/certs", only(get(certificates)))
        .route("/v1/tunnels", only(get(tunnels)))
        .route("/v1/policies", only(get(policies)))
        .route("/v1/explain", only(get(explained)))
        .route("/v1/network-policies", only(get(network_policies)))
        .route("/v1/flows", only(get(flows)))
        .route("/v1/log-level", only(get(log_level).put(set_log_level)))
        .route("/v1/drain", only(post(drain)))
        .route("/v1/cni", only(post(admit)))
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(state)
}

fn only(methods: MethodRouter<Shared>) -> MethodRouter<Shared> {
    methods.fallback(wrong_method)
}

/// A body is JSON whatever its type says: the other side is this program.
async fn admit(
    Injected(state): Injected<Shared>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<cni::Answer>, Response> {
    let wrong = |error: &dyn ToString| refuse(StatusCode::BAD_REQUEST, error, None);
    let body = body.map_err(|error| wrong(&error))?;
    let request = serde_json::from_slice(&body).map_err(|error| wrong(&error))?;
    Ok(Json(state.sources.admit(request).await))
}

async fn status(Injected(state): Injected<Shared>) -> Json<StatusView> {
    let pods = state.sources.pods().await;
    let flows_open = state.sources.flows().await.len();
    let tunnels = state.sources.tunnels().await;
    let certificates = state.sources.certificates();
    let missing = state.readiness.missing();
    let policies = policy_views(&state);
    let recent = state.observer.recent();
    let view = StatusView {
        healthy: false,
        problems: Vec::new(),
        node: node(&state),
        readiness: ReadinessView {
            ready: missing.is_empty(),
            missing: missing.into_iter().map(str::to_owned).collect(),
        },
        pods: count(pods.iter().map(|pod| state_label(&pod.state))),
        certificates: count(certificates.iter().map(|certificate| &certificate.state)),
        flows_open: number(flows_open),
        tunnels_open: count(tunnels.iter().map(|tunnel| tunnel.direction.as_label())),
        discovery: discovery(&state),
        policies: view::count(&policies),
        denied: view::DeniedView::of(&recent, SystemTime::now()),
        records: RecordsView {
            dropped: state.observer.dropped(),
            kept: number(recent.len()),
            followers: number(state.observer.followers()),
            missed: state.observer.missed(),
        },
        datapath: state.sources.datapath(),
        draining: state
            .sources
            .draining_until()
            .map(|until| DrainingView { until: Timestamp(until), flows_left: number(flows_open) }),
    };
    let mut found = failed(&pods);
    found.extend(waiting(&pods, &certificates));
    found.extend(state.sources.problems().await);
    found.extend(Problem::of_policies(&policies));
    let lack = state.sources.discovery().network_policies_lack;
    found.extend(Problem::of_network_policies(lack.as_ref()));
    Json(view.judged(found, &certificates))
}

fn node(state: &State) -> NodeView {
    let facts = &state.facts;
    NodeView {
        name: facts.node.to_string(),
        cluster: facts.cluster.clone(),
        trust_domain: facts.trust_domain.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: Timestamp(facts.started),
        uptime_seconds: seconds_since(facts.started),
    }
}

fn discovery(state: &State) -> DiscoveryView {
    let facts = state.sources.discovery();
    let world = state.worlds.load();
    DiscoveryView {
        source: facts.source,
        updated: facts.updated.map(Timestamp),
        age_seconds: facts.updated.map(seconds_since),
        namespaces: number(world.namespaces().count()),
        workloads: number(world.workloads().count()),
        services: number(world.services().count()),
        errors: facts.errors,
        stale: facts.stale,
    }
}

fn failed(pods: &[PodStatus]) -> Vec<Problem> {
    let failed = pods.iter().filter_map(|pod| match &pod.state {
        PodState::Failed { step, error } => {
            let step = step.map_or("namespace", |step| step.as_label());
            Some(Problem::error(
                format!("pod {} could not be enrolled: step {step}: {error}", pod.name),
                "it is tried again by itself; `adit doctor` shows what the kernel lacks",
            ))
        }
        PodState::NotEnrolled(why) if why.is_refusal() => Some(Problem::error(
            format!("pod {} is refused, and talks in plaintext if it runs: {why}", pod.name),
            "a pod that starts is held by the CNI plugin; one that was started before is not stopped",
        )),
        PodState::NotEnrolled(_)
        | PodState::AwaitingNamespace
        | PodState::AwaitingCertificate
        | PodState::Enrolling(_)
        | PodState::Enrolled
        | PodState::Withdrawing(_) => None,
    });
    failed.collect()
}

/// Pods that could not be enrolled yet for want of a certificate. Right after the pod came that is
/// ordinary.
fn waiting(pods: &[PodStatus], certificates: &[CertificateView]) -> Vec<Problem> {
    let waiting = pods.iter().filter(|pod| pod.state == PodState::AwaitingCertificate);
    let problem = |pod: &PodStatus| {
        let identity = pod.identity.to_string();
        let certificate = certificates.iter().find(|one| one.identity == identity);
        let error = certificate.and_then(|one| one.last_error.as_deref());
        if error.is_none() && seconds_since(pod.since) < ORDINARY_WAIT.as_secs() {
            return None;
        }
        Some(Problem::error(
            format!(
                "pod {} waits for its first certificate since {}: until then its \
                 connections go in plaintext, or wait if an earlier agent captured it, and tunnels to \
                 it fail with destination_not_ready: {}",
                pod.name,
                Timestamp(pod.since),
                error.unwrap_or("the CA has not answered")
            ),
            "look at the CA: is it up, and does it know this node and its pods?",
        ))
    };
    waiting.filter_map(problem).collect()
}

async fn workloads(Injected(state): Injected<Shared>) -> Json<Vec<WorkloadView>> {
    let pods = state.sources.pods().await;
    let by_uid: HashMap<_, _> = pods.iter().map(|pod| (&pod.uid, pod)).collect();
    let world = state.worlds.load();
    let node = &state.facts.node;
    let mut list: Vec<WorkloadView> = world
        .workloads()
        .map(|pod| WorkloadView::new(&world, node, pod, by_uid.get(&pod.uid).copied()))
        .collect();
    list.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    Json(list)
}

fn services(Injected(state): Injected<Shared>) -> Ready<Json<Vec<ServiceView>>> {
    let world = state.worlds.load();
    let list = world.services().map(|service| ServiceView::new(&world, service));
    ready(Json(list.collect()))
}

fn certificates(Injected(state): Injected<Shared>) -> Ready<Response> {
    let mut list = state.sources.certificates();
    list.sort_by(|a, b| a.identity.cmp(&b.identity));
    ready(Json(list).into_response())
}

async fn tunnels(Injected(state): Injected<Shared>) -> Json<Vec<TunnelView>> {
    let tunnels = state.sources.tunnels().await;
    let mut list: Vec<TunnelView> = tunnels.iter().map(TunnelView::from).collect();
    list.sort_by(|a, b| {
        (&a.local_identity, &a.peer_identity, a.peer, a.worker).cmp(&(
            &b.local_identity,
            &b.peer_identity,
            b.peer,
            b.worker,
        ))
    });
    Json(list)
}

pub(super) fn policy_views(state: &State) -> Vec<PolicyView> {
    let rejected = state.sources.discovery().rejected;
    let world = state.worlds.load();
    view::policies(&world, &state.facts.node, &rejected, state.observer.hits())
}

fn policies(Injected(state): Injected<Shared>, parameters: Parameters) -> Ready<Response> {
    let Query(parameters) = match parameters {
        Ok(parameters) => parameters,
        Err(error) => return ready(refuse(StatusCode::BAD_REQUEST, &error, None)),
    };
    let mut list = policy_views(&state);
    for (name, value) in parameters {
        match name.as_str() {
            "namespace" => list.retain(|policy| policy.namespace == value),
            "workload" => {
                let world = state.worlds.load();
                let mut pods = world.workloads_on(&state.facts.node);
                if !pods.any(|pod| pod.name.to_string() == value) {
                    let error = format!("there is no pod {value:?} on this node");
                    return ready(refuse(StatusCode::NOT_FOUND, &error, None));
                }
                list.retain(|policy| {
                    policy.workloads.iter().any(|workload| workload.to_string() == value)
                });
            }
            _ => {
                let error = format!("there is no filter {name:?}; there are namespace, workload");
                return ready(refuse(StatusCode::BAD_REQUEST, &error, None));
            }
        }
    }
    ready(Json(list).into_response())
}

fn explained(Injected(state): Injected<Shared>, parameters: Parameters) -> Ready<Response> {
    let question = match parameters.map(|Query(map)| Question::parse(map)) {
        Ok(Ok(question)) => question,
        Ok(Err(error)) => return ready(refuse(StatusCode::BAD_REQUEST, &error, None)),
        Err(error) => return ready(refuse(StatusCode::BAD_REQUEST, &error, None)),
    };
    ready(match explain::explain(&state.worlds.load(), &question) {
        Ok(mut view) => {
            let lack = state.sources.discovery().network_policies_lack;
            let lack = lack.filter(|_| view.route.protocol == "hbone");
            view.notes.extend(lack.map(|lack| {
                format!("a NetworkPolicy that blocks port {TUNNEL_PORT} may go unnoticed: {lack}")
            }));
            Json(view).into_response()
        }
        Err(error) => refuse(StatusCode::BAD_REQUEST, &error, None),
    })
}

/// What stands in the way of tunnels of this node's pods.
fn network_policies(Injected(state): Injected<Shared>) -> Ready<Json<NetworkPoliciesView>> {
    let world = state.worlds.load();
    let found = network_policy::survey(&world, world.workloads_on(&state.facts.node));
    let lack = state.sources.discovery().network_policies_lack;
    ready(Json(NetworkPoliciesView {
        lack,
        blocked: found.iter().map(BlockedView::from).collect(),
    }))
}

async fn flows(Injected(state): Injected<Shared>, parameters: Parameters) -> Response {
    let filter = match parameters.map(|Query(map)| FlowFilter::parse(map)) {
        Ok(Ok(filter)) => filter,
        Ok(Err(error)) => return refuse(StatusCode::BAD_REQUEST, &error, None),
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error, None),
    };
    // Subscribed before looking, so that nothing falls in between.
    let events = filter.follow.then(|| state.observer.follow());
    let list = matching(&state, &filter).await;
    let Some(events) = events else {
        let views: Vec<FlowView> = list.iter().map(|flow| FlowView::from(&**flow)).collect();
        return Json(views).into_response();
    };
    let body = follow::body(filter, list, events, state.observer.clone());
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

/// Live and recent flows that match, oldest first. Where a flow ended while this looked, its end
/// is what counts.
async fn matching(state: &State, filter: &FlowFilter) -> Vec<Arc<FlowRecord>> {
    let live = state.sources.flows().await.into_iter().map(Arc::new);
    let mut by_id: BTreeMap<FlowId, Arc<FlowRecord>> = live.map(|flow| (flow.id, flow)).collect();
    let recent = state.observer.recent();
    by_id.extend(recent.into_iter().map(|flow| (flow.id, flow)));
    let mut list: Vec<_> = by_id.into_values().filter(|flow| filter.matches(flow)).collect();
    list.sort_by_key(|flow| (flow.started, flow.id));
    let surplus = list.len().saturating_sub(filter.limit);
    list.split_off(surplus)
}

fn log_level(Injected(state): Injected<Shared>) -> Ready<Json<LogLevelView>> {
    let filter = state.log.filter();
    ready(Json(LogLevelView { filter }))
}

fn set_log_level(
    Injected(state): Injected<Shared>,
    body: Result<Bytes, BytesRejection>,
) -> Ready<Response> {
    ready(change_log_level(&state, body))
}

fn change_log_level(state: &State, body: Result<Bytes, BytesRejection>) -> Response {
    let view = match body.map(|bytes| serde_json::from_slice::<LogLevelView>(&bytes)) {
        Ok(Ok(view)) => view,
        Ok(Err(error)) => {
            let help = "the body is {\"filter\": \"info\"}";
            return refuse(StatusCode::BAD_REQUEST, &error, Some(help));
        }
        Err(error) => return refuse(error.status(), &error, None),
    };
    if let Err(error) = state.log.set_filter(&view.filter) {
        return refuse(StatusCode::BAD_REQUEST, &error, None);
    }
    tracing::info!(filter = view.filter, "the log filter was changed");
    Json(view).into_response()
}

async fn drain(Injected(state): Injected<Shared>, parameters: Parameters) -> Response {
    let deadline = match parameters.map(|Query(map)| parse_deadline(map)) {
        Ok(Ok(deadline)) => deadline,
        Ok(Err(error)) => return refuse(StatusCode::BAD_REQUEST, &error, None),
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error, None),
    };
    tracing::info!(?deadline, "draining, as an admin client asked for");
    let cut = state.sources.drain(deadline).await;
    Json(DrainView {
        deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
        cut: number(cut),
    })
    .into_response()
}

fn parse_deadline(parameters: BTreeMap<String, String>) -> Result<Duration, String> {
    let mut deadline = DRAIN_DEADLINE;
    for (name, value) in parameters {
        if name != "deadlineMs" {
            return Err(format!("there is no parameter {name:?}; there is deadlineMs"));
        }
        deadline = value
            .parse()
            .ok()
            .map(Duration::from_millis)
            .filter(|deadline| *deadline <= MAX_DRAIN_DEADLINE)
            .ok_or_else(|| format!("deadlineMs: {value:?} is not a number up to 86400000"))?;
    }
    Ok(deadline)
}

#[expect(clippy::needless_pass_by_value, reason = "axum hands extracted values over")]
fn not_found(uri: Uri) -> Ready<Response> {
    let error = format!("there is no {}", uri.path());
    let help = "the agent may be older than the command line: compare `adit version`";
    ready(refuse(StatusCode::NOT_FOUND, &error, Some(help)))
}

#[expect(clippy::needless_pass_by_value, reason = "axum hands extracted values over")]
fn wrong_method(method: Method, uri: Uri) -> Ready<Response> {
    let error = format!("{} does not take {method}", uri.path());
    ready(refuse(StatusCode::METHOD_NOT_ALLOWED, &error, None))
}

fn count<T: ToString>(labels: impl Iterator<Item = T>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for label in labels {
        *counts.entry(label.to_string()).or_default() += 1;
    }
    counts
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn seconds_since(time: SystemTime) -> u64 {
    time.elapsed().unwrap_or_default().as_secs()
}
