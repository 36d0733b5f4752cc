//! A TLS stream over TCP that reads and writes many records per system call, and that can move from
//! the runtime that shook hands to the worker that carries the traffic.
//!
//! It drives rustls' unbuffered API: records are decrypted where they were received. Small writes
//! are staged until `poll_flush`, so that frames of many flows leave in one record.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::buffer;

/// Ciphertext read in one system call, at most.
const READ: usize = 64 * 1024;

/// Plaintext that is staged before it is sealed without waiting for a flush. What it becomes fits a
/// lent buffer: four records with 22 bytes of overhead each (RFC 8446, section 5.2).
const STAGE: usize = 4 * 16 * 1024;

/// Either end of a rustls session.
pub(crate) trait Session: Unpin + Send + 'static {
    type Data;

    fn process<'c, 'i>(&'c mut self, tls: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn state(&self) -> &rustls::CommonState;
}

impl Session for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, tls: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(tls)
    }

    fn state(&self) -> &rustls::CommonState {
        self
    }
}

impl Session for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, tls: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(tls)
    }

    fn state(&self) -> &rustls::CommonState {
        self
    }
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("socket")]
    Socket(#[from] io::Error),
    #[error("TLS")]
    Tls(#[from] rustls::Error),
}

/// A stream whose handshake is done, on no runtime.
pub(crate) struct Detached<S> {
    tcp: std::net::TcpStream,
    tls: Records<S>,
}

/// A stream whose handshake is done, on the runtime of this thread.
pub(crate) struct TlsStream<S> {
    tcp: TcpStream,
    tls: Records<S>,
}

/// The session and the bytes on both sides of it.
struct Records<S> {
    session: S,
    /// Ciphertext that was received and not decrypted yet.
    incoming: BytesMut,
    /// Plaintext that was decrypted and not read yet.
    plain: BytesMut,
    /// Plaintext that is to be sealed: a lent buffer, and how much of it is filled.
    staging: Vec<u8>,
    staged: usize,
    /// Ciphertext that is to be sent: a lent buffer, and the part of it that is left.
    outgoing: Vec<u8>,
    sent: usize,
    sealed: usize,
    end: End,
}

/// What the other end has said about its end of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    /// It sent close_notify: everything it sent has arrived.
    Finished,
}

/// What the session is advanced for.
enum Goal<'a, 'b> {
    /// To decrypt: into the reader's buffer until it is full, and what does not fit into `plain`.
    Receive(Option<&'a mut ReadBuf<'b>>),
    /// To seal what is staged.
    Seal,
    /// To say close_notify.
    Close,
}

impl<'b> Goal<'_, 'b> {
    fn reader(&mut self) -> Option<&mut ReadBuf<'b>> {
        match self {
            Self::Receive(buf) => buf.as_deref_mut(),
            Self::Seal | Self::Close => None,
        }
    }
}

/// What the session waits for.
enum Wants {
    /// More from the other end, before anything can be sent.
    Handshake,
    /// Nothing: the handshake is done.
    Nothing,
}

impl<S: Session> Detached<S> {
    /// Shakes hands on this runtime.
    pub(crate) async fn handshake(tcp: TcpStream, session: S) -> Result<Self, HandshakeError> {
        let mut stream = TlsStream { tcp, tls: Records::new(session) };
        loop {
            let advanced = stream.tls.advance(Goal::Receive(None));
            // Also after an error: the alert tells the other end why.
            let flushed = std::future::poll_fn(|cx| stream.poll_send(cx)).await;
            let wants = advanced?;
            flushed?;
            match wants {
                Wants::Nothing => break,
                Wants::Handshake => {}
            }
            if std::future::poll_fn(|cx| stream.poll_receive(cx)).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
        let TlsStream { tcp, tls } = stream;
        Ok(Self { tcp: tcp.into_std()?, tls })
    }

    /// What the handshake agreed on, and who the other end is.
    pub(crate) fn state(&self) -> &rustls::CommonState {
        self.tls.session.state()
    }

    /// The other end's address.
    pub(crate) fn peer_addr(&self) -> io::Result<std::net::SocketAddr> {
        self.tcp.peer_addr()
    }

    /// Moves the stream to the runtime of the calling thread.
    pub(crate) fn attach(self) -> io::Result<TlsStream<S>> {
        Ok(TlsStream { tcp: TcpStream::from_std(self.tcp)?, tls: self.tls })
    }
}

impl<S: Session> Records<S> {
    fn new(session: S) -> Self {
        Self {
            session,
            incoming: BytesMut::new(),
            plain: BytesMut::new(),
            staging: Vec::new(),
            staged: 0,
            outgoing: Vec::new(),
            sent: 0,
            sealed: 0,
            end: End::Open,
        }
    }

    /// Lets the session go through what has come in, as far as `goal` needs it. Everything rustls is
    /// given at a time starts with all of `incoming`: it remembers offsets into it.
    fn advance(&mut self, mut goal: Goal<'_, '_>) -> Result<Wants, rustls::Error> {
        let wants = loop {
            let UnbufferedStatus { mut discard, state, .. } =
                self.session.process(&mut self.incoming);
            let mut wants = None;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        deliver(record.payload, goal.reader(), &mut self.plain);
                    }
                    if goal.reader().is_some_and(|buf| buf.remaining() == 0) {
                        wants = Some(Wants::Nothing);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    let encoded = encode(&mut data, &mut self.outgoing, self.sealed);
                    self.sealed += encoded.map_err(|_twice| unexpected_state())?;
                }
                // The bytes stand in `outgoing` and leave in order; nothing is to be waited for.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::BlockedHandshake) => wants = Some(Wants::Handshake),
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let free = self.outgoing.get_mut(self.sealed..).unwrap_or_default();
                    let staged = self.staging.get(..self.staged).unwrap_or_default();
                    self.sealed += match goal {
                        Goal::Receive(_) => 0,
                        Goal::Seal => traffic.encrypt(staged, free).map_err(exhausted)?,
                        // A second one is refused: nothing more to say.
                        Goal::Close => traffic.queue_close_notify(free).unwrap_or(0),
                    };
                    wants = Some(Wants::Nothing);
                }
                // Said once; what follows is the state for sending.
                Ok(ConnectionState::PeerClosed) => self.end = End::Finished,
                Ok(ConnectionState::Closed) => wants = Some(Wants::Nothing),
                Ok(_) => return Err(unexpected_state()),
                Err(error) => {
                    self.incoming.advance(discard);
                    self.encode_alert();
                    return Err(error);
                }
            }
            self.incoming.advance(discard);
            if let Some(wants) = wants {
                break wants;
            }
        };
        if self.incoming.is_empty() {
            self.incoming = BytesMut::new();
        }
        Ok(wants)
    }

    /// After an error the session's last words, an alert among them, stand in its queue. What has
    /// come in must not be looked at again.
    fn encode_alert(&mut self) {
        while self.session.state().wants_write() {
            let UnbufferedStatus { discard, state, .. } = self.session.process(&mut self.incoming);
            let Ok(ConnectionState::EncodeTlsData(mut data)) = state else { return };
            let Ok(n) = encode(&mut data, &mut self.outgoing, self.sealed) else { return };
            self.sealed += n;
            self.incoming.advance(discard);
        }
    }

    /// Seals everything that is staged. Called with `outgoing` empty.
    fn seal(&mut self) -> io::Result<()> {
        if self.staged == 0 {
            return Ok(());
        }
        self.make_room();
        match self.advance(Goal::Seal).map_err(io::Error::other)? {
            Wants::Nothing if self.sealed > 0 => {}
            Wants::Nothing | Wants::Handshake => return Err(io::ErrorKind::BrokenPipe.into()),
        }
        self.staged = 0;
        buffer::take_back(std::mem::take(&mut self.staging));
        Ok(())
    }

    fn make_room(&mut self) {
        if self.outgoing.len() < buffer::SIZE {
            self.outgoing = buffer::lend();
        }
    }

    /// Gives the lent buffer back when everything in it has been sent.
    fn sent(&mut self, n: usize) {
        self.sent += n;
        if self.sent == self.sealed {
            (self.sent, self.sealed) = (0, 0);
            buffer::take_back(std::mem::take(&mut self.outgoing));
        }
    }

    fn unsent(&self) -> &[u8] {
        self.outgoing.get(self.sent..self.sealed).unwrap_or_default()
    }

    /// Stages as much as fits.
    fn stage(&mut self, data: &[u8]) -> usize {
        if self.staging.is_empty() {
            self.staging = buffer::lend();
        }
        let fits = data.len().min(STAGE - self.staged);
        let room = self.staging.get_mut(self.staged..self.staged + fits).unwrap_or_default();
        room.copy_from_slice(data.get(..fits).unwrap_or_default());
        self.staged += fits;
        fits
    }
}

/// Gives plaintext to whoever reads, and keeps what does not fit.
fn deliver(payload: &[u8], into: Option<&mut ReadBuf<'_>>, kept: &mut BytesMut) {
    let mut rest = payload;
    if let Some(buf) = into {
        let (fits, left) = payload.split_at(payload.len().min(buf.remaining()));
        buf.put_slice(fits);
        rest = left;
    }
    kept.extend_from_slice(rest);
}

/// Encodes a handshake record at `at`; makes room for it. Returns its length.
fn encode<D>(
    data: &mut EncodeTlsData<'_, D>,
    room: &mut Vec<u8>,
    at: usize,
) -> Result<usize, EncodeError> {
    match data.encode(room.get_mut(at..).unwrap_or_default()) {
        Err(EncodeError::InsufficientSize(needed)) => {
            room.resize(at + needed.required_size, 0);
            data.encode(room.get_mut(at..).unwrap_or_default())
        }
        other => other,
    }
}

/// A state that rustls cannot be in here: neither end offers early data, nothing is encoded twice.
fn unexpected_state() -> rustls::Error {
    rustls::Error::General("unexpected state of the TLS session".into())
}

#[expect(clippy::needless_pass_by_value, reason = "the shape map_err wants")]
fn exhausted(error: EncryptError) -> rustls::Error {
    rustls::Error::General(error.to_string())
}

impl<S: Session> TlsStream<S> {
    /// Sends what is sealed.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.tls.unsent().is_empty() {
            let n = ready!(Pin::new(&mut self.tcp).poll_write(cx, self.tls.unsent()))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.tls.sent(n);
        }
        Poll::Ready(Ok(()))
    }

    /// Seals and sends everything.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        self.tls.seal()?;
        self.poll_send(cx)
    }

    /// Receives ciphertext; 0 is the end of the TCP stream.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.tcp.poll_read_ready(cx))?;
            self.tls.incoming.reserve(READ);
            match self.tcp.try_read_buf(&mut self.tls.incoming) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.tls.incoming.is_empty() {
                        self.tls.incoming = BytesMut::new();
                    }
                }
                other => return Poll::Ready(other),
            }
        }
    }
}

impl<S: Session> AsyncRead for TlsStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.tls.plain.is_empty() {
                let n = this.tls.plain.len().min(buf.remaining());
                buf.put_slice(&this.tls.plain.split_to(n));
                if this.tls.plain.is_empty() {
                    this.tls.plain = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            let before = buf.filled().len();
            if !this.tls.incoming.is_empty() {
                this.tls.advance(Goal::Receive(Some(buf))).map_err(io::Error::other)?;
            }
            // A key update may have to be answered.
            if this.poll_send(cx)?.is_pending() {
                // The next write sends it.
            }
            if buf.filled().len() > before || this.tls.end == End::Finished {
                return Poll::Ready(Ok(()));
            }
            if ready!(this.poll_receive(cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

impl<S: Session> AsyncWrite for TlsStream<S> {
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
        if self.tls.staged >= STAGE {
            ready!(self.poll_drain(cx))?;
        }
        let mut staged = 0;
        for slice in slices {
            let n = self.tls.stage(slice);
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
        this.tls.make_room();
        this.tls.advance(Goal::Close).map_err(io::Error::other)?;
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
