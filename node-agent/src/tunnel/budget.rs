//! What slow readers may make this process hold, over all tunnels: bytes that came through a tunnel
//! and that an application does not take. When that is too much, the stream that holds most is
//! ended, so that one slow application does not cost the others theirs.
//!
//! Only streams whose application is behind are counted; the others hold one chunk at most.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The limit and what counts against it. Cheap to clone; shared by all workers.
#[derive(Clone)]
pub(crate) struct Budget(Arc<Shared>);

struct Shared {
    limit: usize,
    held: AtomicUsize,
    next: AtomicUsize,
    holders: Mutex<BTreeMap<usize, Arc<Holder>>>,
}

/// What one stream holds.
#[derive(Default)]
struct Holder {
    bytes: AtomicUsize,
    evicted: AtomicBool,
    told: Notify,
}

/// A stream's part of the budget; given back when it is dropped.
pub(super) struct Share {
    budget: Budget,
    /// `None` until the stream holds something for the first time.
    place: Option<(usize, Arc<Holder>)>,
}

impl Budget {
    /// At most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self(Arc::new(Shared {
            limit,
            held: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            holders: Mutex::default(),
        }))
    }

    /// A share for a stream that holds nothing yet.
    pub(super) fn share(&self) -> Share {
        Share { budget: self.clone(), place: None }
    }

    fn holders(&self) -> MutexGuard<'_, BTreeMap<usize, Arc<Holder>>> {
        self.0.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Evicts the largest holders until what the others hold is within the limit. One that was
    /// evicted gives back what it holds as soon as its worker looks at it.
    fn evict(&self) {
        let holders = self.holders();
        let bytes = |holder: &Holder| holder.bytes.load(Ordering::Relaxed);
        let (gone, mut left): (Vec<_>, Vec<_>) =
            holders.values().partition(|holder| holder.evicted.load(Ordering::Relaxed));
        let going: usize = gone.into_iter().map(|holder| bytes(holder)).sum();
        let held = self.0.held.load(Ordering::Relaxed);
        let mut surplus = held.saturating_sub(going).saturating_sub(self.0.limit);
        left.sort_by_key(|holder| bytes(holder));
        while surplus > 0
            && let Some(largest) = left.pop()
        {
            surplus = surplus.saturating_sub(bytes(largest));
            largest.evicted.store(true, Ordering::Relaxed);
            largest.told.notify_one();
        }
    }
}

impl Share {
    /// Counts bytes that are held from now on.
    pub(super) fn grow(&mut self, bytes: usize) {
        let holder = self.holder();
        holder.bytes.fetch_add(bytes, Ordering::Relaxed);
        let shared = &self.budget.0;
        let held = shared.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if held > shared.limit {
            self.budget.evict();
        }
    }

    /// Counts bytes that were taken.
    pub(super) fn shrink(&self, bytes: usize) {
        if let Some((_, holder)) = &self.place {
            holder.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.budget.0.held.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Completes when the stream must end for the others' sake.
    pub(super) async fn evicted(&self) {
        match &self.place {
            Some((_, holder)) => holder.told.notified().await,
            None => std::future::pending().await,
        }
    }

    fn holder(&mut self) -> &Holder {
        let Self { budget, place } = self;
        let (_, holder) = place.get_or_insert_with(|| {
            let number = budget.0.next.fetch_add(1, Ordering::Relaxed);
            let holder = Arc::new(Holder::default());
            budget.holders().insert(number, Arc::clone(&holder));
            (number, holder)
        });
        holder
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some((number, holder)) = self.place.take() {
            self.budget.holders().remove(&number);
            let bytes = holder.bytes.load(Ordering::Relaxed);
            self.budget.0.held.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn within_the_limit_nobody_is_evicted_and_what_is_given_back_is_there_again() {
        let budget = Budget::new(100);
        let mut one = budget.share();
        let mut other = budget.share();
        one.grow(60);
        one.shrink(50);
        other.grow(90);
        assert!(one.evicted().now_or_never().is_none());
        assert!(other.evicted().now_or_never().is_none());
        drop(other);
        one.grow(90);
        assert!(one.evicted().now_or_never().is_none());
    }

    #[test]
    fn the_largest_holder_goes_and_not_the_one_that_came_last() {
        let budget = Budget::new(100);
        let mut shares = [20, 70, 5].map(|bytes| {
            let mut share = budget.share();
            share.grow(bytes);
            share
        });
        shares[2].grow(10);
        let evicted = shares.each_ref().map(|share| share.evicted().now_or_never().is_some());
        assert_eq!(evicted, [false, true, false]);
        // It goes; until it has gone nobody else needs to.
        shares[0].grow(40);
        assert!(shares[0].evicted().now_or_never().is_none());
    }

    #[test]
    fn as_many_go_as_are_too_many() {
        let budget = Budget::new(10);
        let mut shares: Vec<Share> = (0..4).map(|_| budget.share()).collect();
        for share in &mut shares {
            share.grow(9);
        }
        let evicted = shares.iter().filter(|share| share.evicted().now_or_never().is_some());
        assert_eq!(evicted.count(), 3);
    }
}
