//! SIGTERM and SIGINT drain; a second one ends.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use crate::shutdown::{Phase, Trigger};

/// Listens from now on.
pub(super) fn listen(trigger: Arc<Trigger>) -> io::Result<JoinHandle<()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::spawn(async move {
        for phase in [Phase::Draining, Phase::Forced] {
            let name = tokio::select! {
                _received = terminate.recv() => "SIGTERM",
                _received = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, ?phase, "told to end");
            trigger.advance(phase);
        }
    }))
}
