//! The third stage: the connection onwards, into a tunnel, in plaintext, or to the application.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_core::flow::{CloseReason, ConnectFailure};
use adit_core::hbone;
use adit_core::policy::Permit;
use adit_core::route::{self, Direct, Hop, Plan, Query};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Stages;
use super::accept::Arrived;
use super::flows::Flow;
use super::forward::{End, TcpEnd};
use crate::datapath::{Dial, EnrolledPod, connect_failure};
use crate::sys::sockopt;
use crate::tunnel::{ConnectHead, OpenError, Place, Reader, Writer};

/// The first pause before another attempt at a tunnel; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// An outbound flow's connection onwards.
pub(super) enum Link {
    /// A stream in a tunnel, and its place there.
    Tunnel(End<Reader, Writer>, Place),
    /// Plain TCP.
    Plain(TcpEnd),
}

/// Connects an outbound flow as the world says at the moment. While the other node's agent cannot
/// be reached, or it is not known who the destination is now, it tries again, and asks the world again,
/// until the time limit: the pod may be being enrolled or withdrawn, or its agent restarted, and a pod
/// and its address come soon one after the other.
pub(super) async fn outward(
    stages: &Stages,
    flow: &Flow,
    pod: &Arc<EnrolledPod>,
    dialled: SocketAddr,
) -> Result<Link, CloseReason> {
    let deadline = Instant::now() + stages.connect_timeout;
    let mut pause = FIRST_PAUSE;
    // The pod's own, also for a connection that the application bound to 127.0.0.1.
    let mut own = pod.addresses.iter().copied();
    let source = own.find(|ip| ip.is_ipv4() == dialled.is_ipv4()).unwrap_or_else(|| dialled.ip());
    let caller = Some(&pod.uid);
    loop {
        let query = Query { caller, dialled, source, random: rand::random() };
        let plan = route::plan(&stages.worlds.load(), &query);
        flow.planned(&plan);
        let error = match plan {
            Plan::Tunnel(hop) => match tunnel(stages, flow, pod, &hop).await {
                Ok(link) => return Ok(link),
                Err(error) => not_ready(error),
            },
            Plan::Plaintext(direct) => return plaintext(stages, pod, &direct).await,
            Plan::Refuse(why) => {
                OpenError { reason: CloseReason::Refused(why), again: why.may_pass() }
            }
        };
        if !error.again || Instant::now() + pause >= deadline {
            return Err(error.reason);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What refuses a tunnel is the pod's own network, where no agent listens.
fn not_ready(error: OpenError) -> OpenError {
    if error.reason == CloseReason::ConnectFailed(ConnectFailure::Refused) {
        return OpenError { reason: CloseReason::DestinationNotReady, ..error };
    }
    error
}

async fn tunnel(
    stages: &Stages,
    flow: &Flow,
    pod: &Arc<EnrolledPod>,
    hop: &Hop,
) -> Result<Link, OpenError> {
    let head = head(stages, pod, hop);
    let limit = stages.connect_timeout;
    let opened = tokio::time::timeout(limit, stages.tunnels.open(pod, hop, &head)).await;
    let timed_out = ConnectFailure::TimedOut;
    let timed_out = OpenError { reason: CloseReason::ConnectFailed(timed_out), again: false };
    let opened = opened.unwrap_or(Err(timed_out))?;
    flow.tunnelled(&opened.ends);
    let end = End::new(opened.reader, opened.writer);
    Ok(Link::Tunnel(end, opened.place))
}

fn head(stages: &Stages, pod: &EnrolledPod, hop: &Hop) -> ConnectHead {
    let world = stages.worlds.load();
    let caller = world.workload(&pod.uid);
    let source = pod.addresses.iter().find(|ip| ip.is_ipv4() == hop.destination.is_ipv4());
    ConnectHead {
        authority: hbone::authority(hop.destination),
        baggage: caller.map(|caller| hbone::baggage(&stages.cluster, caller)),
        forwarded: source.map(|source| hbone::forwarded(*source, hop.service.as_ref())),
        traceparent: hbone::traceparent(rand::random(), rand::random()),
    }
}

async fn plaintext(
    stages: &Stages,
    pod: &EnrolledPod,
    direct: &Direct,
) -> Result<Link, CloseReason> {
    let dial = pod.sockets.outward(direct.destination);
    let tcp = establish(dial, stages.connect_timeout).await?;
    stages.settings.keep_alive(&tcp).map_err(|_error| CloseReason::Local)?;
    Ok(Link::Plain(End::tcp(tcp)))
}

/// Connects a permitted flow to the application, from the client's address.
pub(super) async fn inward(
    stages: &Stages,
    arrived: &Arrived,
    permit: &Permit,
) -> Result<TcpEnd, CloseReason> {
    let dial = arrived.pod.sockets.inward(arrived.source.ip(), permit.destination());
    Ok(End::tcp(establish(dial, stages.connect_timeout).await?))
}

async fn establish(dial: std::io::Result<Dial>, limit: Duration) -> Result<TcpStream, CloseReason> {
    let connect = async {
        let dial = dial?;
        sockopt::reset_on_close(&dial.socket)?;
        dial.connect().await
    };
    match tokio::time::timeout(limit, connect).await {
        Ok(Ok(tcp)) => Ok(tcp),
        Ok(Err(error)) => Err(CloseReason::ConnectFailed(connect_failure(&error))),
        Err(_elapsed) => Err(CloseReason::ConnectFailed(ConnectFailure::TimedOut)),
    }
}
