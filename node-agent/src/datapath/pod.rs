//! An open pod, and what each step does to it.

use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use adit_core::workload::PodUid;
use adit_shared::key::Role;
use adit_shared::names;
use adit_shared::value::PodConfig;
use aya::Ebpf;
use aya::programs::links::FdLink;

use crate::datapath::attached::{self, Rivals};
use crate::datapath::kernel::Node;
use crate::datapath::maps::{self, failed};
use crate::datapath::routes::{self, Before, Plan, Routes};
use crate::datapath::sockets::KernelSockets;
use crate::datapath::{DatapathError, Listeners, OpenPod, PodSockets, hold, marked};
use crate::sys::bpf::AttachType;
use crate::sys::interfaces::Interfaces;
use crate::sys::netns::Netns;

/// How often it is seen whether the last captured connection of a withdrawn pod has ended.
const LEFTOVERS_PERIOD: Duration = Duration::from_secs(2);

/// A pod whose namespace is open.
#[derive(Debug)]
pub struct KernelPod {
    node: Arc<Node>,
    uid: PodUid,
    index: u32,
    netns: Arc<Netns>,
    addresses: Vec<IpAddr>,
    interfaces: Interfaces,
    sockets: Arc<KernelSockets>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// For the workers to take.
    listeners: Vec<Listeners>,
    /// The same sockets, to fill the slots with.
    slots: Vec<[OwnedFd; 3]>,
    /// The id of the look-up program, while it is attached.
    lookup: Option<u32>,
    /// What the look-up program was loaded from, for the program that is attached last.
    object: Option<Ebpf>,
    /// Whether its connections are captured.
    captured: bool,
    /// What the sysctls are to be again.
    before: Before,
    /// Counts the times the routes were wanted, so that a removal that waits sees that it is stale.
    routes_wanted: u64,
}

/// What a pod is made of once it was checked.
#[derive(Debug)]
pub(super) struct Checked {
    pub uid: PodUid,
    pub index: u32,
    pub netns: Netns,
    /// As Kubernetes knows them.
    pub addresses: Vec<IpAddr>,
    pub interfaces: Interfaces,
}

impl KernelPod {
    pub(super) fn new(node: Arc<Node>, checked: Checked) -> Self {
        let Checked { uid, index, netns, addresses, interfaces } = checked;
        let netns = Arc::new(netns);
        let sockets = KernelSockets::new(Arc::clone(&netns), Arc::clone(&node.maps));
        Self {
            node,
            uid,
            index,
            netns,
            addresses,
            interfaces,
            sockets: Arc::new(sockets),
            state: Mutex::default(),
        }
    }

    pub(super) fn open_listeners(&self) -> Result<(), DatapathError> {
        let mut state = self.state();
        if !state.slots.is_empty() {
            return Ok(());
        }
        let socket = |source| DatapathError::Socket {
            what: "open the listeners in the pod's network namespace",
            source,
        };
        let outside = self.interfaces.only_device();
        if outside.is_none() {
            tracing::info!(
                pod = %self.uid,
                interfaces = self.interfaces.devices.len(),
                "not exactly one interface: listeners are bound to none"
            );
        }
        let listeners = self.sockets.listeners(self.node.workers, outside).map_err(socket)?;
        let slots: io::Result<Vec<_>> = listeners.iter().map(clone_listeners).collect();
        state.slots = slots.map_err(socket)?;
        state.listeners = listeners;
        Ok(())
    }

    pub(super) fn close_listeners(&self) {
        let mut state = self.state();
        state.listeners.clear();
        state.slots.clear();
    }

    pub(super) fn fill_slots(&self) -> Result<(), DatapathError> {
        let state = self.state();
        if state.slots.is_empty() {
            return Err(DatapathError::Socket {
                what: "enter the listeners in map LISTENERS",
                source: io::Error::new(io::ErrorKind::NotConnected, "the listeners are not open"),
            });
        }
        for (place, role) in Role::ALL.into_iter().enumerate() {
            let of_role: Vec<_> =
                state.slots.iter().filter_map(|worker| worker.get(place)).collect();
            self.node.maps.fill(self.index, role, &of_role)?;
        }
        Ok(())
    }

    pub(super) fn empty_slots(&self) -> Result<(), DatapathError> {
        self.node.maps.empty(self.index, &Role::ALL)
    }

    /// Loads and attaches the look-up program. It takes the place of one that an earlier agent left,
    /// with the same index and perhaps another number of workers.
    pub(super) fn attach_lookup(&self) -> Result<(), DatapathError> {
        self.node.refuse_rivals(&self.netns)?;
        let mut object = self.node.loader.load(self.config())?;
        let program = maps::load_lookup(&mut object)?;
        let what = "attach the socket look-up program to the pod's network namespace";
        let link = program
            .attach(&*self.netns)
            .and_then(|id| program.take_link(id))
            .map_err(|source| failed(what, source))?;
        let id = program.info().map_err(|source| failed(what, source))?.id();
        self.node.pins.replace_pods(FdLink::from(link), &self.uid, self.index, names::LOOKUP)?;
        let mut state = self.state();
        state.lookup = Some(id);
        state.object = Some(object);
        Ok(())
    }

    /// Only while the agent is away does it make a difference, and none to what is captured.
    pub(super) fn attach_hold(&self) -> Result<(), DatapathError> {
        let loaded = self.state().object.take();
        let mut object = match loaded {
            Some(object) => object,
            // An attempt before this one took it.
            None => self.node.loader.load(self.config())?,
        };
        let interfaces = hold::entrances(&self.interfaces.devices);
        hold::attach(&mut object, &self.netns, interfaces, |link, place| {
            let name = format!("{}_{place}", names::HOLD);
            self.node.pins.replace_pods(link, &self.uid, self.index, &name)
        })
    }

    pub(super) fn detach_lookup(&self) -> Result<(), DatapathError> {
        {
            let mut state = self.state();
            state.lookup = None;
            state.object = None;
        }
        hold::remove_filters(&self.netns, hold::entrances(&self.interfaces.devices))?;
        self.node.pins.remove_pods(&self.uid, self.index)
    }

    fn config(&self) -> PodConfig {
        let mut config = PodConfig {
            index: self.index,
            workers: u32::try_from(self.node.workers).unwrap_or(u32::MAX),
            ..PodConfig::EMPTY
        };
        let found = &self.interfaces.addresses;
        let known = self.addresses.iter().filter(|ip| found.contains(ip));
        let others = found.iter().filter(|ip| !self.addresses.contains(ip));
        for address in known.chain(others) {
            if !config.add(*address) {
                tracing::warn!(pod = %self.uid, %address, "too many own addresses: connections to this one are taken for the pod's own");
            }
        }
        config
    }

    pub(super) async fn add_routes(&self) -> Result<(), DatapathError> {
        let plan = Plan::new(&self.interfaces, &self.addresses);
        let routes = Routes::of(&self.netns)?;
        self.state().routes_wanted += 1;
        let were_ours = routes.exist().await?;
        let before = routes::set_sysctls(&self.netns)?;
        if !were_ours {
            self.state().before = before;
        }
        routes.add(&plan).await
    }

    /// Removes rule, routes and sysctl, now or when the last captured connection has ended.
    pub(super) async fn remove_routes(self: &Arc<Self>) -> Result<(), DatapathError> {
        let wanted = self.state().routes_wanted;
        if !self.has_marked() {
            return self.remove_routes_now().await;
        }
        tracing::debug!(pod = %self.uid, "routes stay until the last captured connection has ended");
        let leftovers = Leftovers { netns: Arc::clone(&self.netns), before: self.state().before };
        let pod = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LEFTOVERS_PERIOD).await;
                if pod.upgrade().is_some_and(|pod| pod.state().routes_wanted != wanted) {
                    return; // enrolled again
                }
                if !has_marked(&leftovers.netns) {
                    break;
                }
            }
            if let Err(error) = leftovers.remove().await {
                tracing::warn!(%error, "routes of a withdrawn pod stay; they serve nobody");
            }
        });
        Ok(())
    }

    async fn remove_routes_now(&self) -> Result<(), DatapathError> {
        let leftovers = Leftovers { netns: Arc::clone(&self.netns), before: self.state().before };
        leftovers.remove().await
    }

    fn has_marked(&self) -> bool {
        has_marked(&self.netns)
    }

    pub(super) fn capture(&self) -> Result<(), DatapathError> {
        self.node.refuse_rivals(&self.netns)?;
        self.node.maps.enrol(self.netns.cookie(), self.index)?;
        self.state().captured = true;
        Ok(())
    }

    pub(super) fn release(&self) -> Result<(), DatapathError> {
        self.state().captured = false;
        self.node.maps.withdraw(self.netns.cookie())
    }

    /// What is missing of the pod in the kernel, given the namespaces that are captured. A slot that
    /// turns out to be empty is filled by the look at it.
    pub(super) fn missing(
        &self,
        enrolled: &[(u64, u32)],
        rivals: &Rivals<'_>,
    ) -> Result<Vec<String>, DatapathError> {
        let state = self.state();
        let mut missing = Vec::new();
        let mut say = |what: &str| missing.push(format!("pod {}: {what}", self.uid));
        if let Some(id) = state.lookup {
            let there = attached::is_attached(&*self.netns, AttachType::SkLookup, id);
            if !there.map_err(|source| failed("ask what is attached to the pod", source))? {
                say(
                    "its look-up program is not attached any more: connections to it pass the agent by",
                );
            }
        }
        if state.captured && !enrolled.contains(&(self.netns.cookie(), self.index)) {
            say("it is not in map ENROLLED any more: its connections leave in plaintext");
        }
        if state.lookup.is_some() {
            for (place, role) in Role::ALL.into_iter().enumerate() {
                let first = state.slots.first().and_then(|worker| worker.get(place));
                if let Some(listener) = first
                    && !self.node.maps.is_filled(self.index, role, listener)?
                {
                    say("a listener was missing from map LISTENERS");
                }
            }
        }
        if let Some(rival) = rivals.holding(&self.netns, state.lookup.as_slice())? {
            say(&rival.describe());
        }
        Ok(missing)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for KernelPod {
    fn drop(&mut self) {
        self.node.closed(&self.uid);
    }
}

impl OpenPod for KernelPod {
    fn take_listeners(&self) -> Vec<Listeners> {
        std::mem::take(&mut self.state().listeners)
    }

    fn sockets(&self) -> Arc<dyn PodSockets> {
        let sockets: Arc<KernelSockets> = Arc::clone(&self.sockets);
        sockets
    }
}

/// What is in a namespace besides sockets and links.
struct Leftovers {
    netns: Arc<Netns>,
    before: Before,
}

impl Leftovers {
    async fn remove(&self) -> Result<(), DatapathError> {
        Routes::of(&self.netns)?.remove().await?;
        routes::restore_sysctls(&self.netns, self.before)
    }
}

/// Whether captured connections are open. Not knowing counts as yes: rules for a mark that nothing
/// bears do no harm, and an open connection without them would leave the pod in plaintext.
fn has_marked(netns: &Netns) -> bool {
    marked::any(netns).unwrap_or_else(|error| {
        tracing::warn!(%error, netns = %netns.path().display(), "open connections cannot be listed");
        true
    })
}

fn clone_listeners(of_worker: &Listeners) -> io::Result<[OwnedFd; 3]> {
    let Listeners { outbound, hbone, plaintext } = of_worker;
    let clone = |listener: &TcpListener| listener.try_clone().map(OwnedFd::from);
    Ok([clone(outbound)?, clone(hbone)?, clone(plaintext)?])
}
