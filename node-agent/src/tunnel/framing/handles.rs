//! What the proxy and the pool hold of a connection: the client, readers, writers, responders. They
//! act on the machine at once; the connection's own task moves the bytes.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::StatusCode;

use super::frame::Code;
use super::hpack;
use super::machine::{Machine, NoRoom};
use super::stream::Answered;
use crate::tunnel::budget::{Budget, Share};
use crate::tunnel::engine::{self, Answer};
use crate::tunnel::{Broken, ConnectHead, ReadHalf, WriteHalf};

/// What a stream may hold unread before it counts against the budget, in bytes: what comes in one go.
const UNCOUNTED: usize = 64 << 10;

/// A connection that is shared by its task and the handles.
pub(super) type Link = Rc<RefCell<Machine>>;

/// The client's end of a tunnel. When the last is dropped the tunnel takes nothing new, and ends with
/// its last stream.
#[derive(Clone)]
pub(crate) struct Client(Rc<Ours>);

struct Ours {
    link: Link,
    budget: Budget,
}

/// The keep-alive's PING.
pub(crate) struct Pinger {
    link: Link,
}

/// Holds a stream.
struct Held {
    link: Link,
    id: u32,
}

/// The receiving half of a stream.
pub(crate) struct Reader {
    held: Held,
    /// What was returned last, and is dealt with when more is asked for, in bytes.
    taken: usize,
    share: Share,
    /// What the share says, in bytes.
    counted: usize,
}

/// The sending half of a stream.
pub(crate) struct Writer {
    held: Held,
}

/// The way to answer a request, once.
pub(crate) struct Responder {
    held: Held,
    budget: Budget,
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.link.borrow_mut().leave();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.link.borrow_mut().let_go(self.id);
    }
}

impl Held {
    /// Holds it once more.
    fn again(&self) -> Self {
        self.link.borrow_mut().hold(self.id);
        Self { link: Rc::clone(&self.link), id: self.id }
    }

    fn halves(self, budget: &Budget) -> (Reader, Writer) {
        let other = self.again();
        let reader = Reader { held: self, taken: 0, share: budget.share(), counted: 0 };
        (reader, Writer { held: other })
    }
}

impl Client {
    pub(super) fn new(link: Link, budget: Budget) -> Self {
        Self(Rc::new(Ours { link, budget }))
    }

    /// How many streams at a time the other end takes, as far as it has said.
    pub(crate) fn takes(&self) -> u32 {
        self.0.link.borrow().theirs.max_streams
    }

    /// Asks for a stream and waits for the answer.
    pub(crate) async fn request(&self, head: &ConnectHead) -> Answer {
        let Some(block) = hpack::request(head) else { return Answer::Status(400) };
        let link = &self.0.link;
        let opened = poll_fn(|cx| {
            let mut machine = link.borrow_mut();
            let opened = machine.open(&block);
            if opened == Err(NoRoom::Full) {
                machine.waiting.push(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(opened)
        });
        let id = match opened.await {
            Ok(id) => id,
            Err(NoRoom::GoingAway | NoRoom::Full) => return Answer::GoingAway,
            Err(NoRoom::Ended) => return Answer::Unsent,
        };
        let held = Held { link: Rc::clone(link), id };
        match poll_fn(|cx| link.borrow_mut().poll_answer(id, cx)).await {
            Answered::Status(200) => {
                let (reader, writer) = held.halves(&self.0.budget);
                Answer::Stream(engine::Reader::Framing(reader), engine::Writer::Framing(writer))
            }
            Answered::Status(code) => Answer::Status(code),
            Answered::Refused => Answer::Full,
            Answered::GoingAway => Answer::GoingAway,
            // The other end gave up on the request without a status.
            Answered::Reset => Answer::Status(StatusCode::SERVICE_UNAVAILABLE.as_u16()),
            Answered::Lost => Answer::Lost,
        }
    }
}

impl Pinger {
    pub(super) const fn new(link: Link) -> Self {
        Self { link }
    }

    /// Sends one.
    pub(crate) fn send(&self) {
        self.link.borrow_mut().send_ping();
    }

    /// Completes when it is answered; with false if the connection is gone.
    pub(crate) async fn answered(&self) -> bool {
        poll_fn(|cx| self.link.borrow_mut().poll_pong(cx)).await
    }
}

impl Responder {
    pub(super) fn new(link: &Link, id: u32, budget: &Budget) -> Self {
        Self { held: Held { link: Rc::clone(link), id }, budget: budget.clone() }
    }

    /// Answers 200.
    pub(crate) fn accept(self) -> Result<(Reader, Writer), Broken> {
        let block = hpack::response(StatusCode::OK);
        self.held.link.borrow_mut().answer(self.held.id, &block, false)?;
        Ok(self.held.halves(&self.budget))
    }

    /// Answers another status, and with it the whole stream.
    pub(crate) fn reject(self, code: StatusCode) {
        let block = hpack::response(code);
        // If the other end is gone, nobody is left to be told.
        let _gone: Result<(), Broken> =
            self.held.link.borrow_mut().answer(self.held.id, &block, true);
    }

    /// Completes when the other end gives the request up before it is answered, or is gone.
    pub(crate) async fn given_up(&mut self) -> Broken {
        poll_fn(|cx| self.held.link.borrow_mut().poll_broken(self.held.id, cx)).await
    }

    /// Says that the request was not processed.
    #[cfg(test)]
    pub(crate) fn refuse(self) {
        self.held.link.borrow_mut().reset(self.held.id, Code::Refused);
    }
}

impl Reader {
    /// Counts what is held unread, beyond what comes in one go.
    fn count(&mut self, unread: usize) {
        let unread = worth_counting(unread);
        if unread > self.counted {
            self.share.grow(unread - self.counted);
        } else if unread < self.counted {
            self.share.shrink(self.counted - unread);
        }
        self.counted = unread;
    }
}

const fn worth_counting(unread: usize) -> usize {
    if unread > UNCOUNTED { unread } else { 0 }
}

impl ReadHalf for Reader {
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        let released = std::mem::take(&mut self.taken);
        let mut machine = self.held.link.borrow_mut();
        if released > 0 {
            machine.release(self.held.id, released);
        }
        let read = ready!(machine.poll_read(self.held.id, cx))?;
        drop(machine);
        if let Some(bytes) = &read {
            self.taken = bytes.len();
            if self.counted > 0 {
                self.count(self.counted.saturating_sub(bytes.len()));
            }
        }
        Poll::Ready(Ok(read))
    }

    async fn broken(&mut self) -> Broken {
        loop {
            let counted = self.counted;
            let change =
                poll_fn(|cx| match self.held.link.borrow_mut().poll_unread(self.held.id, cx) {
                    Err(broken) => Poll::Ready(Err(broken)),
                    Ok(unread) if worth_counting(unread) != counted => Poll::Ready(Ok(unread)),
                    Ok(_) => Poll::Pending,
                });
            let unread = tokio::select! {
                biased;
                () = self.share.evicted() => return Broken::Evicted,
                change = change => change,
            };
            match unread {
                Ok(unread) => self.count(unread),
                Err(broken) => return broken,
            }
        }
    }
}

impl WriteHalf for Writer {
    fn poll_write(&mut self, bytes: &mut Bytes, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.held.link.borrow_mut().poll_write(self.held.id, bytes, cx)
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(self.held.link.borrow_mut().finish(self.held.id))
    }

    fn reset(&mut self) {
        self.held.link.borrow_mut().reset(self.held.id, Code::Cancel);
    }

    fn deny(&mut self) {
        self.held.link.borrow_mut().reset(self.held.id, Code::NoLongerPermitted);
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        self.held.link.borrow_mut().poll_broken(self.held.id, cx)
    }
}
