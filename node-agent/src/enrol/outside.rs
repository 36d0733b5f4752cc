//! The certificates and the workers of the real agent, as enrolment needs them.

use std::future::{Future, pending};
use std::io;
use std::sync::Arc;

use adit_core::identity::SpiffeId;
use adit_core::workload::PodUid;

use super::{Certificates, Workers};
use crate::datapath::{EnrolledPod, Listeners};
use crate::identity;
use crate::worker;

impl Certificates for identity::Certificates {
    async fn acquire(&self, identity: &SpiffeId) {
        if self.acquire(identity).await.is_err() {
            // The agent ends: there will be none.
            pending::<()>().await;
        }
    }

    fn release(&self, identity: &SpiffeId) {
        self.release(identity);
    }
}

impl Workers for worker::Workers {
    fn add(
        &self,
        pod: &Arc<EnrolledPod>,
        listeners: Vec<Listeners>,
    ) -> impl Future<Output = io::Result<()>> + Send {
        self.add(pod, listeners)
    }

    fn idle(&self, uid: &PodUid) -> impl Future<Output = ()> + Send {
        self.idle(uid)
    }

    fn remove(&self, uid: &PodUid) -> impl Future<Output = ()> + Send {
        self.end(uid)
    }
}
