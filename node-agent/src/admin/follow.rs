//! The stream of flows: one JSON object a line, as long as the client reads. A client that is too
//! slow loses the oldest events and is told how many; nobody waits for it. It is also told of the
//! events that were lost before they got here.

use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use adit_core::flow::{FlowId, FlowRecord};
use axum::body::{Body, Bytes};
use futures_util::stream;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::admin::filter::FlowFilter;
use crate::admin::view::{FlowView, FollowEvent};
use crate::observer::Observer;

/// How often an idle stream says that it lives; this is also how a client that went away is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);

struct Follower {
    filter: FlowFilter,
    /// What there was already, still to be written.
    before: VecDeque<Arc<FlowRecord>>,
    /// What of it may come again, because it happened between subscribing and looking.
    seen: HashSet<(FlowId, bool)>,
    events: Receiver<Arc<FlowRecord>>,
    observer: Observer,
    /// Records that were lost before it followed, or of which it was told.
    lost: u64,
}

/// The body of the answer: `before`, then what `events` brings. `events` must have been subscribed
/// to before `before` was looked up.
pub(super) fn body(
    filter: FlowFilter,
    before: Vec<Arc<FlowRecord>>,
    events: Receiver<Arc<FlowRecord>>,
    observer: Observer,
) -> Body {
    let seen = before.iter().map(|flow| key(flow)).collect();
    let lost = observer.dropped();
    let follower = Follower { filter, before: before.into(), seen, events, observer, lost };
    Body::from_stream(stream::unfold(follower, |mut follower| async move {
        let line = follower.line().await?;
        Some((Ok::<_, Infallible>(line), follower))
    }))
}

impl Follower {
    /// The next line, or `None` when the agent ends.
    async fn line(&mut self) -> Option<Bytes> {
        if let Some(flow) = self.before.pop_front() {
            return Some(line(&FollowEvent::Flow(Box::new(FlowView::from(&*flow)))));
        }
        let lost = self.observer.dropped().saturating_sub(self.lost);
        if lost > 0 {
            self.lost += lost;
            return Some(line(&FollowEvent::Lost(lost)));
        }
        match tokio::time::timeout(HEARTBEAT, self.event()).await {
            Ok(event) => event.map(|event| line(&event)),
            Err(_idle) => Some(Bytes::from_static(b"\n")),
        }
    }

    async fn event(&mut self) -> Option<FollowEvent> {
        loop {
            match self.events.recv().await {
                Ok(flow) if self.seen.remove(&key(&flow)) => {}
                Ok(flow) if self.filter.matches(&flow) => {
                    return Some(FollowEvent::Flow(Box::new(FlowView::from(&*flow))));
                }
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    self.observer.note_missed(missed);
                    return Some(FollowEvent::Missed(missed));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

fn key(flow: &FlowRecord) -> (FlowId, bool) {
    (flow.id, flow.end.is_some())
}

fn line(event: &FollowEvent) -> Bytes {
    // Views are plain strings and numbers: they always serialize.
    let mut text = serde_json::to_vec(event).unwrap_or_default();
    text.push(b'\n');
    Bytes::from(text)
}
