//! The life of a flow, top to bottom: accepted → registered → decided → connected → forwarded →
//! ended. Each stage is one file; what it returns says what is now known.

mod accept;
mod authorize;
mod connect;
mod flows;
mod forward;
mod tcp;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use adit_core::flow::CloseReason;
use http::StatusCode;
use tokio::net::TcpStream;

pub(crate) use accept::{Arrived, Captured, Requested};
pub(crate) use flows::{Flow, Flows, refused_tunnel};

use crate::discovery::Worlds;
use crate::tunnel::{Broken, Incoming, Tunnels};
use forward::{End, forward};

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
pub(crate) async fn outbound(stages: Rc<Stages>, captured: Captured) {
    let flow = stages.flows.register_outbound(&stages.worlds.load(), &captured);
    let Captured { pod, tcp, dialled, .. } = captured;
    let source = End::tcp(tcp);
    let reason = flow.race(async {
        // Boxed: a connected flow does not carry the room its connecting needed.
        let link = Box::pin(connect::outward(&stages, &flow, &pod, dialled)).await;
        match link {
            Ok(connect::Link::Tunnel(end, _place)) => forward(&flow, source, end).await,
            Ok(connect::Link::Plain(end)) => forward(&flow, source, end).await,
            Err(reason) => reason,
        }
    });
    let reason = reason.await;
    flow.finish(reason);
}

/// A plaintext connection to an enrolled pod.
pub(crate) async fn inbound_plaintext(stages: Rc<Stages>, arrived: Arrived, tcp: TcpStream) {
    let flow = stages.flows.register_inbound(&stages.worlds.load(), &arrived);
    let source = End::tcp(tcp);
    let reason = flow.race(async {
        match Box::pin(to_application(&stages, &flow, &arrived)).await {
            Ok(application) => forward(&flow, source, application).await,
            Err(reason) => reason,
        }
    });
    let reason = reason.await;
    flow.finish(reason);
}

/// A stream in a tunnel to an enrolled pod. The answer 200 comes only after the application has
/// accepted.
pub(crate) async fn inbound_tunnelled(stages: Rc<Stages>, requested: Requested, request: Incoming) {
    let mut responder = request.responder;
    let arrived = match requested {
        Requested::Stream(arrived) => arrived,
        Requested::Refused { arrived, reason } => {
            responder.reject(status(reason));
            let flow = stages.flows.register_inbound(&stages.worlds.load(), &arrived);
            return flow.finish(reason);
        }
    };
    let flow = stages.flows.register_inbound(&stages.worlds.load(), &arrived);
    let connected = flow.unless_ended(async {
        tokio::select! {
            biased;
            application = Box::pin(to_application(&stages, &flow, &arrived)) => application,
            gone = responder.given_up() => Err(match gone {
                Broken::Reset | Broken::Denied => CloseReason::ResetBySource,
                Broken::Lost | Broken::Silent | Broken::Evicted => CloseReason::TunnelLost,
            }),
        }
    });
    let reason = match connected.await {
        Ok(application) => match responder.accept() {
            Ok((reader, writer)) => {
                flow.race(forward(&flow, End::new(reader, writer), application)).await
            }
            Err(_gone) => CloseReason::TunnelLost,
        },
        Err(reason) => {
            responder.reject(status(reason));
            reason
        }
    };
    flow.finish(reason);
}

/// Authorised first, then connected: `connect::inward` takes the permit.
async fn to_application(
    stages: &Stages,
    flow: &Flow,
    arrived: &Arrived,
) -> Result<End<tcp::Reader, tcp::Writer>, CloseReason> {
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
        | CloseReason::Drained
        | CloseReason::Local => StatusCode::SERVICE_UNAVAILABLE,
    }
}

#[cfg(test)]
mod tests;
