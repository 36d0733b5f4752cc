//! The life of a flow, top to bottom: accepted → registered → decided → connected → forwarded →
//! ended. Each stage is one file; what it returns says what is now known.
//!
//! A flow's task is as large as the largest of its stages for as long as the flow lives. So everything
//! up to the connection is in a box, which goes when that stands, and what forwards takes its ends by
//! reference: what is moved into a future has room there twice.

mod accept;
mod authorize;
mod connect;
mod flows;
mod forward;
mod tcp;

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use adit_core::flow::CloseReason;
use http::StatusCode;
use tokio::net::TcpStream;

pub(crate) use accept::{Arrived, Captured, Requested};
pub(crate) use flows::{Flow, Flows, refused_tunnel};

use crate::discovery::Worlds;
use crate::tunnel::{Broken, Incoming, ReadHalf, Reader, Tunnels, WriteHalf, Writer};
use connect::Link;
use forward::{End, TcpEnd, forward};

/// Keep-alive probes that a plaintext peer may leave unanswered.
const PROBES: u32 = 6;

/// What the stages need of the worker they run on.
pub(crate) struct Stages {
    /// The world, loaded once per decision.
    pub(crate) worlds: Worlds,
    /// The tunnels that this worker dials.
    pub(crate) tunnels: Tunnels,
    /// The flows that live on this worker.
    pub(crate) flows: Rc<Flows>,
    /// The cluster's name, for baggage.
    pub(crate) cluster: Arc<str>,
    /// How long a flow waits for its connection.
    pub(crate) connect_timeout: Duration,
    /// What can be set about flows.
    pub(crate) settings: Settings,
}

/// What can be set about flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// A plaintext peer that was silent for this long is probed (TCP keep-alive).
    pub keepalive_time: Duration,
    /// A peer that does not answer is probed again after this time. With the sixth probe that is not
    /// answered the flow ends.
    pub keepalive_interval: Duration,
}

impl Settings {
    /// Lets the kernel notice that a plaintext peer's host is gone. A tunnel's PING does that for
    /// its streams, and an application of this node ends with its sockets. No TCP_USER_TIMEOUT:
    /// that would end a connection whose reader lives and is slow (tcp_probe_timer in the kernel).
    pub(crate) fn keep_alive(&self, tcp: &TcpStream) -> std::io::Result<()> {
        let keepalive = socket2::TcpKeepalive::new()
            .with_time(self.keepalive_time)
            .with_interval(self.keepalive_interval)
            .with_retries(PROBES);
        socket2::SockRef::from(tcp).set_tcp_keepalive(&keepalive)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            keepalive_time: Duration::from_secs(60),
            keepalive_interval: Duration::from_secs(10),
        }
    }
}

/// A connection that an enrolled pod opened.
pub(crate) fn outbound(stages: Rc<Stages>, captured: Captured) -> impl Future<Output = ()> {
    let connected = Box::pin(connect_outward(stages, captured));
    async {
        let (flow, connected) = connected.await;
        let reason = match connected {
            Ok((mut source, Link::Tunnel(mut end, _place))) => {
                flow.race(pin!(forward(&flow, &mut source, &mut end))).await
            }
            Ok((mut source, Link::Plain(mut end))) => {
                flow.race(pin!(forward(&flow, &mut source, &mut end))).await
            }
            Err(reason) => reason,
        };
        flow.finish(reason);
    }
}

/// A plaintext connection to an enrolled pod.
pub(crate) fn inbound_plaintext(
    stages: Rc<Stages>,
    arrived: Arrived,
    tcp: TcpStream,
) -> impl Future<Output = ()> {
    carry(Box::pin(connect_inward(stages, arrived, tcp)))
}

/// A stream in a tunnel to an enrolled pod. The answer 200 comes only after the application has
/// accepted.
pub(crate) fn inbound_tunnelled(
    stages: Rc<Stages>,
    requested: Requested,
    request: Incoming,
) -> impl Future<Output = ()> {
    carry(Box::pin(answer(stages, requested, request)))
}

/// The two ends of a flow, or why they were not connected.
type Connected<Source, Destination> = (Flow, Result<(Source, Destination), CloseReason>);

async fn carry<R1: ReadHalf, W1: WriteHalf, R2: ReadHalf, W2: WriteHalf>(
    connecting: Pin<Box<impl Future<Output = Connected<End<R1, W1>, End<R2, W2>>>>>,
) {
    let (flow, connected) = connecting.await;
    let reason = match connected {
        Ok((mut source, mut destination)) => {
            flow.race(pin!(forward(&flow, &mut source, &mut destination))).await
        }
        Err(reason) => reason,
    };
    flow.finish(reason);
}

async fn connect_outward(stages: Rc<Stages>, captured: Captured) -> Connected<TcpEnd, Link> {
    let flow = stages.flows.register_outbound(&stages.worlds.load(), &captured);
    let Captured { pod, tcp, dialled, .. } = captured;
    let source = End::tcp(tcp);
    let link = flow.unless_ended(connect::outward(&stages, &flow, &pod, dialled)).await;
    (flow, link.map(|link| (source, link)))
}

async fn connect_inward(
    stages: Rc<Stages>,
    arrived: Arrived,
    tcp: TcpStream,
) -> Connected<TcpEnd, TcpEnd> {
    let flow = stages.flows.register_inbound(&stages.worlds.load(), &arrived);
    let source = End::tcp(tcp);
    let application = flow.unless_ended(to_application(&stages, &flow, &arrived)).await;
    (flow, application.map(|application| (source, application)))
}

async fn answer(
    stages: Rc<Stages>,
    requested: Requested,
    request: Incoming,
) -> Connected<End<Reader, Writer>, TcpEnd> {
    let mut responder = request.responder;
    let arrived = match requested {
        Requested::Stream(arrived) => arrived,
        Requested::Refused { arrived, reason } => {
            responder.reject(status(reason));
            let flow = stages.flows.register_inbound(&stages.worlds.load(), &arrived);
            return (flow, Err(reason));
        }
    };
    let flow = stages.flows.register_inbound(&stages.worlds.load(), &arrived);
    let connected = flow.unless_ended(async {
        tokio::select! {
            biased;
            application = to_application(&stages, &flow, &arrived) => application,
            gone = responder.given_up() => Err(match gone {
                Broken::Reset | Broken::Denied => CloseReason::ResetBySource,
                Broken::Lost | Broken::Silent | Broken::Evicted => CloseReason::TunnelLost,
            }),
        }
    });
    let answered = match connected.await {
        Ok(application) => match responder.accept() {
            Ok((reader, writer)) => Ok((End::new(reader, writer), application)),
            Err(_gone) => Err(CloseReason::TunnelLost),
        },
        Err(reason) => {
            responder.reject(status(reason));
            Err(reason)
        }
    };
    (flow, answered)
}

/// Authorised first, then connected: `connect::inward` takes the permit.
async fn to_application(
    stages: &Stages,
    flow: &Flow,
    arrived: &Arrived,
) -> Result<TcpEnd, CloseReason> {
    let permit = match authorize::probe(stages, flow, arrived).await {
        Some(permit) => permit,
        None => authorize::inbound(stages, flow, arrived)?,
    };
    connect::inward(stages, arrived, &permit).await
}

/// The answer to a CONNECT that did not come through, as Istio's agents give it.
const fn status(reason: CloseReason) -> StatusCode {
    match reason {
        CloseReason::Denied(adit_core::policy::Denied::NotItsAddress) => StatusCode::BAD_REQUEST,
        CloseReason::Malformed(_) => StatusCode::BAD_REQUEST,
        CloseReason::Denied(_) => StatusCode::UNAUTHORIZED,
        CloseReason::Finished
        | CloseReason::ResetBySource
        | CloseReason::ResetByDestination
        | CloseReason::Refused(_)
        | CloseReason::Rejected(_)
        | CloseReason::DestinationNotReady
        | CloseReason::ConnectFailed(_)
        | CloseReason::Tls(_)
        | CloseReason::SourceSilent
        | CloseReason::DestinationSilent
        | CloseReason::MemoryLimit
        | CloseReason::TunnelLost
        | CloseReason::TunnelOutlived(_)
        | CloseReason::NoCertificate(_)
        | CloseReason::PodGone
        | CloseReason::Strayed
        | CloseReason::Drained
        | CloseReason::Local => StatusCode::SERVICE_UNAVAILABLE,
    }
}

#[cfg(test)]
mod tests;
