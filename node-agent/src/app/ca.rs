//! Composition of `adit ca serve`.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::runtime;

use super::signals;
use crate::announce;
use crate::ca;
use crate::config::{Environment as _, ProcessEnvironment};
use crate::discovery::{Source, StatusHandle, Worlds};
use crate::shutdown;
use crate::shutdown::Shutdown;
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
        let telling = announced(&service, &shutdown).map(tokio::spawn);
        let served = ca::serve(service, worlds, shutdown).await;
        following.abort();
        if let Some(telling) = telling {
            telling.abort();
        }
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

/// Tells what becomes of the policies of a cluster, apart from the CA: neither waits for the other.
fn announced(
    service: &ca::ServeOptions,
    shutdown: &Shutdown,
) -> Option<impl Future<Output = ()> + use<>> {
    let ca::Backing::Kubernetes(settings) = &service.backing else {
        return None;
    };
    // The pod's name; a process that is started again in its place is another holder.
    let host = ProcessEnvironment.hostname().unwrap_or_default();
    let options = announce::Options {
        access: settings.access.clone(),
        namespace: settings.namespace.clone(),
        holder: format!("{host}_{:016x}", rand::random::<u64>()),
        trust_domain: service.trust_domain.clone(),
    };
    Some(announce::policies(options, shutdown.clone()))
}
