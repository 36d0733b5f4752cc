//! `adit ca rotate`: asks the CA to rotate its root, and tells how far it is. What asks sees the
//! metadata of the Secret only; the keys are made, moved and forgotten by the CA
//! ([`super::root::Root::rotate`]).

use std::time::{Duration, SystemTime};

use adit_core::root_rotation::{self, Next, Phase, Refused};
use serde_json::{Value, json};

use super::api::{Api, ApiError};
use super::root::{KEPT_BY, Names};
use super::rotation::{self, ANNOTATION, RotationError};
use crate::discovery::kubernetes::Access;
use crate::pki::{Bundle, Facts, PkiError, ROOT_CERT};

/// A CA looks at its Secret every ten seconds.
const TAKEN_UP: Duration = Duration::from_secs(60);

/// How often it is looked whether it did.
const LOOK: Duration = Duration::from_secs(1);

/// Where the Secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotateOptions {
    /// The way to the API server.
    pub access: Access,
    /// The namespace of the Secret and the ConfigMap.
    pub namespace: String,
    /// The Secret with the CA's keys.
    pub secret: String,
    /// The ConfigMap with the roots.
    pub bundle: String,
}

/// What somebody wants of the rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Only to know.
    Status,
    /// That it begins.
    Begin,
    /// That it is given up.
    Abort,
}

/// How a rotation stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The Secret, as `namespace/name`.
    pub secret: String,
    /// Whether the CA made it, and may rotate it.
    pub ours: bool,
    /// How far it is.
    pub phase: Phase,
    /// What comes next, and when at the latest.
    pub next: Next,
    /// The roots that are published.
    pub roots: Vec<Published>,
}

/// A root that is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// SHA-256, hexadecimal digits.
    pub fingerprint: String,
    /// The end of its life.
    pub not_after: SystemTime,
    /// Whether it is the new one of this rotation.
    pub new: bool,
}

/// Why a rotation cannot be asked for, or not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The API server, in its own words.
    #[error("{0}")]
    Api(String),
    /// There is no CA.
    #[error("there is no Secret {0}: no CA has started there yet")]
    NoSecret(String),
    /// Somebody else's.
    #[error(
        "Secret {0} was not made by adit's CA, so that whoever made it rotates its root; docs/kubernetes.md, \"The CA's root\", has the steps"
    )]
    NotOurs(String),
    /// Not in this phase.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It was changed at the same time.
    #[error(
        "Secret {0} was changed by somebody else at the same time; look at --status and try again"
    )]
    Contended(String),
    /// What stands in it makes no sense.
    #[error("Secret {secret}: {why}")]
    Unfit {
        /// The Secret.
        secret: String,
        /// What is wrong.
        why: String,
    },
}

impl From<ApiError> for RotateError {
    fn from(error: ApiError) -> Self {
        Self::Api(format!("{:#}", anyhow::Error::new(error)))
    }
}

/// The Secret and the ConfigMap, from outside.
pub struct Rotation {
    api: Api,
    names: Names,
}

impl Rotation {
    /// Nothing is asked yet.
    #[must_use]
    pub fn new(options: RotateOptions) -> Self {
        let RotateOptions { access, namespace, secret, bundle } = options;
        Self { api: Api::new(access), names: Names { namespace, secret, bundle } }
    }

    /// How it stands.
    ///
    /// # Errors
    /// [`RotateError`].
    pub async fn report(&self, now: SystemTime) -> Result<Report, RotateError> {
        let object = self.object().await?;
        let phase = self.phase(&object)?;
        // The end of what signs stands in the data, which does not come here.
        let lives = rotation::lives(None);
        Ok(Report {
            secret: self.shown(),
            ours: is_ours(&object),
            phase,
            next: root_rotation::next(phase, lives, now),
            roots: self.published(rotation::new_root(&object).as_deref()).await?,
        })
    }

    /// Whether the wish would change anything, or why it cannot be had.
    ///
    /// # Errors
    /// [`RotateError`].
    pub async fn would(&self, wish: Wish) -> Result<bool, RotateError> {
        Ok(self.wished(&self.object().await?, wish)?.is_some())
    }

    /// Leaves the wish in the Secret, where the CA finds it. Whether that changed anything.
    ///
    /// # Errors
    /// [`RotateError`].
    pub async fn ask(&self, wish: Wish) -> Result<bool, RotateError> {
        let object = self.object().await?;
        let Some(phase) = self.wished(&object, wish)? else {
            return Ok(false);
        };
        let note = rotation::noted(phase, rotation::new_root(&object));
        // With the version that was looked at, so that a step of the CA is never undone.
        let version = object.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
        let change =
            json!({"metadata": {"resourceVersion": version, "annotations": {ANNOTATION: note}}});
        let path = self.path("secrets", &self.names.secret);
        match self.api.patch_metadata(&path, &change).await? {
            Some(_changed) => Ok(true),
            None => Err(RotateError::Contended(self.shown())),
        }
    }

    /// Waits until a CA has taken a wish up; whether one did.
    ///
    /// # Errors
    /// [`RotateError`].
    pub async fn taken_up(&self) -> Result<bool, RotateError> {
        let until = tokio::time::Instant::now() + TAKEN_UP;
        while tokio::time::Instant::now() < until {
            match self.phase(&self.object().await?)? {
                Phase::Requested | Phase::Aborting => tokio::time::sleep(LOOK).await,
                Phase::Idle | Phase::Distributing { .. } | Phase::Signing { .. } => {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn wished(&self, object: &Value, wish: Wish) -> Result<Option<Phase>, RotateError> {
        if wish == Wish::Status {
            return Ok(None);
        }
        if !is_ours(object) {
            return Err(RotateError::NotOurs(self.shown()));
        }
        let phase = self.phase(object)?;
        Ok(match wish {
            Wish::Status => None,
            Wish::Begin => root_rotation::request(phase)?,
            Wish::Abort => root_rotation::abort(phase)?,
        })
    }

    async fn object(&self) -> Result<Value, RotateError> {
        let object = self.api.metadata(&self.path("secrets", &self.names.secret)).await?;
        object.ok_or_else(|| RotateError::NoSecret(self.shown()))
    }

    fn phase(&self, object: &Value) -> Result<Phase, RotateError> {
        rotation::phase(object).map_err(|error: RotationError| RotateError::Unfit {
            secret: self.shown(),
            why: error.to_string(),
        })
    }

    async fn published(&self, new_root: Option<&str>) -> Result<Vec<Published>, RotateError> {
        let name = &self.names.bundle;
        let Some(object) = self.api.get(&self.path("configmaps", name)).await? else {
            return Ok(Vec::new());
        };
        let pem = object.get("data").and_then(|data| data.get(ROOT_CERT)).and_then(Value::as_str);
        let origin = format!("ConfigMap {}/{name}", self.names.namespace);
        let unfit = |error: PkiError| RotateError::Unfit {
            secret: self.shown(),
            why: format!("what it published: {error}"),
        };
        let bundle =
            Bundle::from_pem(pem.unwrap_or_default().as_bytes(), &origin).map_err(unfit)?;
        let roots = bundle.certificates().iter().filter_map(|root| {
            let fingerprint = rotation::fingerprint(root);
            let new = new_root == Some(&fingerprint);
            // A bundle holds only what could be read.
            Some(Published { fingerprint, not_after: Facts::read(root).ok()?.not_after, new })
        });
        Ok(roots.collect())
    }

    fn shown(&self) -> String {
        format!("{}/{}", self.names.namespace, self.names.secret)
    }

    fn path(&self, kind: &str, name: &str) -> String {
        format!("/api/v1/namespaces/{}/{kind}/{name}", self.names.namespace)
    }
}

fn is_ours(object: &Value) -> bool {
    let labels = object.pointer("/metadata/labels");
    let keeper = labels.and_then(|labels| labels.get(KEPT_BY.0));
    keeper.and_then(Value::as_str) == Some(KEPT_BY.1)
}

impl std::fmt::Debug for Rotation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rotation").field("names", &self.names).finish_non_exhaustive()
    }
}
