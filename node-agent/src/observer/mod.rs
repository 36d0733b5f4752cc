//! Flows as they are recorded: the way up from the workers, the ring of recent ones, followers,
//! and the task that feeds metrics and the access log.

mod hits;
mod ring;
#[cfg(test)]
pub(crate) mod samples;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use adit_core::flow::{FlowRecord, Moved};
use adit_core::policy::PolicyId;
use adit_core::workload::PodUid;
use tokio::sync::{broadcast, mpsc};

pub use hits::{Hit, Hits};

use crate::observer::ring::Ring;
use crate::telemetry::{AccessLog, FlowMeter};

/// Records that a follower may be behind before it loses some.
const FOLLOWER_BACKLOG: usize = 1024;
/// Records handled before other tasks get a turn.
const BATCH: usize = 256;
/// How long records gather before they are handled: a worker that finds nobody waiting for its record
/// wakes nobody, and a wake-up costs more than the record itself.
const GATHER: Duration = Duration::from_millis(10);
/// How often the bytes of open flows are counted, as Istio's proxies do.
const REPORT: Duration = Duration::from_secs(15);
/// How often metrics of pods that are gone are looked for.
const SWEEP: Duration = Duration::from_secs(60);

/// The workers' side: hands records up without ever waiting. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Recorder {
    records: mpsc::Sender<FlowRecord>,
    dropped: Arc<AtomicU64>,
}

/// The control runtime's side.
#[derive(Debug)]
pub struct Records {
    /// A record when a flow was decided (`end` is `None`) and one when it ended.
    pub receiver: mpsc::Receiver<FlowRecord>,
    /// Records that found the channel full.
    pub dropped: Arc<AtomicU64>,
}

/// What there is to see: recent flows, and those to come. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Observer {
    ring: Ring,
    hits: Hits,
    followers: broadcast::Sender<Arc<FlowRecord>>,
    dropped: Arc<AtomicU64>,
    missed: Arc<AtomicU64>,
}

/// What every record is turned into besides.
#[derive(Debug)]
pub struct Sinks {
    /// Metrics.
    pub meter: FlowMeter,
    /// One line per flow end.
    pub access_log: AccessLog,
}

/// A channel for `capacity` records.
#[must_use]
pub fn channel(capacity: usize) -> (Recorder, Records) {
    let (sender, receiver) = mpsc::channel(capacity);
    let dropped = Arc::new(AtomicU64::new(0));
    (Recorder { records: sender, dropped: Arc::clone(&dropped) }, Records { receiver, dropped })
}

impl Recorder {
    /// Hands a record up, or counts it as dropped if nobody keeps up.
    pub fn record(&self, record: FlowRecord) {
        if self.records.try_send(record).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
impl Recorder {
    /// Whether there was no room; then nothing is counted.
    pub(crate) fn record_or_full(&self, record: &FlowRecord) -> bool {
        self.records.try_send(record.clone()).is_err()
    }
}

impl Observer {
    /// Keeps the last `recent` flows that ended (4096 is a good number).
    #[must_use]
    pub fn new(records: &Records, recent: usize) -> Self {
        Self {
            ring: Ring::new(recent),
            hits: Hits::default(),
            followers: broadcast::channel(FOLLOWER_BACKLOG).0,
            dropped: Arc::clone(&records.dropped),
            missed: Arc::default(),
        }
    }

    /// The flows that ended last, oldest first.
    #[must_use]
    pub fn recent(&self) -> Vec<Arc<FlowRecord>> {
        self.ring.list()
    }

    /// What each policy decided.
    #[must_use]
    pub const fn hits(&self) -> &Hits {
        &self.hits
    }

    /// Every record from now on. A receiver that lags loses the oldest and is told how many.
    #[must_use]
    pub fn follow(&self) -> broadcast::Receiver<Arc<FlowRecord>> {
        self.followers.subscribe()
    }

    /// How many follow now.
    #[must_use]
    pub fn followers(&self) -> usize {
        self.followers.receiver_count()
    }

    /// Records that were lost on the way up from the workers.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Notes that a follower was too slow for so many events.
    pub fn note_missed(&self, count: u64) {
        self.missed.fetch_add(count, Ordering::Relaxed);
    }

    /// Events that followers were too slow for, all followers together.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    fn show(&self, record: FlowRecord) -> Arc<FlowRecord> {
        let record = Arc::new(record);
        self.hits.count(&record, SystemTime::now());
        if record.end.is_some() {
            self.ring.push(Arc::clone(&record));
        }
        let _followers = self.followers.send(Arc::clone(&record));
        record
    }
}

/// Whether discovery still knows something that was counted.
#[derive(Debug)]
pub struct Known<P, Q> {
    /// A pod.
    pub pod: P,
    /// A policy.
    pub policy: Q,
}

/// Receives records until every [`Recorder`] is gone: it ends with the last worker, and misses no
/// flow that the drain cut. `moved` tells what the open flows have moved so far.
pub async fn run<P, Q, M>(
    mut records: Records,
    observer: Observer,
    mut sinks: Sinks,
    known: Known<P, Q>,
    moved: impl Fn() -> M + Send,
) where
    P: Fn(&PodUid) -> bool + Send,
    Q: Fn(&PolicyId) -> bool + Send,
    M: Future<Output = Vec<Moved>> + Send,
{
    let mut report = tokio::time::interval(REPORT);
    let mut sweep = tokio::time::interval(SWEEP);
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            received = records.receiver.recv_many(&mut batch, BATCH) => {
                if received == 0 {
                    return;
                }
                let now = Instant::now();
                for record in batch.drain(..) {
                    let record = observer.show(record);
                    sinks.meter.count(&record, now);
                    sinks.access_log.record(&record);
                }
                if received < BATCH {
                    tokio::time::sleep(GATHER).await;
                }
            }
            _ = report.tick() => sinks.meter.moved(&moved().await, Instant::now()),
            _ = sweep.tick() => {
                observer.hits.sweep(&known.policy);
                sinks.meter.sweep(Instant::now(), &known.pod, &known.policy);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use adit_core::flow::FlowId;
    use tokio::sync::broadcast::error::TryRecvError;

    use super::*;
    use crate::telemetry::access_log::AccessLogSettings;
    use crate::telemetry::metrics::Limits;
    use crate::telemetry::{Metrics, Snapshot};

    #[tokio::test]
    async fn keeps_the_flows_that_ended_last_and_counts_all() {
        let (recorder, records) = channel(16);
        let observer = Observer::new(&records, 2);
        let (metrics, sinks) = sinks();
        for id in 1..=3 {
            recorder.record(samples::finished(id));
        }
        recorder.record(samples::open(4));
        drop(recorder);

        run(records, observer.clone(), sinks, everything(), nothing_moved).await;

        let ids: Vec<FlowId> = observer.recent().iter().map(|flow| flow.id).collect();
        assert_eq!(ids, [FlowId(2), FlowId(3)]);
        let text = metrics.render(&Snapshot::default()).unwrap();
        assert!(text.contains("reason=\"finished\"} 3\n"), "{text}");
    }

    #[tokio::test]
    async fn a_follower_sees_openings_and_ends_and_is_told_what_it_missed() {
        let (recorder, records) = channel(2 * FOLLOWER_BACKLOG);
        let observer = Observer::new(&records, 2);
        let mut quick = observer.follow();
        let (_metrics, sinks) = sinks();
        recorder.record(samples::open(1));
        recorder.record(samples::finished(1));
        for id in 2..=u64::try_from(FOLLOWER_BACKLOG).unwrap() + 3 {
            recorder.record(samples::finished(id));
        }
        drop(recorder);

        run(records, observer, sinks, everything(), nothing_moved).await;

        assert!(matches!(quick.try_recv(), Err(TryRecvError::Lagged(4))));
        assert_eq!(quick.try_recv().unwrap().id, FlowId(4));
    }

    #[tokio::test]
    async fn a_worker_never_waits_and_what_finds_no_room_is_counted() {
        let (recorder, records) = channel(1);
        let observer = Observer::new(&records, 2);
        for id in 1..=3 {
            recorder.record(samples::finished(id));
        }
        assert_eq!(observer.dropped(), 2);
    }

    async fn nothing_moved() -> Vec<Moved> {
        Vec::new()
    }

    type Is<T> = fn(&T) -> bool;

    fn everything() -> Known<Is<PodUid>, Is<PolicyId>> {
        Known { pod: |_| true, policy: |_| true }
    }

    fn sinks() -> (Metrics, Sinks) {
        let (metrics, meter) =
            Metrics::new("Kubernetes", SystemTime::UNIX_EPOCH, Limits::default());
        let access_log = AccessLog::new(AccessLogSettings { enabled: false });
        (metrics, Sinks { meter, access_log })
    }
}
