//! The CA on Kubernetes: callers are reviewed by the API server, the keys are in a Secret, the roots in
//! a ConfigMap. Several replicas share them and need nothing else of each other.

mod api;
mod claims;
mod review;
mod root;
mod rotate;
mod rotation;

use std::sync::Arc;
use std::time::Duration;

use adit_core::identity::TrustDomain;
use adit_core::workload::ObjectName;
use tracing::{error, info, warn};

use crate::ca::CaError;
use crate::ca::serving::Serving;
use crate::ca::signing::Signing;
use crate::discovery::kubernetes::Access;
use crate::identity::Clock;
use crate::pki::Authority;
use api::Api;
use root::{Names, Read, Root, RootError};

pub(super) use review::Reviews;
pub use rotate::{Published, Report, RotateError, RotateOptions, Rotation, Wish};

/// How often the Secret and the ConfigMap are looked at.
const LOOK: Duration = Duration::from_secs(10);

/// The same until there is a CA to serve with.
const RETRY: Duration = Duration::from_secs(2);

/// Where everything is, and who may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The way to the API server.
    pub access: Access,
    /// The namespace of the Secret and the ConfigMap.
    pub namespace: String,
    /// The service account of the agents.
    pub agent: ObjectName,
    /// The audience of their tokens.
    pub audience: String,
    /// The Secret with the CA's keys.
    pub secret: String,
    /// The ConfigMap with the roots.
    pub bundle: String,
}

/// What is kept up to date while the CA serves.
pub(super) struct Keeper {
    root: Root,
    read: Read,
    clock: Clock,
}

/// Opens everything; tries again until it succeeds, for a cluster may be just starting.
pub(super) async fn open(
    options: &Options,
    trust_domain: &TrustDomain,
    clock: &Clock,
) -> (Reviews, Authority, Keeper) {
    let api = Arc::new(Api::new(options.access.clone()));
    let names = Names {
        namespace: options.namespace.clone(),
        secret: options.secret.clone(),
        bundle: options.bundle.clone(),
    };
    let root = Root::new(Arc::clone(&api), names, trust_domain.clone());
    let (read, authority) = loop {
        match first(&root, clock).await {
            Ok(opened) => break opened,
            Err(error) => {
                error!(error = format!("{:#}", anyhow::Error::new(error)), "CA cannot serve yet");
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    let reviews = Reviews::new(api, options.audience.clone());
    (reviews, authority, Keeper { root, read, clock: clock.clone() })
}

async fn first(root: &Root, clock: &Clock) -> Result<(Read, Authority), RootError> {
    let now = clock.now();
    let mut read = root.read(now).await?;
    let mut authority = root.authority(&read)?;
    if let Some(renewed) = root.renew(&read, &authority, now).await? {
        read = renewed;
        authority = root.authority(&read)?;
    }
    root.publish(authority.roots()).await?;
    Ok((read, authority))
}

impl Keeper {
    /// Looks at the Secret and the ConfigMap for as long as it is not dropped.
    pub(super) async fn run(mut self, signing: Arc<Signing>, serving: Arc<Serving>) {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Err(error) = self.look(&signing, &serving).await {
                let error = format!("{:#}", anyhow::Error::new(error));
                warn!(error, "the CA goes on with the keys that it has");
            }
        }
    }

    async fn look(&mut self, signing: &Signing, serving: &Serving) -> Result<(), CaError> {
        let now = self.clock.now();
        let mut read = self.root.read(now).await.map_err(kept)?;
        signing.confirm();
        if let Some(renewed) = self.root.renew(&read, &signing.load(), now).await.map_err(kept)? {
            read = renewed;
        }
        self.adopt(read, signing, serving)?;
        // Before the next step of a rotation: everybody is told before anything depends on it.
        self.root.publish(signing.load().roots()).await.map_err(kept)?;
        let rotated = self.root.rotate(&self.read, &signing.load(), now).await.map_err(kept)?;
        let Some(rotated) = rotated else {
            return Ok(());
        };
        self.adopt(rotated, signing, serving)?;
        self.root.publish(signing.load().roots()).await.map_err(kept)
    }

    /// Signs with these keys from now on, unless it does already.
    fn adopt(&mut self, read: Read, signing: &Signing, serving: &Serving) -> Result<(), CaError> {
        if read.version == self.read.version {
            return Ok(());
        }
        let authority = self.root.authority(&read).map_err(kept)?;
        serving.renew(&authority, self.clock.now())?;
        signing.store(authority);
        self.read = read;
        info!(
            secret_version = self.read.version,
            "signing with the keys of the Secret as it is now"
        );
        Ok(())
    }
}

fn kept(error: RootError) -> CaError {
    CaError::Kubernetes(format!("{:#}", anyhow::Error::new(error)))
}
