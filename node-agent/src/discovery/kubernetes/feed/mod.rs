//! One kind of object, listed and then watched for as long as the agent runs.
//!
//! The list comes as a stream where the server offers it (KEP-3157), otherwise in pages. A watch
//! that ends goes on where it ended; one whose place is no longer known to the server (410) begins
//! with a new list. Whatever fails is tried again, with growing, jittered pauses, and with the
//! credentials read anew; and at once when another kind's feed is answered after a failure: a server that
//! was away is back.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::Client;
use kube::api::{ListParams, WatchParams};
use kube::core::{Request, WatchEvent};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::discovery::kubernetes::access::Access;
use crate::discovery::kubernetes::failure::{Failure, classify, classify_status};
use crate::discovery::kubernetes::resource::Resource;
use crate::discovery::translate::Kind;

/// The annotation of the bookmark that ends a streamed list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Objects of one page of a list that is not streamed.
const PAGE: u32 = 500;

/// The server ends a watch after this many seconds, and as many more as chance says, so that not
/// all nodes begin anew together.
const WATCH_SECONDS: u32 = 240;
const WATCH_JITTER_SECONDS: u32 = 50;

/// A watch that brought nothing and ended sooner than this is begun again with a pause.
const SHORT: Duration = Duration::from_secs(1);

/// How often a kind that the server does not know is looked for.
const ABSENT: Duration = Duration::from_secs(10);

/// A kind that was there is taken for removed when it has been missing this many times in a row: a
/// server that is just starting, or one of several that lags behind, may not know it yet.
const ABSENCES: u32 = 4;

/// What a feed tells, in order.
#[derive(Debug, PartialEq)]
pub(super) enum News {
    /// A list begins: everything up to [`News::Listed`] is part of it.
    Listing,
    /// An object, new, changed or listed.
    Object(Value),
    /// An object is gone.
    Gone(Value),
    /// The list is complete.
    Listed,
    /// The server was heard: what is known is what it says.
    Current,
    /// The server does not have this kind at all.
    Absent,
    /// What is known may be out of date.
    Failing(String),
}

/// Keeps one kind of object up to date.
pub(super) struct Feed {
    resource: Resource,
    access: Access,
    news: mpsc::Sender<(Kind, News)>,
    /// Told when the server answers one of the feeds that share this, after a failure.
    back: Arc<Notify>,
    client: Option<Client>,
    /// Where the watch goes on; `None` where a list must come first.
    version: Option<String>,
    streams: bool,
    listed: bool,
    absences: u32,
    attempt: u32,
    /// The last request was not answered as it should be.
    failing: bool,
}

/// One page of a list.
#[derive(Debug, Deserialize)]
struct Page {
    metadata: PageMetadata,
    #[serde(default)]
    items: Vec<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: String,
}

impl Feed {
    pub(super) fn new(
        resource: Resource,
        access: Access,
        news: mpsc::Sender<(Kind, News)>,
        back: Arc<Notify>,
    ) -> Self {
        Self {
            resource,
            access,
            news,
            back,
            client: None,
            version: None,
            streams: true,
            listed: false,
            absences: 0,
            attempt: 0,
            failing: false,
        }
    }

    /// Runs until nobody listens any more.
    pub(super) async fn run(mut self) {
        while !self.news.is_closed() {
            let began = Instant::now();
            let ended = self.step().await;
            let pause = match ended {
                Ok(()) if began.elapsed() >= SHORT => continue,
                Ok(()) => self.back_off(),
                Err(Failure::Gone) => {
                    self.version = None;
                    self.back_off()
                }
                Err(Failure::NotStreamed) => {
                    self.streams = false;
                    continue;
                }
                Err(Failure::Absent) if self.resource.is_optional() => self.absent().await,
                Err(Failure::Absent) => {
                    self.failed("404: the server has no such kind".into()).await;
                    continue;
                }
                Err(Failure::Failed(why)) => {
                    self.failed(why).await;
                    continue;
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn step(&mut self) -> Result<(), Failure> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                let made = self.access.client().await;
                let client = made.map_err(|error| Failure::Failed(chain(error)))?;
                self.client.insert(client).clone()
            }
        };
        match self.version.clone() {
            Some(version) => self.watch(&client, &version, false).await,
            None if self.streams => self.watch(&client, "", true).await,
            None => {
                self.list(&client).await?;
                let version = self.version.clone().unwrap_or_default();
                self.watch(&client, &version, false).await
            }
        }
    }

    /// Watches until the server ends it; with `list`, from a list of everything on.
    async fn watch(&mut self, client: &Client, version: &str, list: bool) -> Result<(), Failure> {
        let parameters = WatchParams {
            field_selector: self.resource.fields.map(str::to_owned),
            timeout: Some(WATCH_SECONDS + rand::random::<u32>() % WATCH_JITTER_SECONDS),
            bookmarks: true,
            send_initial_events: list,
            ..WatchParams::default()
        };
        let request = Request::new(self.resource.path()).watch(&parameters, version);
        let request = request.map_err(|error| Failure::Failed(chain(error)))?;
        let events = client.request_events::<Value>(request).await.map_err(|e| classify(&e))?;
        self.answered();
        let mut events = pin!(events);
        let mut listing = list;
        self.tell(if list { News::Listing } else { News::Current }).await;
        while let Some(event) = events.next().await {
            match event.map_err(|error| classify(&error))? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    self.came_to(version_of(&object), listing);
                    self.tell(News::Object(object)).await;
                }
                WatchEvent::Deleted(object) => {
                    self.came_to(version_of(&object), listing);
                    self.tell(News::Gone(object)).await;
                }
                WatchEvent::Bookmark(bookmark) => {
                    let ends = bookmark.metadata.annotations.contains_key(INITIAL_EVENTS_END);
                    if listing && ends {
                        listing = false;
                        self.listed().await;
                    }
                    self.came_to(Some(bookmark.metadata.resource_version), listing);
                    if !listing {
                        self.tell(News::Current).await;
                    }
                }
                WatchEvent::Error(status) => return Err(classify_status(&status)),
            }
        }
        Ok(())
    }

    async fn list(&mut self, client: &Client) -> Result<(), Failure> {
        self.tell(News::Listing).await;
        let mut parameters = ListParams::default().limit(PAGE);
        parameters.field_selector = self.resource.fields.map(str::to_owned);
        loop {
            let request = Request::new(self.resource.path()).list(&parameters);
            let request = request.map_err(|error| Failure::Failed(chain(error)))?;
            let page: Page = client.request(request).await.map_err(|error| classify(&error))?;
            self.answered();
            for object in page.items {
                self.tell(News::Object(object)).await;
            }
            if page.metadata.next.is_empty() {
                self.listed().await;
                self.came_to(Some(page.metadata.resource_version), false);
                return Ok(());
            }
            parameters.continue_token = Some(page.metadata.next);
        }
    }

    /// Where a watch could go on. What is part of a list that is not complete is no such place.
    fn came_to(&mut self, version: Option<String>, listing: bool) {
        self.attempt = 0;
        if let (Some(version), false) = (version.filter(|text| !text.is_empty()), listing) {
            self.version = Some(version);
        }
    }

    async fn listed(&mut self) {
        self.listed = true;
        self.absences = 0;
        self.tell(News::Listed).await;
    }

    /// Nobody hears it only when the agent ends.
    async fn tell(&self, news: News) {
        let _ended: Result<(), _> = self.news.send((self.resource.kind, news)).await;
    }

    /// Tells why, and waits: for a time, or until another feed is answered.
    async fn failed(&mut self, why: String) {
        // A token or a CA may have been replaced.
        self.client = None;
        self.failing = true;
        self.tell(News::Failing(why)).await;
        let pause = self.back_off();
        let back = Arc::clone(&self.back);
        // In time or early, the next attempt is the same.
        let _woken = tokio::time::timeout(pause, back.notified()).await;
    }

    fn answered(&mut self) {
        if std::mem::take(&mut self.failing) {
            self.back.notify_waiters();
        }
    }

    /// The kind is not there, under any of its versions.
    async fn absent(&mut self) -> Duration {
        self.version = None;
        if self.resource.try_next_version() {
            return Duration::ZERO;
        }
        self.absences = self.absences.saturating_add(1);
        if self.listed && self.absences < ABSENCES {
            self.tell(News::Failing("404: the server has no such kind any more".into())).await;
        } else {
            self.listed = false;
            self.tell(News::Absent).await;
        }
        jittered(ABSENT, rand::random())
    }

    fn back_off(&mut self) -> Duration {
        let pause = pause(self.attempt, rand::random());
        self.attempt = self.attempt.saturating_add(1);
        pause
    }
}

fn version_of(object: &Value) -> Option<String> {
    Some(object.get("metadata")?.get("resourceVersion")?.as_str()?.to_owned())
}

fn chain(error: impl std::error::Error + Send + Sync + 'static) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

/// Half a second, doubled with each attempt up to ten seconds, and jittered.
fn pause(attempt: u32, random: u32) -> Duration {
    let longest = Duration::from_millis(500).saturating_mul(1 << attempt.min(5));
    jittered(longest.min(Duration::from_secs(10)), random)
}

/// Between half of it and all of it.
fn jittered(longest: Duration, random: u32) -> Duration {
    longest / 2 + (longest / 2) * (random % 101) / 100
}

#[cfg(test)]
mod tests;
