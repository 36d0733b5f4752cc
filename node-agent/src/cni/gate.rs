//! Whether a pod that is being made may start.

use std::sync::Arc;
use std::time::Duration;

use adit_core::admission::{Admission, admit};
use adit_core::workload::PodUid;
use tokio::time::{Instant, timeout_at};

use super::{Answer, Request};
use crate::discovery::Worlds;
use crate::enrol::{Enrolments, Place, Places, PodState, PodStatus};

/// How long a pod that discovery does not know is held if its namespace is not opted in: the kubelet
/// learns of it in the same moment as the agent.
const BRIEFLY: Duration = Duration::from_millis(300);

/// The longest that anybody may ask for.
const LONGEST: Duration = Duration::from_secs(120);

/// Tells the CNI plugin which pods may start. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gate {
    worlds: Worlds,
    enrolments: Enrolments,
    places: Places,
}

impl Gate {
    /// A gate for the pods of this node.
    #[must_use]
    pub const fn new(worlds: Worlds, enrolments: Enrolments, places: Places) -> Self {
        Self { worlds, enrolments, places }
    }

    /// Says whether the pod may start, as soon as it may, or when the time that it may wait is over.
    pub async fn ask(&self, request: &Request) -> Answer {
        let began = Instant::now();
        let wait = Duration::from_millis(request.wait_ms).min(LONGEST);
        let mut changes = self.worlds.subscribe();
        let mut enrolments = self.enrolments.clone();
        let mut told = wait.is_zero();
        loop {
            let pod = self.pod(request);
            let local = local_uid(request, pod.as_ref());
            match &local {
                Some(uid) if !told => {
                    let (netns, addresses) =
                        (Arc::from(&*request.netns), request.addresses.clone());
                    self.places.tell(uid.clone(), Place { netns, addresses });
                    told = true;
                }
                Some(_) => {}
                None => drop(PodUid::parse(&request.uid).map(|uid| self.places.forget(&uid))),
            }
            if !*self.worlds.synced().borrow() {
                return Answer::NotReady;
            }
            let namespace = self.worlds.load().namespace(&request.namespace).map(|ns| ns.mode);
            let state = pod.as_ref().map(|pod| &pod.state);
            let admission = admit(state, is_here(pod.as_ref(), request), namespace);
            let until = match admission {
                Admission::Pass => return Answer::Pass,
                Admission::Enrolled => return Answer::Enrolled,
                Admission::Refuse(why) => return Answer::Refused { why: why.to_string() },
                Admission::Wait => began + wait,
                Admission::WaitBriefly => began + wait.min(BRIEFLY),
            };
            let news = async {
                tokio::select! {
                    going_on = enrolments.changed() => going_on,
                    // Lagging or not, the world is another one.
                    _any = changes.recv() => true,
                }
            };
            if timeout_at(until, news).await.unwrap_or(false) {
                continue;
            }
            if admission == Admission::WaitBriefly {
                return Answer::Pass;
            }
            if let (Some(uid), None, false) = (&local, &pod, wait.is_zero()) {
                self.places.forget(uid);
            }
            return Answer::NotEnrolled { why: in_the_way(local.as_ref(), pod.as_ref()) };
        }
    }

    /// The pod that the runtime names. Its kubelet runs a static pod under another UID than its mirror
    /// has in the API server. Who may make pods can make a mirror that claims any UID, so it counts only
    /// together with the name, and both are the kubelet's.
    fn pod(&self, request: &Request) -> Option<PodStatus> {
        let list = self.enrolments.list();
        let named = |pod: &&PodStatus| {
            *pod.name.namespace == *request.namespace && *pod.name.name == *request.name
        };
        let pod = if request.uid.is_empty() {
            // A runtime that is old tells only the name.
            list.iter().find(named)
        } else {
            let world = self.worlds.load();
            let is_mirror = |pod: &&PodStatus| {
                let of = world.workload(&pod.uid).and_then(|pod| pod.mirror_of.as_deref());
                of == Some(&*request.uid)
            };
            let own = list.iter().find(|pod| pod.uid.as_str() == request.uid);
            own.or_else(|| list.iter().filter(named).find(is_mirror))
        };
        pod.cloned()
    }
}

/// Whether what is known of the pod is of the sandbox that is asked about, and not of the one before it.
/// A pod that runs already, which nobody waits for, may have been found under another path.
fn is_here(pod: Option<&PodStatus>, request: &Request) -> bool {
    request.wait_ms == 0 || pod.and_then(|pod| pod.netns.as_deref()) == Some(&*request.netns)
}

/// The UID by which enrolment would ask for the pod's place: none for a mirror, which has none.
fn local_uid(request: &Request, pod: Option<&PodStatus>) -> Option<PodUid> {
    match (PodUid::parse(&request.uid), pod) {
        (Some(uid), Some(pod)) if pod.uid != uid => None,
        (None, pod) => pod.map(|pod| pod.uid.clone()),
        (uid, _) => uid,
    }
}

/// What a pod that must be enrolled waits for.
fn in_the_way(uid: Option<&PodUid>, pod: Option<&PodStatus>) -> String {
    match (uid, pod.map(|pod| &pod.state)) {
        (_, Some(PodState::Failed { error, .. })) => format!("its enrolment failed: {error}"),
        (_, Some(PodState::Enrolled)) => "it is enrolled in its sandbox before this one".to_owned(),
        (_, Some(state)) => format!("its enrolment is at: {}", state.as_label()),
        (Some(uid), None) => format!(
            "discovery has told of no pod with the UID {uid} yet, nor of the mirror of a static pod that has it"
        ),
        (None, None) => {
            "the runtime does not tell the pod's UID, and no pod of this name is known".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use adit_core::enrolment::{NotEnrolled, Step};
    use adit_core::workload::{MeshMode, Workload};
    use adit_core::world::Delta;
    use tokio::sync::watch;

    use super::*;
    use crate::testing::cluster::{namespace, pod};

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_nobody_knows_is_none_of_adits_business_where_its_namespace_is_not_opted_in()
    {
        let node = Node::new();
        for uid in ["new", ""] {
            for wait_ms in [0, 20_000] {
                let request = Request { wait_ms, ..request("bank", "till", uid) };
                assert_eq!(node.gate.ask(&request).await, Answer::Pass, "{request:?}");
                let request = Request { namespace: "shop".to_owned(), ..request };
                let answer = node.gate.ask(&request).await;
                assert!(matches!(answer, Answer::NotEnrolled { .. }), "{request:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_starts_as_soon_as_it_is_enrolled() {
        let node = Node::new();
        let cart = workload("shop", "cart");
        node.has(&cart, PodState::AwaitingCertificate);
        let asked = request("shop", "cart", cart.uid.as_str());
        let gate = node.gate.clone();
        let asking = tokio::spawn(async move { gate.ask(&asked).await });
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!asking.is_finished());
        node.has(&cart, PodState::Enrolled);
        assert_eq!(asking.await.unwrap(), Answer::Enrolled);
        let by_name = request("shop", "cart", "");
        assert_eq!(node.gate.ask(&by_name).await, Answer::Enrolled);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_sandbox_of_a_pod_waits_until_the_pod_is_enrolled_in_it() {
        let node = Node::new();
        let cart = workload("shop", "cart");
        let held = PodState::Enrolling(Step::Hold);
        node.has_in("/run/netns/before", &cart, held.clone());
        let asked = request("shop", "cart", cart.uid.as_str());
        assert!(matches!(node.gate.ask(&asked).await, Answer::NotEnrolled { .. }));
        node.has_in("/run/netns/before", &cart, PodState::Enrolled);
        let answer = node.gate.ask(&asked).await;
        let Answer::NotEnrolled { why } = answer else { panic!("{answer:?}") };
        assert_eq!(why, "it is enrolled in its sandbox before this one");
        let gate = node.gate.clone();
        let request = asked.clone();
        let asking = tokio::spawn(async move { gate.ask(&request).await });
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!asking.is_finished());
        node.has(&cart, held);
        assert_eq!(asking.await.unwrap(), Answer::Enrolled);
        // One that runs is asked about by whatever path the runtime has for it.
        let check = Request { wait_ms: 0, netns: "/proc/7/ns/net".to_owned(), ..asked };
        assert_eq!(node.gate.ask(&check).await, Answer::Enrolled);
    }

    #[tokio::test(start_paused = true)]
    async fn a_static_pod_is_known_by_its_mirror_and_refused_at_once() {
        let node = Node::new();
        let began = Instant::now();
        node.has(&mirror("shop", "proxy-n1"), PodState::NotEnrolled(NotEnrolled::StaticPod));
        let answer = node.gate.ask(&request("shop", "proxy-n1", "h-1")).await;
        let Answer::Refused { why } = answer else { panic!("{answer:?}") };
        assert!(why.contains("static pod"), "{why}");
        let out = PodState::NotEnrolled(NotEnrolled::PodOptedOut);
        node.has(&mirror("shop", "out-n1"), out);
        assert_eq!(node.gate.ask(&request("shop", "out-n1", "h-1")).await, Answer::Pass);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_mirror_speaks_for_no_pod_of_another_name_or_uid() {
        let node = Node::new();
        let out = PodState::NotEnrolled(NotEnrolled::PodOptedOut);
        node.has(&mirror("shop", "proxy-n1"), out);
        for (namespace, name, uid) in [("shop", "cart", "h-1"), ("shop", "proxy-n1", "h-2")] {
            let request = Request { wait_ms: 0, ..request(namespace, name, uid) };
            let answer = node.gate.ask(&request).await;
            assert!(matches!(answer, Answer::NotEnrolled { .. }), "{request:?}: {answer:?}");
        }
    }

    /// An agent that knows two namespaces, one of them opted in.
    struct Node {
        gate: Gate,
        worlds: Worlds,
        pods: watch::Sender<Arc<[PodStatus]>>,
    }

    impl Node {
        fn new() -> Self {
            let worlds = Worlds::new();
            let modes = [("shop", MeshMode::Ambient), ("bank", MeshMode::Unset)];
            worlds.publish(modes.map(|(name, mode)| Delta::Namespace(namespace(name, mode))));
            worlds.mark_synced();
            let (pods, shown) = watch::channel(Arc::default());
            let gate = Gate::new(worlds.clone(), Enrolments::new(shown), Places::default());
            Self { gate, worlds, pods }
        }

        fn has(&self, pod: &Workload, state: PodState) {
            self.has_in("/run/netns/a", pod, state);
        }

        fn has_in(&self, netns: &str, pod: &Workload, state: PodState) {
            self.worlds.publish([Delta::Workload(pod.clone())]);
            self.pods.send_replace(Arc::from([PodStatus {
                uid: pod.uid.clone(),
                name: pod.name.clone(),
                identity: pod.identity.clone(),
                addresses: Vec::new(),
                netns: Some(Arc::from(netns)),
                state,
                since: std::time::SystemTime::UNIX_EPOCH,
            }]));
        }
    }

    fn workload(namespace: &str, name: &str) -> Workload {
        pod(namespace, name, "n1", "10.1.0.1".parse().unwrap())
    }

    fn mirror(namespace: &str, name: &str) -> Workload {
        Workload { mirror_of: Some(Arc::from("h-1")), ..workload(namespace, name) }
    }

    fn request(namespace: &str, name: &str, uid: &str) -> Request {
        Request {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            netns: "/run/netns/a".to_owned(),
            addresses: Vec::new(),
            wait_ms: 20_000,
        }
    }
}
