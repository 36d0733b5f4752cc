//! A TLS stream over TCP that reads and writes many records per system call, and that can move from
//! the runtime that shook hands to the worker that carries the traffic.
//!
//! rustls shakes hands and derives keys; the records are sealed and opened here, where they stand.
//! Small writes are staged until `poll_flush`, so that frames of many flows leave in one record.

mod handshake;
mod incoming;
mod messages;
mod outgoing;
mod record;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use handshake::Secrets;
pub(crate) use handshake::{HandshakeError, Session, Shaken};
use incoming::{Incoming, Opened};
use messages::{Message, Messages};
use outgoing::Outgoing;
use record::{BadRecord, Content, Key};

use super::activity::Activity;

/// Messages of the other end's session without data in between, before they are taken for an attack.
const IDLE_MESSAGES: u32 = 32;

/// `KeyUpdate`, which does not ask for another one (RFC 8446, section 4.6.3).
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// `close_notify`, a warning (RFC 8446, section 6.1).
const CLOSE_NOTIFY: [u8; 2] = [1, 0];

/// A stream whose handshake is done, on no runtime.
pub(crate) struct Detached {
    tcp: std::net::TcpStream,
    keys: Keys,
    plain: BytesMut,
    incoming: BytesMut,
    messages: Messages,
    end: End,
}

/// A stream whose handshake is done, on the runtime of this thread.
pub(crate) struct TlsStream {
    tcp: TcpStream,
    keys: Keys,
    incoming: Incoming,
    outgoing: Outgoing,
    messages: Messages,
    end: End,
    /// Messages of the other end's session since it last sent data.
    idle_messages: u32,
    /// The other end asked for another key of this end.
    update_due: bool,
    /// What the other end is told before the stream ends for an error.
    alert: Option<u8>,
    activity: Activity,
}

/// The keys of both directions.
struct Keys {
    seal: Key,
    open: Key,
    next: Box<dyn Secrets>,
}

/// What the other end has said about its end of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum End {
    #[default]
    Open,
    /// It sent close_notify: everything it sent has arrived.
    Finished,
}

impl Detached {
    /// Moves the stream to the runtime of the calling thread.
    pub(crate) fn attach(self) -> io::Result<TlsStream> {
        Ok(TlsStream {
            tcp: TcpStream::from_std(self.tcp)?,
            keys: self.keys,
            incoming: Incoming::new(&self.plain, &self.incoming),
            outgoing: Outgoing::default(),
            messages: self.messages,
            end: self.end,
            idle_messages: 0,
            update_due: false,
            alert: None,
            activity: Activity::new(),
        })
    }
}

impl TlsStream {
    /// When bytes came last, for whoever needs to know while this is in use.
    pub(super) fn activity(&self) -> Activity {
        self.activity.clone()
    }

    /// Opens records that have come, and gives their data to the reader until it is full.
    fn deliver(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        loop {
            self.incoming.take(buf);
            if buf.remaining() == 0 || self.end == End::Finished {
                return Ok(());
            }
            match self.incoming.open(&mut self.keys.open) {
                Ok(None) => return Ok(()),
                Ok(Some(Opened::Handshake(said))) => {
                    self.messages.add(&said);
                    self.obey().map_err(|bad| self.fail(bad))?;
                }
                Ok(Some(_)) if self.messages.is_amid_one() => {
                    return Err(self.fail(BadRecord::Unexpected));
                }
                Ok(Some(Opened::Data)) => self.idle_messages = 0,
                Ok(Some(Opened::Alert(alert))) => {
                    self.heed(alert).map_err(|bad| self.fail(bad))?;
                }
                Err(bad) => return Err(self.fail(bad)),
            }
        }
    }

    /// Does what the other end's session says.
    fn obey(&mut self) -> Result<(), BadRecord> {
        while let Some(message) = self.messages.next()? {
            if self.idle_messages >= IDLE_MESSAGES {
                return Err(BadRecord::Unexpected);
            }
            self.idle_messages += 1;
            if let Message::KeyUpdate { asked } = message {
                let secrets = self.keys.next.next_to_open();
                let key = secrets.and_then(|secrets| Key::new(0, &secrets));
                self.keys.open = key.map_err(|_refused| BadRecord::Unexpected)?;
                self.update_due |= asked;
            }
        }
        Ok(())
    }

    fn heed(&mut self, [_level, what]: [u8; 2]) -> Result<(), BadRecord> {
        match what {
            0 => self.end = End::Finished,
            // user_canceled; close_notify follows (RFC 8446, section 6.1).
            90 => {}
            _ => return Err(BadRecord::Alerted),
        }
        Ok(())
    }

    fn fail(&mut self, bad: BadRecord) -> io::Error {
        self.alert = bad.alert();
        io::Error::new(io::ErrorKind::InvalidData, bad)
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
        let mut room = ReadBuf::new(self.incoming.room());
        let read = Pin::new(&mut self.tcp).poll_read(cx, &mut room);
        let n = room.filled().len();
        self.incoming.received(n);
        if n > 0 {
            self.activity.mark();
        }
        Poll::Ready(ready!(read).map(|()| n > 0))
    }

    /// Tells the other end why the stream ends, if the socket takes it at once.
    fn say_alert(&mut self, cx: &mut Context<'_>) {
        if let Some(alert) = self.alert.take()
            && let Poll::Ready(Ok(())) = self.poll_drain(cx)
            && self.outgoing.say(&mut self.keys.seal, Content::Alert, &[2, alert]).is_ok()
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
        loop {
            let delivered = this.deliver(buf);
            if this.update_due && this.poll_drain(cx)?.is_pending() {
                // The next write sends it.
            }
            if let Err(error) = delivered {
                this.say_alert(cx);
                return Poll::Ready(Err(error));
            }
            if buf.filled().len() > before || this.end == End::Finished {
                return Poll::Ready(Ok(()));
            }
            if !ready!(this.poll_receive(cx))? {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
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
