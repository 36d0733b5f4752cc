//! The TCP ports: metrics for Prometheus, readiness for the kubelet. They say nothing that names a
//! flow, and take nothing but GET.

use std::collections::BTreeMap;
use std::future::Ready;

use axum::Router;
use axum::extract::State as Injected;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::admin::routes::policy_views;
use crate::admin::view::state_label;
use crate::admin::{Shared, http};
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::CONTENT_TYPE;
use crate::telemetry::{Readiness, Snapshot};

/// Serves `/metrics` and `/stats/prometheus` until the process is to end.
pub async fn metrics(listener: TcpListener, state: Shared, shutdown: Shutdown) {
    let router = Router::new()
        .route("/metrics", get(exposition))
        .route("/stats/prometheus", get(exposition))
        .with_state(state);
    http::serve_tcp(listener, router, shutdown).await;
}

/// Serves `/healthz/ready` until the process is to end.
pub async fn readiness(listener: TcpListener, readiness: Readiness, shutdown: Shutdown) {
    let router = Router::new().route("/healthz/ready", get(ready)).with_state(readiness);
    http::serve_tcp(listener, router, shutdown).await;
}

fn ready(Injected(readiness): Injected<Readiness>) -> Ready<Response> {
    let missing = readiness.missing();
    let answer = if missing.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        let text = format!("not ready: waiting for {}\n", missing.join(", "));
        (StatusCode::SERVICE_UNAVAILABLE, text)
    };
    std::future::ready(answer.into_response())
}

async fn exposition(Injected(state): Injected<Shared>) -> Response {
    let snapshot = look(&state).await;
    match state.metrics.render(&snapshot) {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn look(state: &Shared) -> Snapshot {
    let certificates = state.sources.certificates();
    Snapshot {
        ready: state.readiness.missing().is_empty(),
        pods: count(state.sources.pods().await.iter().map(|pod| state_label(&pod.state))),
        certificate_states: count(certificates.iter().map(|view| view.state.clone())),
        certificates_failing: count(
            certificates.iter().filter_map(|view| view.last_error_reason.clone()),
        ),
        certificates: certificates
            .into_iter()
            .map(|view| (view.identity, view.not_after.map(|time| time.0)))
            .collect(),
        tunnels: count(
            state.sources.tunnels().await.iter().map(|tunnel| tunnel.direction.as_label()),
        ),
        records_dropped: state.observer.dropped(),
        followers: state.observer.followers(),
        events_missed: state.observer.missed(),
        discovery_errors: state.sources.discovery().errors.len(),
        policies: count(policy_views(state).iter().map(|policy| policy.state.as_label())),
    }
}

fn count<K: Ord>(labels: impl Iterator<Item = K>) -> BTreeMap<K, u64> {
    let mut counts = BTreeMap::new();
    for label in labels {
        *counts.entry(label).or_default() += 1;
    }
    counts
}
