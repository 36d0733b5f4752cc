//! The HTTP/2 engine with its own framing, for CONNECT and nothing else: both roles of HBONE. A pure
//! machine (`machine`, `receive`, `send`) that one task (`drive`) moves bytes for. Header blocks are
//! read by the `h2` crate (`hpack`).

mod drive;
mod frame;
mod handles;
mod hpack;
mod machine;
mod parser;
mod receive;
mod send;
mod stream;

use std::future::Future;
use std::io;
use std::rc::Rc;

use tokio::io::{AsyncBufRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Instant;

use super::activity::{Activity, silence};
use super::engine::{Incoming, Served};
use super::{Budget, Settings};
use drive::Drive;
pub(crate) use handles::{Client, Pinger, Reader, Responder, Writer};
use machine::{Machine, Role};

/// Opens the client's end. The future that is returned drives it and must be polled.
pub(super) fn connect<T>(
    io: T,
    budget: Budget,
) -> (Client, Pinger, impl Future<Output = io::Result<()>>)
where
    T: AsyncBufRead + AsyncWrite + Unpin,
{
    let link = drive::link(Machine::new(Role::Client));
    let drive = Drive::new(io, Rc::clone(&link), budget.clone());
    let client = Client::new(Rc::clone(&link), budget);
    // A client's machine takes no request.
    (client, Pinger::new(link), drive.run(drop))
}

/// Serves a tunnel until it ends: each request goes to `accept`. When `drain` turns true no new one
/// is taken, and the tunnel ends with its last stream.
pub(super) async fn serve<T>(
    (io, activity): (T, Activity),
    (settings, budget): (&Settings, &Budget),
    mut drain: watch::Receiver<bool>,
    accept: impl FnMut(Incoming),
) -> Served
where
    T: AsyncBufRead + AsyncWrite + Unpin,
{
    let link = drive::link(Machine::new(Role::Server(settings.max_streams)));
    let drive = Drive::new(io, Rc::clone(&link), budget.clone()).run(accept);
    let mut drive = std::pin::pin!(drive);
    let begin_by = Instant::now() + settings.connect_timeout;
    let begun = || link.borrow().parser.has_begun();
    let pinger = Pinger::new(Rc::clone(&link));
    let limits = (settings.ping_interval, settings.ping_timeout);
    let ping = async || {
        pinger.send();
        pinger.answered().await
    };
    let mut silence = std::pin::pin!(silence(ping, &activity, limits));
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            ended = &mut drive => return match ended {
                Ok(()) => Served::Closed,
                Err(error) => Served::Broken(error),
            },
            _turned = drain.wait_for(|drain| *drain), if !draining => {
                draining = true;
                link.borrow_mut().leave();
            }
            () = tokio::time::sleep_until(begin_by), if !begun() => {
                if !begun() {
                    return Served::Silent;
                }
            }
            () = &mut silence => return Served::Silent,
        }
    }
}

#[cfg(test)]
mod tests;
