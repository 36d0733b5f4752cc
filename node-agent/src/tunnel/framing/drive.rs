//! Moves a connection's bytes between its machine and what carries them. Received data stays where the
//! record layer has opened it until it is in its stream's inbox; what is sent goes from where its
//! sender read it straight into the record that is sealed.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncBufRead, AsyncWrite};

use super::frame::Fault;
use super::handles::{Link, Responder};
use super::machine::{Machine, Role};
use crate::tunnel::budget::Budget;
use crate::tunnel::engine::{self, Incoming};

/// What is received before it is looked what can be sent, in bytes.
const RECEIVED: usize = 64 << 10;

/// What is moved before others have their turn, in bytes.
const MOVED: usize = 128 << 10;

/// The task of a connection. Its streams are lost when it is dropped.
pub(super) struct Drive<T> {
    io: T,
    link: Link,
    budget: Budget,
}

/// What came of one turn.
enum Turn {
    /// There is more to do at once.
    Again,
    /// The connection has ended.
    Over,
}

impl<T> Drop for Drive<T> {
    fn drop(&mut self) {
        self.link.borrow_mut().end();
    }
}

impl<T: AsyncBufRead + AsyncWrite + Unpin> Drive<T> {
    pub(super) const fn new(io: T, link: Link, budget: Budget) -> Self {
        Self { io, link, budget }
    }

    /// Drives the connection until it ends; requests go to `accept`.
    pub(super) async fn run(mut self, mut accept: impl FnMut(Incoming)) -> io::Result<()> {
        while let Turn::Again = poll_fn(|cx| self.poll_turn(cx, &mut accept)).await? {
            tokio::task::yield_now().await;
        }
        poll_fn(|cx| Pin::new(&mut self.io).poll_shutdown(cx)).await
    }

    fn poll_turn(
        &mut self,
        cx: &mut Context<'_>,
        accept: &mut impl FnMut(Incoming),
    ) -> Poll<io::Result<Turn>> {
        super::machine::wait(&mut self.link.borrow_mut().driver, cx);
        let mut moved = 0;
        loop {
            let received = self.receive(cx)?;
            self.hand_on(accept);
            let sent = self.send(cx)?;
            moved += received.bytes + sent;
            if received.end {
                return Poll::Ready(self.ended());
            }
            if self.link.borrow().is_done() {
                return Pin::new(&mut self.io).poll_flush(cx).map_ok(|()| Turn::Over);
            }
            if received.bytes == 0 {
                return Poll::Pending;
            }
            if moved >= MOVED {
                return Poll::Ready(Ok(Turn::Again));
            }
        }
    }

    /// Takes in what has come, up to a bound.
    fn receive(&mut self, cx: &mut Context<'_>) -> io::Result<Received> {
        let mut bytes = 0;
        while bytes < RECEIVED {
            let data = match Pin::new(&mut self.io).poll_fill_buf(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok([])) => return Ok(Received { bytes, end: true }),
                Poll::Ready(Ok(data)) => data,
                Poll::Ready(Err(error)) => return Err(error),
            };
            let n = data.len();
            let taken = self.link.borrow_mut().receive(data);
            if let Err(fault) = taken {
                return Err(self.complain(fault, cx));
            }
            Pin::new(&mut self.io).consume(n);
            bytes += n;
        }
        Ok(Received { bytes, end: false })
    }

    fn hand_on(&self, accept: &mut impl FnMut(Incoming)) {
        loop {
            let arrived = self.link.borrow_mut().arrived.pop_front();
            let Some((id, request)) = arrived else { return };
            let responder = Responder::new(&self.link, id, &self.budget);
            accept(Incoming {
                authority: request.authority,
                forwarded: request.forwarded,
                responder: engine::Responder::Framing(responder),
            });
        }
    }

    /// Sends what there is, as far as it is taken.
    fn send(&mut self, cx: &mut Context<'_>) -> io::Result<usize> {
        let mut sent = 0;
        let mut machine = self.link.borrow_mut();
        while machine.prepare() {
            let slices = machine.outgoing.slices();
            match Pin::new(&mut self.io).poll_write_vectored(cx, &slices) {
                Poll::Pending => return Ok(sent),
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(n)) => {
                    machine.outgoing.wrote(n);
                    sent += n;
                }
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        drop(machine);
        match Pin::new(&mut self.io).poll_flush(cx) {
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(sent),
        }
    }

    /// Tells the other end what it did, if it takes that at once.
    fn complain(&mut self, fault: Fault, cx: &mut Context<'_>) -> io::Error {
        {
            let mut machine = self.link.borrow_mut();
            let last = if machine.role == Role::Client { 0 } else { machine.last };
            machine.put_goaway(last, fault.code);
        }
        let _unsent = self.send(cx);
        let _unsaid = Pin::new(&mut self.io).poll_shutdown(cx);
        io::Error::other(fault)
    }

    /// The other end has ended what carries the connection.
    fn ended(&self) -> io::Result<Turn> {
        let machine = self.link.borrow();
        if machine.counted == 0 { Ok(Turn::Over) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// What was received.
struct Received {
    bytes: usize,
    /// Nothing more will come.
    end: bool,
}

/// Shares a machine between its task and the handles.
pub(super) fn link(machine: Machine) -> Link {
    Rc::new(RefCell::new(machine))
}
