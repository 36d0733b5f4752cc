//! The certificates that are in use. One task drives [`adit_core::rotation`]; everybody else reads
//! snapshots.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_core::certificate::NoCertificate;
use adit_core::identity::SpiffeId;
use adit_core::rotation::{
    Command, DropCause, Input, RequestId, Rotation, State, Status, Validity,
};
use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use crate::shutdown::{Phase, Shutdown};

use super::{Clock, Source, SourceError, Svid, report};

/// The certificates of this node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Certificates {
    shared: Arc<Shared>,
    inputs: mpsc::UnboundedSender<Wish>,
    changed: watch::Receiver<()>,
    clock: Clock,
}

/// What [`Certificates::acquire`] says when nothing is issued any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("certificates are no longer issued: the agent ends")]
pub struct Stopped;

/// One identity's certificate, as `adit certs` shows it.
#[derive(Debug, Clone)]
pub struct CertificateStatus {
    /// The identity.
    pub identity: SpiffeId,
    /// How it stands.
    pub state: State,
    /// The certificate's serial number, in hexadecimal digits.
    pub serial: Option<String>,
    /// The dates of the certificate that is held, or that expired last.
    pub validity: Option<Validity>,
    /// How often it was renewed.
    pub renewals: u64,
    /// Requests that failed since the last one that did not.
    pub failures: u32,
    /// Why the last one failed, if it did.
    pub last_error: Option<LastError>,
    /// Whether the CA is being asked now.
    pub requesting: bool,
    /// When the CA is asked next.
    pub next_attempt: Option<SystemTime>,
}

/// Why requests fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// The kind of the last failure.
    pub reason: NoCertificate,
    /// The last failure in full.
    pub text: String,
    /// When the requests began to fail.
    pub since: SystemTime,
}

#[derive(Debug)]
struct Shared {
    current: ArcSwap<HashMap<SpiffeId, Arc<Svid>>>,
    statuses: ArcSwap<Vec<CertificateStatus>>,
    /// Somebody found a certificate that is not valid: the wall clock may have been set.
    look: Notify,
}

#[derive(Debug)]
enum Wish {
    /// The sender is dropped when the wish was noted.
    Want(SpiffeId, oneshot::Sender<()>),
    Release(SpiffeId),
}

impl Certificates {
    /// No certificates yet, and the task that gets them: spawn its [`Rotating::run`].
    #[must_use]
    pub fn new<S: Source>(source: S, lifetime: Duration, clock: Clock) -> (Self, Rotating<S>) {
        let shared = Arc::new(Shared {
            current: ArcSwap::default(),
            statuses: ArcSwap::default(),
            look: Notify::new(),
        });
        let (inputs, wishes) = mpsc::unbounded_channel();
        let (announce, changed) = watch::channel(());
        let certificates =
            Self { shared: Arc::clone(&shared), inputs, changed, clock: clock.clone() };
        let rotating = Rotating {
            rotation: Rotation::new(rand::random(), clock.moment()),
            source: Arc::new(source),
            lifetime,
            clock,
            shared,
            wishes,
            announce,
            requests: Requests::default(),
            notes: BTreeMap::new(),
        };
        (certificates, rotating)
    }

    /// Asks for an identity's certificate and waits until there is one, however long that takes. The
    /// certificate is then renewed until [`Self::release`] was called as often as this succeeded.
    /// Dropping the future before withdraws the wish.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn acquire(&self, identity: &SpiffeId) -> Result<Arc<Svid>, Stopped> {
        let mut changed = self.changed.clone();
        let (noted, note) = oneshot::channel();
        let wanted = Wanted::new(&self.inputs, identity, noted)?;
        // Until then a certificate may be there that an earlier release is about to drop.
        let _dropped: Result<(), _> = note.await;
        loop {
            changed.borrow_and_update();
            if let Some(svid) = self.current(identity) {
                wanted.keep();
                return Ok(svid);
            }
            changed.changed().await.map_err(|_ended| Stopped)?;
        }
    }

    /// Takes one [`Self::acquire`] back. With the last one the certificate and its key are dropped.
    pub fn release(&self, identity: &SpiffeId) {
        // Without a receiver there is nothing left to release.
        let _ended: Result<_, _> = self.inputs.send(Wish::Release(identity.clone()));
    }

    /// The identity's certificate, if there is a valid one at this moment. Takes no lock.
    #[must_use]
    pub fn current(&self, identity: &SpiffeId) -> Option<Arc<Svid>> {
        let current = self.shared.current.load();
        let svid = current.get(identity)?;
        svid.is_valid().then(|| Arc::clone(svid))
    }

    /// The same, with the reason where there is none.
    ///
    /// # Errors
    /// Why there is none.
    pub fn usable(&self, identity: &SpiffeId) -> Result<Arc<Svid>, NoCertificate> {
        let current = self.shared.current.load();
        let found = current.get(identity);
        match found {
            Some(svid) if svid.is_valid() => return Ok(Arc::clone(svid)),
            Some(_) | None => self.shared.look.notify_one(),
        }
        let statuses = self.shared.statuses.load();
        let status = statuses.iter().find(|status| status.identity == *identity);
        let failed = status.and_then(|status| status.last_error.as_ref());
        let expired = status.is_some_and(|status| status.state == State::Expired);
        Err(match (failed, found) {
            (Some(error), _) => error.reason,
            (None, Some(svid)) if svid.is_early() => NoCertificate::NotYetValid,
            (None, Some(_)) => NoCertificate::Expired,
            (None, None) if expired => NoCertificate::Expired,
            (None, None) => NoCertificate::Awaited,
        })
    }

    /// Tells that a certificate, its roots or its standing may have changed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.clone()
    }

    /// The time by which certificates are judged.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// How every identity stands, in the order of their names.
    #[must_use]
    pub fn list(&self) -> Arc<Vec<CertificateStatus>> {
        self.shared.statuses.load_full()
    }
}

/// A wish that is withdrawn unless it is kept.
struct Wanted<'a> {
    inputs: &'a mpsc::UnboundedSender<Wish>,
    identity: Option<&'a SpiffeId>,
}

impl<'a> Wanted<'a> {
    fn new(
        inputs: &'a mpsc::UnboundedSender<Wish>,
        identity: &'a SpiffeId,
        noted: oneshot::Sender<()>,
    ) -> Result<Self, Stopped> {
        inputs.send(Wish::Want(identity.clone(), noted)).map_err(|_ended| Stopped)?;
        Ok(Self { inputs, identity: Some(identity) })
    }

    fn keep(mut self) {
        self.identity = None;
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        if let Some(identity) = self.identity {
            let _ended: Result<_, _> = self.inputs.send(Wish::Release(identity.clone()));
        }
    }
}

/// The task that keeps the certificates fresh.
pub struct Rotating<S> {
    rotation: Rotation,
    source: Arc<S>,
    lifetime: Duration,
    clock: Clock,
    shared: Arc<Shared>,
    wishes: mpsc::UnboundedReceiver<Wish>,
    announce: watch::Sender<()>,
    requests: Requests,
    notes: BTreeMap<SpiffeId, LastError>,
}

type Answer = Result<Svid, SourceError>;

/// Requests that are under way, each a task.
#[derive(Default)]
struct Requests {
    tasks: JoinSet<Answer>,
    open: HashMap<Id, (SpiffeId, RequestId)>,
    handles: BTreeMap<RequestId, AbortHandle>,
    arrived: BTreeMap<RequestId, Svid>,
}

impl<S> std::fmt::Debug for Rotating<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rotating").field("rotation", &self.rotation).finish_non_exhaustive()
    }
}

impl<S: Source> Rotating<S> {
    /// Runs until the end is forced, or nobody holds [`Certificates`] any more. While the agent
    /// drains, its tunnels still need valid certificates.
    pub async fn run(mut self, mut shutdown: Shutdown) {
        loop {
            let deadline = self.rotation.poll_timeout();
            let wait = async {
                match deadline {
                    Some((at, _why)) => sleep_until(Instant::from_std(at)).await,
                    None => std::future::pending().await,
                }
            };
            let (mut noted, mut looked) = (None, false);
            tokio::select! {
                () = shutdown.reached(Phase::Forced) => return,
                wish = self.wishes.recv() => match wish {
                    Some(Wish::Want(identity, sender)) => {
                        self.input(Input::Want(identity));
                        noted = Some(sender);
                    }
                    Some(Wish::Release(identity)) => self.input(Input::Release(identity)),
                    None => return,
                },
                Some(ended) = self.requests.tasks.join_next_with_id() => self.ended(ended),
                () = self.shared.look.notified() => {
                    looked = true;
                    self.rotation.handle_timeout(self.clock.moment());
                }
                () = wait => self.rotation.handle_timeout(self.clock.moment()),
            }
            // Whoever looks again at every change must not make one by looking.
            if self.perform() || !looked {
                self.publish();
            }
            drop(noted);
        }
    }

    fn input(&mut self, input: Input) {
        self.rotation.handle(input, self.clock.moment());
    }

    fn ended(&mut self, ended: Result<(Id, Answer), JoinError>) {
        let (id, answer) = match ended {
            Ok((id, answer)) => (id, Some(answer)),
            Err(error) => (error.id(), None),
        };
        let Some((identity, request)) = self.requests.open.remove(&id) else {
            return;
        };
        self.requests.handles.remove(&request);
        match answer {
            Some(Ok(svid)) => {
                let validity = svid.validity;
                self.requests.arrived.insert(request, svid);
                self.input(Input::Issued { identity, request, validity });
            }
            Some(Err(error)) => {
                self.note(&identity, error.reason(), report(&error));
                self.input(Input::Failed { identity, request });
            }
            // Cancelled, in which case the machine knows no such request, or panicked.
            None => {
                self.note(&identity, NoCertificate::Local, "the request panicked".to_owned());
                self.input(Input::Failed { identity, request });
            }
        }
    }

    fn note(&mut self, identity: &SpiffeId, reason: NoCertificate, text: String) {
        warn!(%identity, error = reason.as_label(), detail = text, "no certificate from the CA");
        let now = self.clock.now();
        let since = self.notes.get(identity).map_or(now, |before| before.since);
        let note = LastError { reason, text, since };
        self.notes.insert(identity.clone(), note);
    }

    /// Does what the machine says, and tells whether there was anything.
    fn perform(&mut self) -> bool {
        let mut some = false;
        while let Some(command) = self.rotation.poll_command() {
            some = true;
            match command {
                Command::Request { identity, request } => self.request(identity, request),
                Command::Cancel { request } => {
                    if let Some(handle) = self.requests.handles.remove(&request) {
                        handle.abort();
                        self.requests.open.remove(&handle.id());
                    }
                }
                Command::Install { identity, request } => self.install(identity, request),
                Command::Discard { request } => {
                    self.requests.arrived.remove(&request);
                }
                Command::Drop { identity, cause } => self.discard(&identity, cause),
            }
        }
        some
    }

    fn request(&mut self, identity: SpiffeId, request: RequestId) {
        let source = Arc::clone(&self.source);
        let lifetime = self.lifetime;
        let wanted = identity.clone();
        let fetch = async move { source.fetch(&wanted, lifetime).await };
        let handle = self.requests.tasks.spawn(fetch);
        self.requests.open.insert(handle.id(), (identity, request));
        self.requests.handles.insert(request, handle);
    }

    fn install(&mut self, identity: SpiffeId, request: RequestId) {
        let Some(svid) = self.requests.arrived.remove(&request) else {
            return;
        };
        let serial = svid.serial();
        let left = svid.not_after().duration_since(self.clock.now());
        let seconds = left.unwrap_or(Duration::ZERO).as_secs();
        info!(%identity, serial, valid_for_s = seconds, "certificate in use");
        self.notes.remove(&identity);
        let mut current = HashMap::clone(&self.shared.current.load());
        current.insert(identity, Arc::new(svid));
        self.shared.current.store(Arc::new(current));
    }

    fn discard(&mut self, identity: &SpiffeId, cause: DropCause) {
        match cause {
            DropCause::Released => info!(%identity, "certificate dropped: no pod needs it"),
            DropCause::Expired => error!(%identity, "certificate expired before it was renewed"),
        }
        let mut current = HashMap::clone(&self.shared.current.load());
        current.remove(identity);
        self.shared.current.store(Arc::new(current));
    }

    fn publish(&mut self) {
        let moment = self.clock.moment();
        let current = self.shared.current.load_full();
        let mut statuses = Vec::new();
        for (identity, status) in self.rotation.statuses() {
            let Status { state, validity, renewals, failures, requesting, next_attempt } = status;
            statuses.push(CertificateStatus {
                identity: identity.clone(),
                state,
                serial: current.get(identity).map(|svid| svid.serial().to_owned()),
                validity,
                renewals,
                failures,
                last_error: self.notes.get(identity).cloned(),
                requesting,
                next_attempt: next_attempt
                    .map(|at| at.saturating_duration_since(moment.instant))
                    .and_then(|wait| moment.unix.checked_add(wait)),
            });
        }
        let known = |identity: &SpiffeId| {
            let found = statuses.binary_search_by(|status| status.identity.cmp(identity));
            found.is_ok()
        };
        self.notes.retain(|identity, _| known(identity));
        self.shared.statuses.store(Arc::new(statuses));
        self.announce.send_replace(());
    }
}

#[cfg(test)]
mod tests;
