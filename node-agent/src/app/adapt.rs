//! The parts of the agent as the admin socket wants to see them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_core::flow::FlowRecord;
use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::admin::view::{CertificateView, Fact, Problem, Severity, Timestamp};
use crate::admin::{DiscoveryFacts, Sources};
use crate::cni::{Answer, Gate, Request};
use crate::datapath::kernel::KernelDatapath;
use crate::discovery::StatusHandle;
use crate::enrol::{Enrolments, PodState, PodStatus};
use crate::identity::{CertificateStatus, Certificates};
use crate::shutdown::{Phase, Trigger};
use crate::worker::{TunnelStatus, Workers};

/// What the admin socket looks at.
pub(super) struct Parts {
    pub(super) workers: Workers,
    pub(super) enrolments: Enrolments,
    pub(super) certificates: Certificates,
    /// What feeds the world, in words.
    pub(super) source: String,
    pub(super) discovery: StatusHandle,
    pub(super) kernel: KernelDatapath,
    pub(super) trigger: Arc<Trigger>,
    pub(super) ending: Arc<Ending>,
    pub(super) gate: Gate,
}

/// How the agent is to end, and how it did.
pub(super) struct Ending {
    /// How long open flows may go on.
    pub(super) deadline: ArcSwap<Duration>,
    /// When they are cut, once the end has begun.
    pub(super) until: ArcSwapOption<SystemTime>,
    /// How many flows were cut, once it is known.
    pub(super) cut: watch::Sender<Option<usize>>,
}

/// Whether a pod's enrolment is neither done nor failed.
pub(super) const fn is_on_its_way(state: &PodState) -> bool {
    matches!(state, PodState::Enrolling(_) | PodState::Withdrawing(_))
}

impl Sources for Parts {
    fn flows(&self) -> BoxFuture<'_, Vec<FlowRecord>> {
        self.workers.flows().boxed()
    }

    fn tunnels(&self) -> BoxFuture<'_, Vec<TunnelStatus>> {
        self.workers.tunnels().boxed()
    }

    fn pods(&self) -> BoxFuture<'_, Vec<PodStatus>> {
        std::future::ready(self.enrolments.list()).boxed()
    }

    fn certificates(&self) -> Vec<CertificateView> {
        self.certificates.list().iter().map(certificate).collect()
    }

    fn discovery(&self) -> DiscoveryFacts {
        let status = self.discovery.load();
        DiscoveryFacts {
            source: self.source.clone(),
            updated: status.last_change,
            errors: status.errors.clone(),
            stale: status.stale.clone(),
            rejected: status.rejected.clone(),
            network_policies_lack: status.network_policies_lack.clone(),
        }
    }

    /// Asks the kernel, so that what another process changed there is seen.
    fn problems(&self) -> BoxFuture<'_, Vec<Problem>> {
        let kernel = self.kernel.clone();
        async move {
            let missing = match tokio::task::spawn_blocking(move || kernel.missing()).await {
                Ok(Ok(missing)) => missing,
                Ok(Err(error)) => vec![format!("the kernel cannot be asked: {error}")],
                // The runtime ends.
                Err(_cancelled) => Vec::new(),
            };
            missing.into_iter().map(of_the_kernel).collect()
        }
        .boxed()
    }

    fn draining_until(&self) -> Option<SystemTime> {
        self.ending.until.load_full().map(|until| *until)
    }

    fn datapath(&self) -> Vec<Fact> {
        let fact = |name: &str, value: String| Fact { name: name.to_owned(), value };
        match self.kernel.counters() {
            Ok(counters) => {
                counters.into_iter().map(|(name, count)| fact(name, count.to_string())).collect()
            }
            Err(error) => vec![fact("counters", format!("cannot be read: {error}"))],
        }
    }

    fn admit(&self, request: Request) -> BoxFuture<'_, Answer> {
        async move { self.gate.ask(&request).await }.boxed()
    }

    /// The process ends when it has drained, like after SIGTERM; also when whoever asked has left.
    fn drain(&self, deadline: Duration) -> BoxFuture<'_, usize> {
        self.ending.deadline.store(Arc::new(deadline));
        self.trigger.advance(Phase::Draining);
        let mut cut = self.ending.cut.subscribe();
        async move {
            let told = cut.wait_for(Option::is_some).await;
            told.map_or(0, |cut| cut.unwrap_or(0))
        }
        .boxed()
    }
}

fn of_the_kernel(what: String) -> Problem {
    let help = "another process changed what this agent attached: end it, then restart the agent, \
                which attaches everything again";
    Problem { severity: Severity::Error, what, help: help.to_owned() }
}

fn certificate(status: &CertificateStatus) -> CertificateView {
    let stamp = |time| Timestamp::from(time);
    let error = status.last_error.as_ref();
    CertificateView {
        identity: status.identity.to_string(),
        state: status.state.as_label().to_owned(),
        serial: status.serial.clone(),
        not_before: status.validity.map(|validity| stamp(validity.not_before)),
        not_after: status.validity.map(|validity| stamp(validity.not_after)),
        renewals: status.renewals,
        next_attempt: status.next_attempt.map(stamp),
        last_error: error.map(|error| error.text.clone()),
        last_error_reason: error.map(|error| error.reason.as_label().to_owned()),
        help: error.map(|error| error.reason.advice().to_owned()),
    }
}
