//! The handshake, which rustls does; after it the keys are this module's own.

use std::io;

use bytes::{Buf as _, BytesMut};
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{CommonState, ConnectionTrafficSecrets, ExtractedSecrets};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::incoming::Incoming;
use super::messages::Messages;
use super::receiver::{End, Receiver};
use super::record::Key;
use super::{Detached, Keys};

/// Either end of a rustls session.
pub(crate) trait Session: Sized + Send + 'static {
    type Data;

    /// Whether the other end is the server.
    const FACES_SERVER: bool;

    fn process<'c, 'i>(&'c mut self, tls: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn state(&self) -> &CommonState;
    fn into_secrets(self) -> Result<(ExtractedSecrets, Box<dyn Secrets>), rustls::Error>;
}

/// The way to the keys that follow the present ones.
pub(crate) trait Secrets: Send {
    fn next_to_seal(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error>;
    fn next_to_open(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error>;
}

impl Session for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    const FACES_SERVER: bool = true;

    fn process<'c, 'i>(&'c mut self, tls: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(tls)
    }

    fn state(&self) -> &CommonState {
        self
    }

    fn into_secrets(self) -> Result<(ExtractedSecrets, Box<dyn Secrets>), rustls::Error> {
        let (secrets, next) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Box::new(next)))
    }
}

impl Session for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    const FACES_SERVER: bool = false;

    fn process<'c, 'i>(&'c mut self, tls: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(tls)
    }

    fn state(&self) -> &CommonState {
        self
    }

    fn into_secrets(self) -> Result<(ExtractedSecrets, Box<dyn Secrets>), rustls::Error> {
        let (secrets, next) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Box::new(next)))
    }
}

impl<D: Send> Secrets for KernelConnection<D> {
    fn next_to_seal(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error> {
        self.update_tx_secret().map(|(_first, secrets)| secrets)
    }

    fn next_to_open(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error> {
        self.update_rx_secret().map(|(_first, secrets)| secrets)
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

/// A stream whose handshake is done, with all that rustls knows of it.
pub(crate) struct Shaken<S> {
    tcp: TcpStream,
    session: S,
    buffers: Buffers,
}

/// What was received and is to be sent during the handshake.
#[derive(Default)]
struct Buffers {
    incoming: BytesMut,
    /// Data that came with the other end's last message.
    plain: BytesMut,
    outgoing: Vec<u8>,
    end: End,
}

/// What the session waits for.
enum Wants {
    /// More from the other end.
    More,
    /// Nothing: the handshake is done.
    Nothing,
}

impl<S: Session> Shaken<S> {
    /// Shakes hands on this runtime.
    pub(crate) async fn shake(tcp: TcpStream, session: S) -> Result<Self, HandshakeError> {
        let mut shaken = Self { tcp, session, buffers: Buffers::default() };
        loop {
            let advanced = shaken.buffers.advance(&mut shaken.session);
            // Also after an error: the alert tells the other end why.
            shaken.tcp.write_all(&shaken.buffers.outgoing).await?;
            shaken.buffers.outgoing.clear();
            match advanced? {
                Wants::Nothing => return Ok(shaken),
                Wants::More => {}
            }
            if shaken.tcp.read_buf(&mut shaken.buffers.incoming).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    /// What the handshake agreed on, and who the other end is.
    pub(crate) fn state(&self) -> &CommonState {
        self.session.state()
    }

    /// The other end's address.
    pub(crate) fn peer_addr(&self) -> io::Result<std::net::SocketAddr> {
        self.tcp.peer_addr()
    }

    /// Takes the keys over and leaves this runtime.
    pub(crate) fn detach(self) -> Result<Detached, HandshakeError> {
        let Self { tcp, session, buffers } = self;
        let (ExtractedSecrets { tx, rx }, next) = session.into_secrets()?;
        let (keys, open) = (Keys { seal: Key::new(tx.0, &tx.1)?, next }, Key::new(rx.0, &rx.1)?);
        let Buffers { incoming, plain, end, .. } = buffers;
        let messages = Messages::new(S::FACES_SERVER);
        let receiver = Receiver::new(Incoming::new(&plain, &incoming), open, messages, end);
        Ok(Detached { tcp: tcp.into_std()?, keys, receiver })
    }
}

impl Buffers {
    /// Lets the session go through what has come in. Everything rustls is given at a time starts with
    /// all of `incoming`: it remembers offsets into it.
    fn advance<S: Session>(&mut self, session: &mut S) -> Result<Wants, rustls::Error> {
        loop {
            let UnbufferedStatus { mut discard, state, .. } = session.process(&mut self.incoming);
            let mut wants = None;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        self.plain.extend_from_slice(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut data, &mut self.outgoing).map_err(|_twice| unexpected_state())?;
                }
                // The bytes stand in `outgoing` and leave in order; nothing is to be waited for.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::BlockedHandshake) => wants = Some(Wants::More),
                Ok(ConnectionState::WriteTraffic(_)) => wants = Some(Wants::Nothing),
                // Said once; what follows is the state for sending.
                Ok(ConnectionState::PeerClosed) => self.end = End::Finished,
                Ok(_) => return Err(unexpected_state()),
                Err(error) => {
                    self.incoming.advance(discard);
                    self.encode_alert(session);
                    return Err(error);
                }
            }
            self.incoming.advance(discard);
            if let Some(wants) = wants {
                return Ok(wants);
            }
        }
    }

    /// After an error the session's last words, an alert among them, stand in its queue. What has
    /// come in must not be looked at again.
    fn encode_alert<S: Session>(&mut self, session: &mut S) {
        while session.state().wants_write() {
            let UnbufferedStatus { discard, state, .. } = session.process(&mut self.incoming);
            let Ok(ConnectionState::EncodeTlsData(mut data)) = state else { return };
            if encode(&mut data, &mut self.outgoing).is_err() {
                return;
            }
            self.incoming.advance(discard);
        }
    }
}

/// Appends a handshake record.
fn encode<D>(data: &mut EncodeTlsData<'_, D>, to: &mut Vec<u8>) -> Result<(), EncodeError> {
    let at = to.len();
    if let Err(EncodeError::InsufficientSize(needed)) = data.encode(&mut []) {
        to.resize(at + needed.required_size, 0);
    }
    let encoded = data.encode(to.get_mut(at..).unwrap_or_default());
    to.truncate(at + encoded.as_ref().map_or(0, |length| *length));
    encoded.map(drop)
}

/// A state that rustls cannot be in here: neither end offers early data, nothing is encoded twice.
fn unexpected_state() -> rustls::Error {
    rustls::Error::General("unexpected state of the TLS session".into())
}
