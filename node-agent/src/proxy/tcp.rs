//! The two halves of a TCP connection.

use std::cell::RefCell;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::sys::sockopt;
use crate::tunnel::{Broken, ReadHalf, WriteHalf};

/// What is read in one system call, at most, in bytes: with the header of the HTTP/2 frame that it goes
/// into (RFC 9113, section 4.1) it fills four TLS records (RFC 8446, section 5.1). More would leave a
/// rest that is a record, a segment and a wake-up of its own.
const READ: usize = 4 * (16 << 10) - 9;

/// Up to this length a copy is cheaper than to keep the scratch buffer's memory in flight.
const COPY: usize = 16 << 10;

thread_local! {
    /// Where everything is read into, so that an idle flow holds no buffer.
    static SCRATCH: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// The receiving half.
pub(crate) struct Reader(OwnedReadHalf);

/// The sending half; `None` after a reset.
pub(crate) struct Writer(Option<OwnedWriteHalf>);

/// The halves of a connection that is reset when it is closed ([`sockopt::reset_on_close`], which its
/// listener had, or itself before it connected), until [`WriteHalf::close`] takes that back: so it is
/// reset also if the process is killed, and the application cannot take what it got for the whole.
pub(super) fn split(tcp: TcpStream) -> (Reader, Writer) {
    let (reader, writer) = tcp.into_split();
    (Reader(reader), Writer(Some(writer)))
}

impl ReadHalf for Reader {
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            scratch.reserve(READ);
            let mut room = (&mut *scratch).limit(READ);
            let n = ready!(pin!(self.0.read_buf(&mut room)).poll(cx)).map_err(broken)?;
            Poll::Ready(Ok(match n {
                0 => None,
                1..=COPY => Some(Bytes::copy_from_slice(scratch)),
                _ => Some(scratch.split().freeze()),
            }))
        })
    }

    async fn broken(&mut self) -> Broken {
        // A reset sets the socket's error (tcp_reset in the kernel), which epoll always tells.
        match self.0.ready(Interest::ERROR).await {
            Ok(_error) => match self.0.as_ref().take_error() {
                Ok(Some(error)) => broken(error),
                Ok(None) | Err(_) => Broken::Reset,
            },
            Err(_closed) => Broken::Lost,
        }
    }
}

impl WriteHalf for Writer {
    fn poll_write(&mut self, bytes: &mut Bytes, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let half = self.0.as_mut().ok_or(Broken::Reset)?;
        while !bytes.is_empty() {
            let n = ready!(Pin::new(&mut *half).poll_write(cx, bytes)).map_err(broken)?;
            bytes.advance(n);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let half = self.0.as_mut().ok_or(Broken::Reset)?;
        Pin::new(half).poll_shutdown(cx).map_err(broken)
    }

    fn reset(&mut self) {
        let Some(half) = self.0.take() else { return };
        // A half that is dropped instead of forgotten would send a FIN before the reset.
        let tcp: &TcpStream = half.as_ref();
        let _closed: io::Result<()> = sockopt::reset_on_close(tcp);
        half.forget();
    }

    fn close(&mut self) {
        let Some(half) = &self.0 else { return };
        let tcp: &TcpStream = half.as_ref();
        let _closed: io::Result<()> = sockopt::deliver_on_close(tcp);
    }

    fn poll_broken(&mut self, _cx: &mut Context<'_>) -> Poll<Broken> {
        // A reset is seen by the reading half, or by the next write.
        Poll::Pending
    }
}

/// A socket of this node mostly breaks because its other end, an application, broke it.
#[expect(clippy::needless_pass_by_value, reason = "the shape map_err wants")]
fn broken(error: io::Error) -> Broken {
    let by_its_end = matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotConnected
    );
    // When retransmissions or keep-alive probes end unanswered the error is what ICMP said last, or
    // ETIMEDOUT (tcp_write_err in the kernel).
    let unanswered = matches!(
        error.kind(),
        io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    );
    match (by_its_end, unanswered) {
        (true, _) => Broken::Reset,
        (false, true) => Broken::Silent,
        (false, false) => Broken::Lost,
    }
}
