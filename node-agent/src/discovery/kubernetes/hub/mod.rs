//! What the feeds of all kinds tell, together: which objects are in force, what that changes, and how
//! the source is. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use adit_core::identity::TrustDomain;
use adit_core::policy::PolicyId;
use adit_core::world::Delta;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::discovery::SourceStatus;
use crate::discovery::kubernetes::feed::News;
use crate::discovery::translate::{self, Key, Kind, Ledger, Unreadable};

/// Everything that is known.
pub(super) struct Hub {
    trust_domain: TrustDomain,
    ledger: Ledger,
    kinds: BTreeMap<Kind, State>,
    /// What is wrong with the newest version of an object.
    wrong: BTreeMap<Key, String>,
    pending: Vec<Delta>,
    last_change: Option<SystemTime>,
}

/// How a kind is.
#[derive(Debug, Default)]
struct State {
    /// Whether there was a complete list.
    listed: bool,
    /// What a list that is under way has brought.
    listing: Option<BTreeSet<Key>>,
    /// Since when it is not known to be up to date, and why.
    failing: Option<(SystemTime, String)>,
}

impl Hub {
    pub(super) fn new(kinds: &[Kind], trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            ledger: Ledger::default(),
            kinds: kinds.iter().map(|kind| (*kind, State::default())).collect(),
            wrong: BTreeMap::new(),
            pending: Vec::new(),
            last_change: None,
        }
    }

    pub(super) fn take(&mut self, kind: Kind, news: News, now: SystemTime) {
        match news {
            News::Listing => self.state(kind).listing = Some(BTreeSet::new()),
            News::Object(value) => self.put(kind, value),
            News::Gone(value) => {
                if let Some(key) = key(kind, &value) {
                    self.wrong.remove(&key);
                    self.ledger.remove(&key, &mut self.pending);
                }
            }
            News::Listed => {
                self.end_of_list(kind);
                self.recovered(kind);
            }
            News::Absent => {
                self.state(kind).listing = Some(BTreeSet::new());
                self.end_of_list(kind);
                self.recovered(kind);
            }
            News::Current => self.recovered(kind),
            News::Failing(why) => self.failing(kind, why, now),
        }
    }

    fn state(&mut self, kind: Kind) -> &mut State {
        self.kinds.entry(kind).or_default()
    }

    fn put(&mut self, kind: Kind, mut value: Value) {
        let Some(key) = key(kind, &value) else {
            tracing::warn!(kind = kind.as_str(), "the API server sent an object without a name");
            return;
        };
        // By far the longest part of many objects.
        if let Some(Value::Object(metadata)) = value.get_mut("metadata") {
            metadata.remove("managedFields");
        }
        if let Some(listed) = &mut self.state(kind).listing {
            listed.insert(key.clone());
        }
        match translate::read(kind, value, &self.trust_domain) {
            Ok(object) => {
                self.wrong.remove(&key);
                match object {
                    Some(object) => self.ledger.put(object, &mut self.pending),
                    None => self.ledger.remove(&key, &mut self.pending),
                }
            }
            Err(unreadable) => self.reject(key, unreadable),
        }
    }

    /// The last good version stays in force. Nobody knows what an object said before that is already
    /// wrong when a list brings it for the first time, be it the first one or one after a time in which
    /// the API server was not heard: a policy then opens nothing up.
    fn reject(&mut self, key: Key, Unreadable { error, closed }: Unreadable) {
        let kept = self.ledger.contains(&key);
        let first = self.state(key.kind).listing.is_some() && !self.wrong.contains_key(&key);
        if self.wrong.get(&key) != Some(&error) {
            tracing::warn!(object = %key, error, last_version_kept = kept, "invalid object");
        }
        if let Some(closed) = closed.filter(|_| first && !kept) {
            self.ledger.put(closed, &mut self.pending);
        }
        self.wrong.insert(key, error);
    }

    /// What the list did not bring is gone.
    fn end_of_list(&mut self, kind: Kind) {
        let state = self.state(kind);
        state.listed = true;
        let Some(listed) = state.listing.take() else {
            return;
        };
        let known = self.ledger.keys(kind);
        let gone: Vec<Key> = known.filter(|key| !listed.contains(key)).cloned().collect();
        for key in gone {
            self.ledger.remove(&key, &mut self.pending);
        }
        self.wrong.retain(|key, _| key.kind != kind || listed.contains(key));
    }

    fn recovered(&mut self, kind: Kind) {
        if self.state(kind).failing.take().is_some() {
            tracing::info!(kind = kind.as_str(), "up to date with the API server again");
        }
    }

    fn failing(&mut self, kind: Kind, why: String, now: SystemTime) {
        let state = self.state(kind);
        let since = match &state.failing {
            Some((since, before)) => {
                if *before != why {
                    tracing::warn!(kind = kind.as_str(), error = why, "still not up to date");
                }
                *since
            }
            None => {
                tracing::warn!(kind = kind.as_str(), error = why, "cannot follow the API server");
                now
            }
        };
        state.failing = Some((since, why));
    }

    /// Whether there is such an object, be it valid or not.
    pub(super) fn knows(&self, key: &Key) -> bool {
        self.ledger.contains(key) || self.wrong.contains_key(key)
    }

    /// Whether every kind has been listed that something is decided by.
    pub(super) fn is_synced(&self) -> bool {
        self.kinds.iter().all(|(kind, state)| state.listed || kind.is_advisory())
    }

    /// What has changed since the last time. Nothing before every kind has been listed, so that nobody
    /// sees half a world.
    pub(super) fn take_deltas(&mut self, now: SystemTime) -> Vec<Delta> {
        if !self.is_synced() || self.pending.is_empty() {
            return Vec::new();
        }
        self.last_change = Some(now);
        std::mem::take(&mut self.pending)
    }

    pub(super) fn status(&self) -> SourceStatus {
        let deciding = self.kinds.iter().filter(|(kind, _)| !kind.is_advisory());
        let mut failing: Vec<(SystemTime, String)> = deciding
            .filter_map(|(kind, state)| {
                let (since, _) = state.failing.as_ref()?;
                Some((*since, format!("API server: {}: {}", kind.as_str(), state.lacks()?)))
            })
            .collect();
        failing.sort();
        let failing: Vec<String> = failing.into_iter().map(|(_, text)| text).collect();
        let wrong = self.wrong.iter().map(|(key, error)| format!("{key}: {error}"));
        let rejected = self.wrong.iter();
        let rejected = rejected.filter_map(|(key, error)| Some((key.policy()?, error.clone())));
        let rejected: BTreeMap<PolicyId, String> = rejected.collect();
        SourceStatus {
            files: 0,
            objects: self.ledger.len(),
            stale: failing.first().cloned(),
            errors: failing.into_iter().chain(wrong).collect(),
            rejected,
            network_policies_lack: self.kinds.get(&Kind::NetworkPolicy).and_then(State::lacks),
            last_change: self.last_change,
        }
    }
}

impl State {
    /// Why what is known of the kind is not all of it; `None`: it is.
    fn lacks(&self) -> Option<String> {
        let Some((since, why)) = &self.failing else {
            return (!self.listed).then(|| "not listed yet".to_owned());
        };
        let since = rfc3339(*since);
        Some(if self.listed {
            format!("as of {since}: {why}")
        } else {
            format!("not listed yet, tried since {since}: {why}")
        })
    }
}

pub(super) fn key(kind: Kind, value: &Value) -> Option<Key> {
    let metadata = value.get("metadata")?;
    let text = |name| metadata.get(name).and_then(Value::as_str);
    Key::of(kind, text("namespace"), text("name"))
}

fn rfc3339(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let seconds = time.replace_nanosecond(0).unwrap_or(time);
    // Only years beyond 9999 cannot be written.
    seconds.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests;
