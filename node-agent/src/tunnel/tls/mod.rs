//! A TLS stream over TCP that reads and writes many records per system call, and that can move from
//! the runtime that shook hands to the worker that carries the traffic.
//!
//! rustls shakes hands and derives keys; the records are sealed and opened here, where they stand.
//! Small writes are staged until `poll_flush`, so that frames of many flows leave in one record.

mod handshake;
mod incoming;
mod messages;
mod outgoing;
mod receiver;
mod record;
#[cfg(any(test, feature = "testing"))]
mod walk;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use handshake::Secrets;
pub(crate) use handshake::{HandshakeError, Session, Shaken};
use outgoing::Outgoing;
use receiver::Receiver;
use record::{BadRecord, Content, Key};
#[cfg(any(test, feature = "testing"))]
pub(crate) use walk::walk;

use super::activity::Activity;

/// `KeyUpdate`, which does not ask for another one (RFC 8446, section 4.6.3).
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// `close_notify`, a warning (RFC 8446, section 6.1).
const CLOSE_NOTIFY: [u8; 2] = [1, 0];

/// What may wait in the socket beyond what the network takes, in bytes: more is not written.
const UNSENT: u32 = 128 << 10;

/// A stream whose handshake is done, on no runtime.
pub(crate) struct Detached {
    tcp: std::net::TcpStream,
    keys: Keys,
    receiver: Receiver,
}

/// A stream whose handshake is done, on the runtime of this thread.
pub(crate) struct TlsStream {
    tcp: TcpStream,
    keys: Keys,
    receiver: Receiver,
    outgoing: Outgoing,
    /// The other end asked for another key of this end.
    update_due: bool,
    /// The other end did what it must not, and was told so.
    failed: bool,
    activity: Activity,
}

/// The key of this end, and the way to the next one of either.
struct Keys {
    seal: Key,
    next: Box<dyn Secrets>,
}

impl Detached {
    /// Moves the stream to the runtime of the calling thread.
    pub(crate) fn attach(self) -> io::Result<TlsStream> {
        // What waits in the socket delays what its streams say next.
        SockRef::from(&self.tcp).set_tcp_notsent_lowat(UNSENT)?;
        Ok(TlsStream {
            tcp: TcpStream::from_std(self.tcp)?,
            keys: self.keys,
            receiver: self.receiver,
            outgoing: Outgoing::default(),
            update_due: false,
            failed: false,
            activity: Activity::new(),
        })
    }
}

impl TlsStream {
    /// When bytes came last, for whoever needs to know while this is in use.
    pub(super) fn activity(&self) -> Activity {
        self.activity.clone()
    }

    /// Sends what is sealed.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.unsent().is_empty() {
            let n = ready!(Pin::new(&mut self.tcp).poll_write(cx, self.outgoing.unsent()))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.sent(n);
        }
        Poll::Ready(Ok(()))
    }

    /// Seals and sends everything, and a new key when one is due.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.seal(&mut self.keys.seal).map_err(io::Error::other)?;
        ready!(self.poll_send(cx))?;
        if self.update_due || self.keys.seal.is_worn() {
            self.update().map_err(io::Error::other)?;
            ready!(self.poll_send(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Says that another key follows, and takes it. Called with nothing unsent.
    fn update(&mut self) -> Result<(), rustls::Error> {
        self.outgoing.say(&mut self.keys.seal, Content::Handshake, &KEY_UPDATE)?;
        self.keys.seal = Key::new(0, &self.keys.next.next_to_seal()?)?;
        self.update_due = false;
        Ok(())
    }

    /// Receives records; false is the end of the TCP stream.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut room = ReadBuf::new(self.receiver.room());
        let read = Pin::new(&mut self.tcp).poll_read(cx, &mut room);
        let n = room.filled().len();
        self.receiver.received(n);
        if n > 0 {
            self.activity.mark();
        }
        Poll::Ready(ready!(read).map(|()| n > 0))
    }

    /// Does what records that were opened ask of this end; gives what was wrong with the last.
    fn respond(
        &mut self,
        cx: &mut Context<'_>,
        opened: Result<bool, BadRecord>,
    ) -> io::Result<Option<io::Error>> {
        let failed = match opened {
            Ok(asked) => {
                self.update_due |= asked;
                None
            }
            Err(bad) => {
                self.say_alert(cx, bad.alert());
                Some(io::Error::new(io::ErrorKind::InvalidData, bad))
            }
        };
        if self.update_due && !self.failed && self.poll_drain(cx)?.is_pending() {
            // The next write sends it.
        }
        Ok(failed)
    }

    /// Tells the other end once why the stream ends, if the socket takes it at once.
    fn say_alert(&mut self, cx: &mut Context<'_>, alert: Option<u8>) {
        if !std::mem::replace(&mut self.failed, true)
            && let Some(alert) = alert
            && !self.outgoing.is_closed()
            && let Poll::Ready(Ok(())) = self.poll_drain(cx)
            && self.outgoing.close(&mut self.keys.seal, &[2, alert]).is_ok()
        {
            let _unsent = self.poll_send(cx);
        }
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        // Whoever has no room must not make room for more: data may stand there.
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            let opened = this.receiver.deliver(buf, &mut *this.keys.next);
            let failed = this.respond(cx, opened)?;
            // What came before the failure is good; whoever reads again is told.
            if buf.filled().len() > before || this.receiver.is_finished() {
                return Poll::Ready(Ok(()));
            }
            if let Some(error) = failed {
                return Poll::Ready(Err(error));
            }
            if !ready!(this.poll_receive(cx))? {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

/// Data is read where its record was opened.
impl AsyncBufRead for TlsStream {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        loop {
            let opened = this.receiver.prepare(&mut *this.keys.next);
            if let Some(error) = this.respond(cx, opened)? {
                return Poll::Ready(Err(error));
            }
            if !this.receiver.data().is_empty() || this.receiver.is_finished() {
                return Poll::Ready(Ok(this.receiver.data()));
            }
            if !ready!(this.poll_receive(cx))? {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    fn consume(self: Pin<&mut Self>, n: usize) {
        self.get_mut().receiver.consume(n);
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.outgoing.is_closed() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if this.outgoing.is_full() {
            ready!(this.poll_drain(cx))?;
        }
        let mut staged = 0;
        for slice in slices {
            let n = this.outgoing.stage(&mut this.keys.seal, slice).map_err(io::Error::other)?;
            staged += n;
            if n < slice.len() {
                break;
            }
        }
        Poll::Ready(Ok(staged))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        let this = &mut *self;
        if !this.outgoing.is_closed() {
            this.outgoing.close(&mut this.keys.seal, &CLOSE_NOTIFY).map_err(io::Error::other)?;
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
