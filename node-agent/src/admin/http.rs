//! HTTP/1.1 over any stream, with limits: one request a connection, a time limit for its head, a
//! number of connections, and for the TCP ports a time limit for all of it.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower::Service;

use crate::admin::view::ErrorView;
use crate::shutdown::{Phase, Shutdown};

/// How long a client may take for the head of its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request on a TCP port may take, answer included.
const TCP_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Connections at a time on one port; further ones are closed at once.
const MAX_CONNECTIONS: usize = 64;

/// A port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address} for {purpose}")]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// What for.
    pub purpose: &'static str,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

/// Opens a port. `[::]` serves IPv4 as well; on a node without IPv6 it becomes `0.0.0.0`.
///
/// # Errors
/// The port is taken, or the address is not the node's.
pub async fn listen(
    address: SocketAddr,
    purpose: &'static str,
) -> Result<TcpListener, ListenError> {
    let opened = match TcpListener::bind(address).await {
        Err(error) if address.ip().is_unspecified() && is_without_ipv6(&error) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        opened => opened,
    };
    opened.map_err(|source| ListenError { address, purpose, source })
}

/// `ipv6.disable=1` answers EAFNOSUPPORT (97), `net.ipv6.conf.*.disable_ipv6` EADDRNOTAVAIL.
fn is_without_ipv6(error: &io::Error) -> bool {
    error.raw_os_error() == Some(97) || error.kind() == io::ErrorKind::AddrNotAvailable
}

/// Serves a router on a TCP port until the process is to end.
pub(super) async fn serve_tcp(listener: TcpListener, router: Router, mut shutdown: Shutdown) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.reached(Phase::Forced) => return,
        };
        while connections.try_join_next().is_some() {}
        let Ok((stream, _peer)) = accepted else {
            pause_after_failed_accept().await;
            continue;
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            continue;
        };
        let router = router.clone();
        connections.spawn(async move {
            let _late = tokio::time::timeout(TCP_TIMEOUT, serve(stream, router)).await;
            drop(permit);
        });
    }
}

/// `accept` fails at once, again and again, while the process has no file descriptor left.
pub(super) async fn pause_after_failed_accept() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// Serves the one request of a connection. A client that goes away or talks nonsense is no event.
pub(super) async fn serve<S>(stream: S, router: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        answer(router.clone(), request.map(Body::new))
    });
    let _ended = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn answer(
    mut router: Router,
    request: hyper::Request<Body>,
) -> impl Future<Output = Result<Response, Infallible>> {
    router.call(request)
}

/// An answer that is not a success.
pub(super) fn refuse(status: StatusCode, error: &dyn ToString, help: Option<&str>) -> Response {
    let view = ErrorView { error: error.to_string(), help: help.map(str::to_owned) };
    (status, Json(view)).into_response()
}
