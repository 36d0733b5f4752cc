//! Composition of `adit ca serve`.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::runtime;

use super::signals;
use crate::ca;
use crate::discovery::{Source, StatusHandle, Worlds};
use crate::shutdown;
use crate::telemetry;
use crate::telemetry::LogSettings;

/// Serves until a signal ends it. The source says which node hosts which identity.
///
/// # Errors
/// The directory, the tokens or the address cannot be used.
pub fn serve(service: ca::ServeOptions, source: Source, log: &LogSettings) -> anyhow::Result<()> {
    let log = telemetry::log::init(log)?;
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    let ended = runtime.block_on(async {
        let (trigger, shutdown) = shutdown::channel();
        let signals = signals::listen(Arc::new(trigger)).context("listen for signals")?;
        let worlds = Worlds::new();
        let following = tokio::spawn(source.run(
            service.trust_domain.clone(),
            worlds.clone(),
            StatusHandle::new(),
            shutdown.clone(),
        ));
        let served = ca::serve(service, worlds, shutdown).await;
        following.abort();
        signals.abort();
        Ok(served?)
    });
    if let Err(error) = &ended {
        let error: &anyhow::Error = error;
        tracing::error!("{error:#}");
    }
    log.flush();
    ended
}
