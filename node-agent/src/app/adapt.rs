//! The parts of the agent as the others want to see them.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use adit_core::flow::FlowRecord;
use adit_core::identity::SpiffeId;
use adit_core::workload::PodUid;
use futures_util::future::BoxFuture;

use crate::admin::view::{CertificateView, Fact};
use crate::admin::{DiscoveryFacts, Sources};
use crate::datapath::{EnrolledPod, KernelDatapath, Listeners};
use crate::discovery::manifests;
use crate::enrol;
use crate::enrol::{Enrolments, PodState, PodStatus};
use crate::identity::Certificates;
use crate::shutdown::{Phase, Trigger};
use crate::worker::{TunnelStatus, Workers};

/// Certificates, for enrolment.
pub(crate) struct FirstCertificates(pub(crate) Certificates);

/// Workers, for enrolment.
pub(crate) struct Served(pub(crate) Workers);

/// What the admin socket looks at.
pub(super) struct Parts {
    pub(super) workers: Workers,
    pub(super) enrolments: Enrolments,
    pub(super) certificates: Certificates,
    pub(super) manifests: manifests::StatusHandle,
    pub(super) directory: PathBuf,
    pub(super) kernel: Arc<KernelDatapath>,
    pub(super) trigger: Arc<Trigger>,
}

impl enrol::Certificates for FirstCertificates {
    fn acquire(&self, identity: &SpiffeId) -> impl Future<Output = ()> + Send + 'static {
        let (certificates, identity) = (self.0.clone(), identity.clone());
        // Wished for from this call on, not from the first poll: `release` may come before that.
        let acquired = tokio::spawn(async move { certificates.acquire(&identity).await });
        async move {
            match acquired.await {
                Ok(Ok(_svid)) => {}
                // The process ends.
                Ok(Err(_)) | Err(_) => std::future::pending().await,
            }
        }
    }

    fn release(&self, identity: &SpiffeId) {
        self.0.release(identity);
    }
}

impl enrol::Workers for Served {
    async fn add(&self, pod: EnrolledPod, listeners: Vec<Listeners>) -> io::Result<()> {
        self.0.add(&Arc::new(pod), listeners).await
    }

    async fn idle(&self, uid: &PodUid) {
        self.0.idle(uid).await;
    }

    async fn remove(&self, uid: &PodUid) {
        self.0.end(uid).await;
    }
}

/// Whether a pod's enrolment is neither done nor failed.
pub(super) const fn is_on_its_way(state: &PodState) -> bool {
    matches!(state, PodState::Enrolling(_) | PodState::Withdrawing(_))
}
