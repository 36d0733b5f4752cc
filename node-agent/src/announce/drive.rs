//! The loop that drives a machine: what is seen goes in, what it asks for is written, one write at a time.

use std::future::pending;
use std::time::{Duration, SystemTime};

use adit_core::announce::{Announcer, Answer, Input, Subject};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::announce::server::{Form, Server};

/// Changes that come within this time are looked at together.
const GATHER: Duration = Duration::from_millis(100);

/// What something is told of.
pub(super) trait Objects {
    type Subject: Subject;

    /// All objects as they are now.
    fn look(&mut self) -> Vec<Pair<Self::Subject>>;

    /// Returns when they may have changed; `false` if they never will again. May be dropped at any time.
    async fn changed(&mut self) -> bool;

    /// A write as the API server wants it.
    fn request(&self, write: &<Self::Subject as Subject>::Write, now: SystemTime) -> Request;
}

pub(super) type Pair<S> = (<S as Subject>::Key, <S as Subject>::Seen);

/// How, where and what.
pub(super) type Request = (Form, String, Value);

/// Runs for as long as the objects may change.
pub(super) async fn drive(objects: impl Objects, server: &mut Server) {
    let (asking, asked) = mpsc::channel(1);
    let (answering, answered) = mpsc::channel(1);
    tokio::select! {
        () = decide(objects, asking, answered) => {}
        () = write(server, asked, answering) => {}
    }
}

async fn decide<O: Objects>(
    mut objects: O,
    asking: mpsc::Sender<Request>,
    mut answered: mpsc::Receiver<Answer>,
) {
    let mut machine = Announcer::<O::Subject>::new(rand::random());
    let mut look_at = Some(Instant::now());
    loop {
        if look_at.is_some_and(|at| at <= Instant::now()) {
            look_at = None;
            machine.handle(Input::Seen(objects.look()), now());
        }
        // The machine asks for one at a time, so there is room.
        if let Some(write) = machine.poll_command()
            && asking.send(objects.request(&write, SystemTime::now())).await.is_err()
        {
            return;
        }
        let due = machine.poll_timeout().map(|(at, _)| Instant::from_std(at));
        tokio::select! {
            Some(answer) = answered.recv() => machine.handle(Input::Answered(answer), now()),
            () = at(due) => machine.handle_timeout(now()),
            () = at(look_at) => {}
            going_on = objects.changed() => {
                if !going_on {
                    return;
                }
                look_at = look_at.or_else(|| Some(Instant::now() + GATHER));
            }
        }
    }
}

async fn write(
    server: &mut Server,
    mut asked: mpsc::Receiver<Request>,
    answering: mpsc::Sender<Answer>,
) {
    while let Some((form, path, body)) = asked.recv().await {
        let answer = server.write(form, &path, &body).await;
        if answering.send(answer).await.is_err() {
            return;
        }
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// For ever if there is no such time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}
