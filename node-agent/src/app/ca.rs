//! Composition of `adit ca serve`.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::runtime;

use super::signals;
use crate::ca;
use crate::discovery::Worlds;
use crate::discovery::manifests;
use crate::shutdown;
use crate::telemetry;
use crate::telemetry::LogSettings;

/// Serves until a signal ends it. The manifests in the directory say which node hosts which
/// identity.
///
/// # Errors
/// The directory, the tokens or the address cannot be used.
pub fn serve(
    service: ca::ServeOptions,
    directory: PathBuf,
    log: &LogSettings,
) -> anyhow::Result<()> {
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
        let manifests = tokio::spawn(manifests::run(
            manifests::Settings { directory },
            service.trust_domain.clone(),
            worlds.clone(),
            manifests::StatusHandle::new(),
            shutdown.clone(),
        ));
        let served = ca::serve(service, worlds, shutdown).await;
        manifests.abort();
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
