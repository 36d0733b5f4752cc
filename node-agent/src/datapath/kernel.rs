//! The real [`Datapath`]: eBPF programs, pins, namespaces.

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use adit_core::enrolment::Step;
use adit_core::workload::PodUid;
use adit_shared::key::{MAX_PODS, MAX_WORKERS, Role};
use adit_shared::names;
use adit_shared::value::PodConfig;
use aya::Ebpf;
use aya::programs::links::{CgroupAttachMode, FdLink};
use aya::programs::{CgroupSockAddr, Program, ProgramError};

use crate::datapath::attached::{self, Rivals};
use crate::datapath::loader::Loader;
use crate::datapath::maps::{self, Maps, failed};
use crate::datapath::pins::{PinnedPod, Pins};
use crate::datapath::pod::{Checked, KernelPod};
use crate::datapath::routes::{self, Before, Routes};
use crate::datapath::{Adopted, Datapath, DatapathError, PodTarget, Settings, hold};
use crate::sys::interfaces::Interfaces;
use crate::sys::mount;
use crate::sys::netns::{self, Netns};

/// The kernel's side of one agent. Cheap to clone.
#[derive(Debug, Clone)]
pub struct KernelDatapath {
    node: Arc<Node>,
}

/// What all pods share.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) loader: Loader,
    pub(super) maps: Arc<Maps>,
    pub(super) pins: Pins,
    pub(super) workers: usize,
    /// Where the connect programs are attached.
    cgroup: File,
    /// The programs there: name and id.
    programs: Vec<(&'static str, u32)>,
    pods: Mutex<BTreeMap<PodUid, Place>>,
}

/// A pod's place among the pods of the node.
#[derive(Debug, Clone, Default)]
struct Place {
    index: u32,
    /// How many [`KernelPod`]s hold it.
    open: usize,
    /// The cookie of its namespace, while it is open.
    cookie: Option<u64>,
    /// The last one that was opened.
    pod: Weak<KernelPod>,
}

impl KernelDatapath {
    /// Takes over what an earlier agent left, or begins anew: maps, programs at the cgroup root, the
    /// indices of pods. Collects what is left of pods that are gone.
    ///
    /// # Errors
    /// Names the operation that failed and the kernel's answer.
    pub fn start(settings: &Settings, workers: usize) -> Result<Self, DatapathError> {
        if workers == 0 || workers > MAX_WORKERS as usize {
            return Err(DatapathError::Limit("workers: 1 to 16 are possible"));
        }
        mount::make_sysctls_writable()
            .map_err(|source| failed("make /proc/sys writable, for the sysctls of pods", source))?;
        let cgroup = settings.attach_point();
        let cgroup = cgroup.map_err(|source| failed("find the cgroup2 hierarchy", source))?;
        let pins = Pins::prepare(&settings.pins)?;
        maps::check_pinned(pins.directory())?;
        let loader = Loader::start(Some(pins.directory()))?;
        let mut object = loader.load(PodConfig::EMPTY)?;
        let mut programs = Vec::new();
        attach_to_cgroup(&mut object, &cgroup, |link, name, id| {
            programs.push((name, id));
            pins.replace(link, name)
        })?;
        let cgroup = File::open(&cgroup);
        let cgroup = cgroup.map_err(|source| failed("open the cgroup2 hierarchy", source))?;
        let node = Arc::new(Node {
            loader,
            maps: Arc::new(Maps::take(&mut object)?),
            pins,
            workers,
            cgroup,
            programs,
            pods: Mutex::default(),
        });
        node.adopt()?;
        Ok(Self { node })
    }

    /// Compares what this agent attached and entered with what is there, and describes what is
    /// missing: another process may have removed or replaced it.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn missing(&self) -> Result<Vec<String>, DatapathError> {
        let mut missing = self.node.missing_programs()?;
        let enrolled = self.node.maps.enrolled()?;
        let rivals = self.node.rivals()?;
        let pods: Vec<_> =
            self.node.pods().values().filter_map(|place| place.pod.upgrade()).collect();
        for pod in pods {
            missing.extend(pod.missing(&enrolled, &rivals)?);
        }
        Ok(missing)
    }

    /// Takes the listeners of these roles out of the kernel's sight, for all pods: from now on new
    /// connections wait for the next agent (program `hold`), as they do while none runs.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn stop_steering(&self, roles: &[Role]) -> Result<(), DatapathError> {
        let indices: Vec<u32> = self.node.pods().values().map(|place| place.index).collect();
        indices.into_iter().try_for_each(|index| self.node.maps.empty(index, roles))
    }

    /// What the programs have counted: a label and a number each.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counters(&self) -> Result<Vec<(&'static str, u64)>, DatapathError> {
        let counts = self.node.maps.counters()?;
        Ok(counts.into_iter().map(|(counter, count)| (counter.as_label(), count)).collect())
    }
}

impl Datapath for KernelDatapath {
    type Pod = KernelPod;

    fn adopted(&self) -> Vec<Adopted> {
        let pods = self.node.pins.pods().unwrap_or_else(|error| {
            tracing::error!(%error, "pinned pods cannot be listed");
            BTreeMap::new()
        });
        let adopted = |(uid, pod): (PodUid, PinnedPod)| Adopted { uid, alive: pod.netns.is_some() };
        pods.into_iter().map(adopted).collect()
    }

    async fn open(&self, target: &PodTarget) -> Result<Arc<KernelPod>, DatapathError> {
        let node = Arc::clone(&self.node);
        let target = target.clone();
        blocking(move || node.open(&target)).await
    }

    async fn perform(&self, pod: &Arc<KernelPod>, step: Step) -> Result<(), DatapathError> {
        let of = Arc::clone(pod);
        match step {
            Step::Listeners => pod.open_listeners(),
            Step::Slots => pod.fill_slots(),
            // The verifier takes its time.
            Step::Lookup => blocking(move || of.attach_lookup()).await,
            Step::Routes => pod.add_routes().await,
            Step::Capture => pod.capture(),
            // The kernel waits for grace periods.
            Step::Hold => blocking(move || of.attach_hold()).await,
        }
    }

    async fn undo(&self, pod: &Arc<KernelPod>, step: Step) -> Result<(), DatapathError> {
        match step {
            Step::Listeners => {
                pod.close_listeners();
                Ok(())
            }
            Step::Slots => pod.empty_slots(),
            Step::Lookup => pod.detach_lookup(),
            Step::Routes => pod.remove_routes().await,
            Step::Capture => pod.release(),
            // It goes with the look-up program, whose refusals it holds back.
            Step::Hold => Ok(()),
        }
    }

    fn forget(&self, uid: &PodUid) -> impl Future<Output = Result<(), DatapathError>> + Send {
        let node = Arc::clone(&self.node);
        let uid = uid.clone();
        async move { node.forget(&uid).await }
    }
}

impl Node {
    fn adopt(&self) -> Result<(), DatapathError> {
        let pods = self.pins.pods()?;
        for (uid, pod) in &pods {
            if pod.netns.is_none() {
                tracing::info!(pod = %uid, "collecting the pins of a pod that is gone");
                self.collect(uid, pod.index)?;
                continue;
            }
            let place = Place { index: pod.index, ..Place::default() };
            self.pods().insert(uid.clone(), place);
        }
        // An entry without pins is nobody's: its pod could neither be served nor found.
        let kept = self.pods().clone();
        for (cookie, index) in self.maps.enrolled()? {
            if !kept.values().any(|place| place.index == index) {
                self.maps.withdraw(cookie)?;
            }
        }
        Ok(())
    }

    fn open(self: Arc<Self>, target: &PodTarget) -> Result<Arc<KernelPod>, DatapathError> {
        let wrong = |why| DatapathError::WrongNetns { path: target.netns.clone(), why };
        let netns_error = |source| DatapathError::Netns { path: target.netns.clone(), source };
        let netns = Netns::open(&target.netns).map_err(netns_error)?;
        if netns.is_a_hosts().map_err(netns_error)? {
            return Err(wrong("it is the host's"));
        }
        let interfaces = netns.within(Interfaces::read);
        let interfaces = interfaces.and_then(|read| read).map_err(netns_error)?;
        let own = |address| interfaces.addresses.contains(address);
        if !target.addresses.iter().any(own) {
            return Err(wrong("it has none of the pod's addresses"));
        }
        self.refuse_rivals(&netns)?;
        let index = self.take_place(&target.uid, &netns, wrong)?;
        let checked = Checked {
            uid: target.uid.clone(),
            index,
            netns,
            addresses: target.addresses.clone(),
            interfaces,
        };
        let pod = Arc::new(KernelPod::new(Arc::clone(&self), checked));
        if let Some(place) = self.pods().get_mut(&target.uid) {
            place.pod = Arc::downgrade(&pod);
        }
        Ok(pod)
    }

    /// An error if another agent's programs act on the namespace.
    pub(super) fn refuse_rivals(&self, netns: &Netns) -> Result<(), DatapathError> {
        let rival = self.rivals()?.holding(netns, &[])?;
        rival.map_or(Ok(()), |rival| Err(DatapathError::Rival(rival.describe())))
    }

    fn rivals(&self) -> Result<Rivals<'_>, DatapathError> {
        let known: Vec<u32> = self.programs.iter().map(|(_, id)| *id).collect();
        Rivals::find(self.pins.directory(), &self.cgroup, &known)
    }

    fn missing_programs(&self) -> Result<Vec<String>, DatapathError> {
        let mut missing = Vec::new();
        for (name, id) in &self.programs {
            let Some(kind) = attached::attach_type(name) else {
                continue;
            };
            let there = attached::is_attached(&self.cgroup, kind, *id);
            if !there.map_err(|source| failed("ask what is attached to the cgroup", source))? {
                missing.push(format!("program {name} is not attached to the cgroup root any more"));
            } else if !self.pins.directory().join(name).exists() {
                missing
                    .push(format!("the pin of program {name} is gone: it would go with the agent"));
            }
        }
        Ok(missing)
    }

    /// The index of a pod that is being opened: the one it had, or the first that is free.
    fn take_place(
        &self,
        uid: &PodUid,
        netns: &Netns,
        wrong: impl Fn(&'static str) -> DatapathError,
    ) -> Result<u32, DatapathError> {
        let pinned = self.pins.pods()?;
        let stale = pinned.get(uid).filter(|pod| pod.netns.map(u64::from) != Some(netns.inode()));
        let mut pods = self.pods();
        if pods.iter().any(|(other, place)| other != uid && place.cookie == Some(netns.cookie())) {
            return Err(wrong("another pod is enrolled with it"));
        }
        if let Some(pod) = stale {
            // The pod has a new sandbox.
            self.collect(uid, pod.index)?;
        }
        let taken = |index: &u32| pods.values().any(|place| place.index == *index);
        let index = match pods.get(uid) {
            Some(place) => place.index,
            None => (0..MAX_PODS)
                .find(|index| !taken(index))
                .ok_or(DatapathError::Limit("1024 pods are enrolled on this node already"))?,
        };
        let place = pods.entry(uid.clone()).or_default();
        place.index = index;
        place.cookie = Some(netns.cookie());
        place.open += 1;
        Ok(index)
    }

    /// A [`KernelPod`] was dropped. Its index is free again unless something pinned depends on it.
    pub(super) fn closed(&self, uid: &PodUid) {
        let mut pods = self.pods();
        let Some(place) = pods.get_mut(uid) else {
            return;
        };
        place.open = place.open.saturating_sub(1);
        if place.open == 0 {
            place.cookie = None;
            let index = place.index;
            if !self.pins.has_pod(uid, index) {
                pods.remove(uid);
            }
        }
    }

    async fn forget(&self, uid: &PodUid) -> Result<(), DatapathError> {
        let Some(pod) = self.pins.pods()?.remove(uid) else {
            return Ok(());
        };
        self.withdraw(pod.index)?;
        if let Some(inode) = pod.netns {
            clear_netns(inode).await?;
        }
        self.collect(uid, pod.index)?;
        let mut pods = self.pods();
        if pods.get(uid).is_some_and(|place| place.open == 0) {
            pods.remove(uid);
        }
        Ok(())
    }

    /// Removes everything of a pod but what is inside its namespace.
    fn collect(&self, uid: &PodUid, index: u32) -> Result<(), DatapathError> {
        self.withdraw(index)?;
        self.pins.remove_pods(uid, index)?;
        self.maps.empty(index, &Role::ALL)
    }

    fn withdraw(&self, index: u32) -> Result<(), DatapathError> {
        for (cookie, of) in self.maps.enrolled()? {
            if of == index {
                self.maps.withdraw(cookie)?;
            }
        }
        Ok(())
    }

    fn pods(&self) -> MutexGuard<'_, BTreeMap<PodUid, Place>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes rules, routes, sysctls and filters from a namespace that is known by its inode, if it can be
/// reached.
pub(super) async fn clear_netns(inode: u32) -> Result<(), DatapathError> {
    let found = tokio::task::spawn_blocking(move || netns::find(u64::from(inode))).await;
    let Ok(Some(netns)) = found else {
        tracing::info!(inode, "a pod's namespace has no path: its rules stay, and serve nobody");
        return Ok(());
    };
    let interfaces = netns.within(Interfaces::read).and_then(|read| read);
    let interfaces = interfaces.map_err(|source| failed("read a pod's interfaces", source))?;
    hold::remove_filters(&netns, hold::entrances(&interfaces.devices))?;
    Routes::of(&netns)?.remove().await?;
    routes::restore_sysctls(&netns, Before::default())
}

/// Loads and attaches the programs at the root of the cgroup2 hierarchy. `keep` takes each link, with
/// the program's name and id.
pub(super) fn attach_to_cgroup(
    object: &mut Ebpf,
    cgroup: &Path,
    mut keep: impl FnMut(FdLink, &'static str, u32) -> Result<(), DatapathError>,
) -> Result<(), DatapathError> {
    let open = || format!("open {}", cgroup.display());
    let directory = File::open(cgroup).map_err(|source| failed(open(), source))?;
    for name in names::CGROUP_PROGRAMS {
        let what = || format!("attach program {name} to {}", cgroup.display());
        let program = object.program_mut(name);
        let program = program.ok_or_else(|| failed(what(), maps::missing(name)))?;
        let link = attach_one(program, &directory).map_err(|source| failed(what(), source))?;
        let id = program.info().map_err(|source| failed(what(), source))?.id();
        keep(link, name, id)?;
    }
    Ok(())
}

fn attach_one(program: &mut Program, cgroup: &File) -> Result<FdLink, ProgramError> {
    // A link at a cgroup always allows others beside it; the kernel refuses the flag that says so
    // (cgroup_bpf_link_attach, kernel/bpf/cgroup.c), which the other modes would send.
    let mode = CgroupAttachMode::Single;
    if let Program::SockOps(program) = program {
        program.load()?;
        let id = program.attach(cgroup, mode)?;
        return FdLink::try_from(program.take_link(id)?).map_err(|_link| ProgramError::NotAttached);
    }
    let program: &mut CgroupSockAddr = program.try_into()?;
    program.load()?;
    let id = program.attach(cgroup, mode)?;
    FdLink::try_from(program.take_link(id)?).map_err(|_link| ProgramError::NotAttached)
}

/// Does something that takes its time, off the runtime's threads.
async fn blocking<T, F>(f: F) -> Result<T, DatapathError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, DatapathError> + Send + 'static,
{
    let done = tokio::task::spawn_blocking(f).await;
    done.unwrap_or_else(|source| Err(failed("run a step", source)))
}
