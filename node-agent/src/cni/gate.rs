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
        let Some(uid) = self.uid(request) else {
            return Answer::NotEnrolled {
                why: "the runtime does not tell the pod's UID, and no pod of this name is known"
                    .to_owned(),
            };
        };
        if !wait.is_zero() {
            let netns = Arc::from(&*request.netns);
            self.places.tell(uid.clone(), Place { netns, addresses: request.addresses.clone() });
        }
        loop {
            if !*self.worlds.synced().borrow() {
                return Answer::NotReady;
            }
            let pod = enrolments.list().into_iter().find(|pod| pod.uid == uid);
            let namespace = self.worlds.load().namespace(&request.namespace).map(|ns| ns.mode);
            let until = match admit(pod.as_ref().map(|pod| &pod.state), namespace) {
                Admission::Pass => return Answer::Pass,
                Admission::Enrolled => return Answer::Enrolled,
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
            if !timeout_at(until, news).await.unwrap_or(false) {
                return self.give_up(&uid, pod, until < began + wait);
            }
        }
    }

    fn give_up(&self, uid: &PodUid, pod: Option<PodStatus>, passes: bool) -> Answer {
        if passes {
            return Answer::Pass;
        }
        let Some(pod) = pod else {
            self.places.forget(uid);
            let why = "discovery has not told of it yet".to_owned();
            return Answer::NotEnrolled { why };
        };
        let why = if let PodState::Failed { error, .. } = &pod.state {
            format!("its enrolment failed: {error}")
        } else {
            format!("its enrolment is at: {}", pod.state.as_label())
        };
        Answer::NotEnrolled { why }
    }

    /// A runtime that is old tells only the name.
    fn uid(&self, request: &Request) -> Option<PodUid> {
        PodUid::parse(&request.uid).or_else(|| {
            let list = self.enrolments.list();
            let named = |pod: &&PodStatus| {
                *pod.name.namespace == *request.namespace && *pod.name.name == *request.name
            };
            list.iter().find(named).map(|pod| pod.uid.clone())
        })
    }
}
