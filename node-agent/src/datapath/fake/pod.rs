//! One pod of the fake datapath.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use adit_core::enrolment::Step;
use adit_core::workload::PodUid;
use tokio::net::TcpStream;

use super::{FakeNetwork, lock};
use crate::datapath::{Dial, Listeners, OpenPod, PodSockets, PodTarget};

/// The port on which a pod's tunnels arrive.
const HBONE: u16 = 15008;

/// A pod.
#[derive(Debug)]
pub struct FakePod {
    target: PodTarget,
    network: FakeNetwork,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    standing: BTreeSet<Step>,
    listeners: Vec<Listeners>,
    made: Vec<Slot>,
    slots: Vec<Slot>,
    next: usize,
}

/// Where the listeners of one worker are.
#[derive(Debug, Clone, Copy)]
struct Slot {
    outbound: SocketAddr,
    hbone: SocketAddr,
    plaintext: SocketAddr,
}

impl FakePod {
    /// `before`: an earlier agent captured it, whose listeners are gone.
    pub(super) fn new(target: &PodTarget, network: &FakeNetwork, before: bool) -> Self {
        let mut state = State::default();
        if before {
            state.standing.extend(Step::ALL);
            state.standing.remove(&Step::Listeners);
            state.standing.remove(&Step::Hold);
        }
        Self {
            target: target.clone(),
            network: network.clone(),
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// The steps that stand.
    #[must_use]
    pub fn standing(&self) -> Vec<Step> {
        lock(&self.state).standing.iter().copied().collect()
    }

    /// Connects as the pod's application does.
    ///
    /// # Errors
    /// The connection's.
    pub async fn connect(&self, destination: SocketAddr) -> io::Result<TcpStream> {
        self.dial(destination)?.connect().await
    }

    /// Connects to the agent's outbound listener itself, as a port scan of the pod would: its
    /// "original destination" is one that is never steered there.
    ///
    /// # Errors
    /// The connection's.
    pub async fn connect_captured(&self, destination: SocketAddr) -> io::Result<TcpStream> {
        let to = self.slot().map(|slot| slot.outbound);
        self.network.dial_to(self.address(), destination, to)?.connect().await
    }

    /// The pod's first address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        let first = self.target.addresses.first();
        first.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| *address)
    }

    fn dial(&self, destination: SocketAddr) -> io::Result<Dial> {
        let captured = lock(&self.state).standing.contains(&Step::Capture);
        let own = self.target.addresses.contains(&destination.ip());
        if captured && !own {
            let to = self.slot().map(|slot| slot.outbound);
            return self.network.dial_to(self.address(), destination, to);
        }
        self.network.dial(self.address(), destination)
    }

    pub(super) const fn uid(&self) -> &PodUid {
        &self.target.uid
    }

    /// The listener for a connection to the pod.
    pub(super) fn inbound(&self, port: u16) -> Option<SocketAddr> {
        let slot = self.slot()?;
        Some(if port == HBONE { slot.hbone } else { slot.plaintext })
    }

    /// One worker's after the other's.
    fn slot(&self) -> Option<Slot> {
        let mut state = lock(&self.state);
        state.next = state.next.wrapping_add(1);
        let at = state.next.checked_rem(state.slots.len())?;
        state.slots.get(at).copied()
    }

    pub(super) fn perform(self: &Arc<Self>, step: Step, workers: usize) -> io::Result<()> {
        let fresh = lock(&self.state).standing.insert(step);
        match step {
            Step::Listeners if fresh => {
                for _ in 0..workers {
                    let (listeners, slot) = listen()?;
                    let mut state = lock(&self.state);
                    state.listeners.push(listeners);
                    state.made.push(slot);
                }
            }
            Step::Slots => {
                let mut state = lock(&self.state);
                state.slots = state.made.clone();
            }
            Step::Lookup => {
                for address in &self.target.addresses {
                    self.network.look_up(*address, Arc::downgrade(self));
                }
            }
            Step::Listeners | Step::Routes | Step::Capture | Step::Hold => {}
        }
        Ok(())
    }

    pub(super) fn undo(&self, step: Step) {
        let mut state = lock(&self.state);
        state.standing.remove(&step);
        match step {
            Step::Listeners => {
                state.listeners.clear();
                state.made.clear();
            }
            Step::Slots => state.slots.clear(),
            Step::Lookup => {
                state.standing.remove(&Step::Hold);
                for address in &self.target.addresses {
                    self.network.look_up_no_more(*address);
                }
            }
            Step::Routes | Step::Capture | Step::Hold => {}
        }
    }
}

impl OpenPod for FakePod {
    fn take_listeners(&self) -> Vec<Listeners> {
        std::mem::take(&mut lock(&self.state).listeners)
    }

    fn sockets(&self) -> Arc<dyn PodSockets> {
        Arc::new(Self {
            target: self.target.clone(),
            network: self.network.clone(),
            state: Arc::clone(&self.state),
        })
    }
}

impl PodSockets for FakePod {
    fn original_destination(&self, accepted: &TcpStream) -> io::Result<SocketAddr> {
        self.network
            .original(accepted.peer_addr()?)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn outward(&self, destination: SocketAddr) -> io::Result<Dial> {
        self.network.dial(self.address(), destination)
    }

    fn inward(&self, source: IpAddr, destination: SocketAddr) -> io::Result<Dial> {
        self.network.dial_inward(source, destination)
    }
}

fn listen() -> io::Result<(Listeners, Slot)> {
    let bind = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok::<_, io::Error>((listener, address))
    };
    let (outbound, outbound_at) = bind()?;
    let (hbone, hbone_at) = bind()?;
    let (plaintext, plaintext_at) = bind()?;
    let listeners = Listeners { outbound, hbone, plaintext };
    let slot = Slot { outbound: outbound_at, hbone: hbone_at, plaintext: plaintext_at };
    Ok((listeners, slot))
}
