//! Where pods are, for those whose description does not say: a pod's network namespace, as the CNI
//! plugin told it or as its processes show it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use adit_core::enrolment::Target;
use adit_core::workload::{PodUid, Workload};
use tokio::sync::Notify;

use crate::shutdown::{Phase, Shutdown};

/// How soon pods that were not found are looked for again: a pod has an address before it has a process.
/// Each time nothing new is missing, it takes twice as long.
const AGAIN: Duration = Duration::from_millis(250);

/// But no longer than this.
const AGAIN_AT_LAST: Duration = Duration::from_secs(8);

/// Finds the network namespaces of the pods that are asked for, by path.
pub type Find = fn(&dyn Fn(&PodUid) -> bool) -> io::Result<BTreeMap<PodUid, PathBuf>>;

/// Where one pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The path of its network namespace.
    pub netns: Arc<str>,
    /// The addresses it had there.
    pub addresses: Vec<IpAddr>,
}

/// Where pods are. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Places(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// `State::fresh` is not empty any more.
    found: Notify,
    /// There is another pod to look for.
    missed: Notify,
}

/// What is known of a pod's place.
#[derive(Debug)]
struct Known {
    place: Place,
    /// Whether the pod was described with an address of this place: one with another address has left
    /// it. Before, it is the description that is not there yet.
    described: bool,
}

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<PodUid, Known>,
    /// Pods whose place has changed since somebody looked, or that have ended.
    fresh: BTreeSet<PodUid>,
    /// Pods that are looked for, with the addresses they have.
    missing: BTreeMap<PodUid, Vec<IpAddr>>,
    /// Pods that discovery has lost, and whether the last of their processes has ended.
    leaving: BTreeMap<PodUid, bool>,
    /// Whether anybody looks for pods.
    searching: bool,
}

impl Places {
    /// Enters a place, such as the CNI plugin knows before anybody else.
    pub fn tell(&self, uid: PodUid, place: Place) {
        self.put(uid, Known { place, described: false });
    }

    fn put(&self, uid: PodUid, known: Known) {
        let mut state = self.state();
        state.missing.remove(&uid);
        if state.known.get(&uid).is_none_or(|before| before.place != known.place) {
            state.known.insert(uid.clone(), known);
            state.fresh.insert(uid);
            self.0.found.notify_one();
        }
    }

    /// The pod, as far as its description and what is known of its place tell. It is looked for from
    /// now on if that is not enough to find it.
    pub(super) fn target(&self, pod: &Workload) -> Target {
        let mut target = Target {
            uid: pod.uid.clone(),
            name: pod.name.clone(),
            identity: pod.identity.clone(),
            addresses: pod.addresses.clone(),
            netns: pod.netns.clone(),
        };
        if target.netns.is_some() {
            return target;
        }
        let mut state = self.state();
        state.leaving.remove(&pod.uid);
        match state.known.get_mut(&pod.uid) {
            Some(Known { place, described }) if place.fits(&pod.addresses) => {
                target.netns = Some(Arc::clone(&place.netns));
                *described |= !pod.addresses.is_empty();
                // A kubelet describes a pod with one address of each family, in an order of its own. To
                // the enrolment other addresses are another pod's, which it lets go of and takes up anew.
                if pod.addresses.iter().all(|ip| place.addresses.contains(ip)) {
                    target.addresses.clone_from(&place.addresses);
                }
            }
            // A new sandbox, and the address of the one before it.
            Some(Known { place, described: false }) if !place.addresses.is_empty() => {
                target.netns = Some(Arc::clone(&place.netns));
                target.addresses.clone_from(&place.addresses);
            }
            // Another sandbox, unless there is none yet.
            _ if !pod.addresses.is_empty() => {
                state.known.remove(&pod.uid);
                state.missing.insert(pod.uid.clone(), pod.addresses.clone());
                self.0.missed.notify_one();
            }
            _ => {}
        }
        target
    }

    /// The pod could not be opened where it was said to be: it is looked for again.
    pub(super) fn doubt(&self, uid: &PodUid) {
        let mut state = self.state();
        if let Some(Known { place, .. }) = state.known.remove(uid) {
            state.missing.insert(uid.clone(), place.addresses);
            self.0.missed.notify_one();
        }
    }

    /// Nobody needs to know where the pod is now; what is known stays.
    pub(super) fn stop_looking(&self, uid: &PodUid) {
        let mut state = self.state();
        state.missing.remove(uid);
        state.leaving.remove(uid);
    }

    /// Whether a pod that discovery does not know any more has ended: one that is deleted by force, or
    /// whose node the API server had given up, runs on for a while. If it has not, it is among the
    /// [`Places::fresh`] ones as soon as it has. What nobody looks for counts as ended.
    pub(super) fn has_ended(&self, uid: &PodUid) -> bool {
        let mut state = self.state();
        if !state.searching || !state.known.contains_key(uid) {
            return true;
        }
        if let Some(ended) = state.leaving.get(uid) {
            return *ended;
        }
        state.leaving.insert(uid.clone(), false);
        self.0.missed.notify_one();
        false
    }

    /// There is nothing more to know of the pod.
    pub fn forget(&self, uid: &PodUid) {
        let mut state = self.state();
        state.known.remove(uid);
        state.missing.remove(uid);
        state.leaving.remove(uid);
    }

    /// Returns the pods whose place has changed, and those that have ended, as soon as there are any.
    pub(super) async fn fresh(&self) -> BTreeSet<PodUid> {
        loop {
            let fresh = std::mem::take(&mut self.state().fresh);
            if !fresh.is_empty() {
                return fresh;
            }
            self.0.found.notified().await;
        }
    }

    /// Looks for the pods that are missing, or may have ended, until the agent drains.
    pub async fn search(self, find: Find, mut shutdown: Shutdown) {
        self.state().searching = true;
        tokio::select! {
            () = shutdown.reached(Phase::Draining) => {}
            () = self.look_for_missing(find) => {}
        }
        self.state().searching = false;
    }

    async fn look_for_missing(&self, find: Find) {
        let mut again = AGAIN;
        loop {
            let (mut wanted, leaving) = self.state().wanted();
            if wanted.is_empty() && leaving.is_empty() {
                self.0.missed.notified().await;
                again = AGAIN;
                continue;
            }
            wanted.extend(leaving.iter().cloned());
            let found = tokio::task::spawn_blocking(move || find(&|uid| wanted.contains(uid)));
            match found.await {
                Ok(Ok(found)) => {
                    self.leave(leaving.into_iter().filter(|uid| !found.contains_key(uid)));
                    self.enter(found);
                }
                Ok(Err(error)) => tracing::warn!(%error, "processes of pods cannot be looked for"),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // The runtime ends.
                Err(_cancelled) => return,
            }
            // One that is new does not wait for those that have no process yet.
            let new = tokio::time::timeout(again, self.0.missed.notified()).await;
            again = if new.is_ok() { AGAIN } else { AGAIN_AT_LAST.min(again * 2) };
        }
    }

    fn leave(&self, ended: impl Iterator<Item = PodUid>) {
        let mut state = self.state();
        for uid in ended {
            // Discovery may have found it again in the meantime.
            if let Some(ended) = state.leaving.get_mut(&uid) {
                *ended = true;
                state.fresh.insert(uid);
                self.0.found.notify_one();
            }
        }
    }

    fn enter(&self, found: BTreeMap<PodUid, PathBuf>) {
        for (uid, path) in found {
            // Whoever is missing no longer was told in the meantime, or is gone.
            let Some(addresses) = self.state().missing.remove(&uid) else { continue };
            let Some(path) = path.to_str() else { continue };
            tracing::debug!(%uid, netns = path, "pod found");
            let place = Place { netns: Arc::from(path), addresses };
            self.put(uid, Known { place, described: true });
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The pods to look for: those that are missing, and those that may have ended.
    fn wanted(&self) -> (BTreeSet<PodUid>, BTreeSet<PodUid>) {
        let leaving = self.leaving.iter().filter(|(_, ended)| !**ended);
        (self.missing.keys().cloned().collect(), leaving.map(|(uid, _)| uid.clone()).collect())
    }
}

impl Place {
    /// Whether a pod with these addresses may be here. One without an address is starting, and one
    /// that has another address than it had here has got another sandbox.
    fn fits(&self, addresses: &[IpAddr]) -> bool {
        addresses.is_empty() || addresses.iter().any(|ip| self.addresses.contains(ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::cluster::pod;

    fn cart(addresses: &[&str]) -> Workload {
        let mut cart = pod("shop", "cart", "node-a", "10.1.0.1".parse().unwrap());
        cart.addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        cart.netns = None;
        cart
    }

    fn place(netns: &str, address: &str) -> Place {
        Place { netns: Arc::from(netns), addresses: vec![address.parse().unwrap()] }
    }

    #[tokio::test]
    async fn what_the_cni_plugin_tells_is_enough_before_the_pod_has_an_address() {
        let places = Places::default();
        let starting = cart(&[]);
        assert_eq!(places.target(&starting).netns, None);
        places.tell(starting.uid.clone(), place("/run/netns/a", "10.1.0.1"));
        assert_eq!(places.fresh().await, BTreeSet::from([starting.uid.clone()]));
        let target = places.target(&starting);
        assert_eq!(target.netns.as_deref(), Some("/run/netns/a"));
        assert_eq!(target.addresses, ["10.1.0.1".parse::<IpAddr>().unwrap()]);
        assert!(places.state().missing.is_empty());
    }

    #[tokio::test]
    async fn a_pod_with_another_address_is_looked_for_again() {
        let places = Places::default();
        let before = cart(&["10.1.0.1"]);
        places.tell(before.uid.clone(), place("/run/netns/a", "10.1.0.1"));
        assert!(places.target(&before).netns.is_some());
        assert_eq!(places.target(&cart(&["10.1.0.2"])).netns, None);
        assert!(places.state().missing.contains_key(&before.uid));
    }

    #[tokio::test]
    async fn a_sandbox_that_is_made_anew_counts_before_its_address_is_in_the_description() {
        let places = Places::default();
        let before = cart(&["10.1.0.1"]);
        places.tell(before.uid.clone(), place("/run/netns/a", "10.1.0.1"));
        assert_eq!(places.target(&before).netns.as_deref(), Some("/run/netns/a"));
        places.tell(before.uid, place("/run/netns/b", "10.1.0.2"));
        for described in [&["10.1.0.1"][..], &[], &["10.1.0.2"]] {
            let target = places.target(&cart(described));
            assert_eq!(target.netns.as_deref(), Some("/run/netns/b"), "{described:?}");
            assert_eq!(target.addresses, ["10.1.0.2".parse::<IpAddr>().unwrap()]);
        }
        assert_eq!(places.target(&cart(&["10.1.0.3"])).netns, None, "it has left that one too");
    }

    #[tokio::test]
    async fn a_description_in_another_order_or_with_fewer_addresses_is_of_no_other_pod() {
        let places = Places::default();
        let given = ["10.1.0.1", "10.1.0.2", "fd00::1"].map(|text| text.parse().unwrap());
        let netns = Arc::from("/run/netns/a");
        places.tell(cart(&[]).uid, Place { netns, addresses: given.to_vec() });
        for described in [&[][..], &["10.1.0.1"], &["fd00::1", "10.1.0.1"]] {
            assert_eq!(places.target(&cart(described)).addresses, given, "{described:?}");
        }
        let more = ["10.1.0.1", "fd00::9"];
        assert_eq!(places.target(&cart(&more)).addresses, cart(&more).addresses);
    }

    #[tokio::test]
    async fn a_description_that_names_the_namespace_is_believed() {
        let places = Places::default();
        let mut named = cart(&["10.1.0.1"]);
        named.netns = Some(Arc::from("/run/netns/named"));
        assert_eq!(places.target(&named).netns.as_deref(), Some("/run/netns/named"));
        assert!(places.state().missing.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn missing_pods_are_looked_for_until_they_are_found() {
        fn find(wanted: &dyn Fn(&PodUid) -> bool) -> io::Result<BTreeMap<PodUid, PathBuf>> {
            let uid = cart(&[]).uid;
            assert!(wanted(&uid) && !wanted(&PodUid::parse("other").unwrap()));
            Ok(BTreeMap::from([(uid, PathBuf::from("/proc/7/ns/net"))]))
        }
        let places = Places::default();
        let (_trigger, shutdown) = crate::shutdown::channel();
        let searching = tokio::spawn(places.clone().search(find, shutdown));
        let pod = cart(&["10.1.0.1"]);
        assert_eq!(places.target(&pod).netns, None);
        places.fresh().await;
        assert_eq!(places.target(&pod).netns.as_deref(), Some("/proc/7/ns/net"));
        places.doubt(&pod.uid);
        places.fresh().await;
        assert!(places.target(&pod).netns.is_some());
        places.forget(&pod.uid);
        assert!(places.state().missing.is_empty());
        searching.abort();
    }
}
