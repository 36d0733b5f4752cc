//! The CA's keys in a Secret, and its roots in a ConfigMap.
//!
//! The Secret has the layout of Istio's `cacerts`, or that of cert-manager. If there is none, one is
//! made; of several replicas that try, the API server lets one win, and the others use what it made.
//! An intermediate that was made here is also renewed here; what others made is theirs to renew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use adit_core::identity::TrustDomain;
use adit_core::root_rotation::{self, Next};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use tracing::{info, warn};

use super::api::{Api, ApiError};
use super::rotation::{self, RotationError};
use crate::pki::{
    Authority, Bundle, CA_CERT, CA_KEY, CERT_CHAIN, Material, PkiError, ROOT_CERT, ROOT_KEY, make,
    make_intermediate, to_pem,
};

/// The label of a Secret that was made here, and who keeps it.
pub(super) const KEPT_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "adit-ca");

/// cert-manager's names.
const TLS_KEY: &str = "tls.key";
const TLS_CERT: &str = "tls.crt";
const TLS_ROOT: &str = "ca.crt";

/// Where the keys and the roots are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) namespace: String,
    pub(super) secret: String,
    pub(super) bundle: String,
}

/// Why there are no keys, or nobody was told of the roots.
#[derive(Debug, thiserror::Error)]
pub(super) enum RootError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("Secret {0} has neither ca-key.pem nor tls.key")]
    NoKey(String),
    #[error("Secret {secret}: {name} is missing or not in base64")]
    Part { secret: String, name: &'static str },
    #[error("{0} is being changed by somebody else")]
    Contended(String),
    #[error("Secret {secret}: its root cannot be rotated")]
    Rotation {
        secret: String,
        #[source]
        source: RotationError,
    },
    #[error("Secret {0} is annotated for a rotation of its root, but was not made by this CA")]
    NotOurs(String),
}

/// Reads, makes and publishes.
pub(super) struct Root {
    api: Arc<Api>,
    names: Names,
    trust_domain: TrustDomain,
}

/// A Secret as it was read.
pub(super) struct Read {
    object: Value,
    pub(super) version: String,
}

impl Root {
    pub(super) const fn new(api: Arc<Api>, names: Names, trust_domain: TrustDomain) -> Self {
        Self { api, names, trust_domain }
    }

    /// The Secret, made if there is none.
    pub(super) async fn read(&self, now: SystemTime) -> Result<Read, RootError> {
        let path = self.path("secrets", &self.names.secret);
        for _attempt in 0..2 {
            if let Some(object) = self.api.get(&path).await? {
                return Ok(Read::of(object));
            }
            let secret = self.new_secret(now)?;
            if let Some(made) = self.api.create(&self.collection("secrets"), &secret).await? {
                info!(secret = self.shown(), "made a root and an intermediate CA");
                return Ok(Read::of(made));
            }
        }
        Err(RootError::Contended(format!("Secret {}", self.shown())))
    }

    fn new_secret(&self, now: SystemTime) -> Result<Value, RootError> {
        let files = make(&self.trust_domain, now)?;
        let data: BTreeMap<&str, String> =
            files.iter().map(|(name, text)| (*name, STANDARD.encode(text))).collect();
        Ok(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": {
                "name": self.names.secret,
                "namespace": self.names.namespace,
                "labels": {KEPT_BY.0: KEPT_BY.1},
            },
            "data": data,
        }))
    }

    /// The authority that a Secret holds.
    pub(super) fn authority(&self, read: &Read) -> Result<Authority, RootError> {
        let authority = Authority::try_new(material(&read.object, &self.shown())?)?;
        authority.require_domain(&self.trust_domain)?;
        Ok(authority)
    }

    /// Renews the intermediate when two thirds of its life are over, if it is ours to renew. The Secret
    /// as it is then, if it has changed.
    pub(super) async fn renew(
        &self,
        read: &Read,
        authority: &Authority,
        now: SystemTime,
    ) -> Result<Option<Read>, RootError> {
        let life = authority.not_after().duration_since(authority.not_before());
        let due = authority.not_before() + life.unwrap_or_default() / 3 * 2;
        if now < due || !read.is_ours() {
            return Ok(None);
        }
        let (root, key) = (read.part(ROOT_CERT), read.part(ROOT_KEY));
        let (Some(root), Some(key)) = (root, key) else {
            warn!(
                secret = self.shown(),
                "the intermediate CA cannot be renewed without root-key.pem"
            );
            return Ok(None);
        };
        let files = make_intermediate(&root, &key, &self.trust_domain, now)?;
        let mut object = read.object.clone();
        if let Some(data) = object.get_mut("data").and_then(Value::as_object_mut) {
            for (name, text) in files {
                data.insert(name.to_owned(), Value::String(STANDARD.encode(text)));
            }
        }
        let path = self.path("secrets", &self.names.secret);
        match self.api.replace(&path, &object).await? {
            Some(object) => {
                info!(secret = self.shown(), "renewed the intermediate CA");
                Ok(Some(Read::of(object)))
            }
            // Another replica was quicker.
            None => Ok(self.api.get(&path).await?.map(Read::of)),
        }
    }

    /// Takes the step of a rotation that is due. The Secret as it is then, if it has changed.
    pub(super) async fn rotate(
        &self,
        read: &Read,
        authority: &Authority,
        now: SystemTime,
    ) -> Result<Option<Read>, RootError> {
        let failed = |source| RootError::Rotation { secret: self.shown(), source };
        let phase = rotation::phase(&read.object).map_err(failed)?;
        let lives = rotation::lives(Some(authority.not_after()));
        let Next::Do(step) = root_rotation::next(phase, lives, now) else {
            return Ok(None);
        };
        if !read.is_ours() {
            return Err(RootError::NotOurs(self.shown()));
        }
        let object =
            rotation::apply(&read.object, step, &self.trust_domain, now).map_err(failed)?;
        // What cannot sign is not written.
        self.authority(&Read::of(object.clone()))?;
        let path = self.path("secrets", &self.names.secret);
        match self.api.replace(&path, &object).await? {
            Some(object) => {
                info!(secret = self.shown(), step = step.as_text(), "rotation of the root");
                Ok(Some(Read::of(object)))
            }
            // Another replica was quicker, or somebody gave it up.
            None => Ok(self.api.get(&path).await?.map(Read::of)),
        }
    }

    /// Lets everybody in the cluster know the roots.
    pub(super) async fn publish(&self, roots: &Bundle) -> Result<(), RootError> {
        let pem: String = roots.certificates().iter().map(to_pem).collect();
        let path = self.path("configmaps", &self.names.bundle);
        let Some(mut object) = self.api.get(&path).await? else {
            let object = json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {
                    "name": self.names.bundle,
                    "namespace": self.names.namespace,
                    "labels": {KEPT_BY.0: KEPT_BY.1},
                },
                "data": {ROOT_CERT: pem},
            });
            let made = self.api.create(&self.collection("configmaps"), &object).await?;
            // One that another replica made is looked at the next time.
            return made.map(|_made| ()).ok_or_else(|| self.contended());
        };
        let published = object.get("data").and_then(|data| data.get(ROOT_CERT));
        if published.and_then(Value::as_str) == Some(&pem) {
            return Ok(());
        }
        let Some(fields) = object.as_object_mut() else {
            return Err(self.contended());
        };
        let data = fields.entry("data").or_insert_with(|| Value::Object(Map::new()));
        if let Some(data) = data.as_object_mut() {
            data.insert(ROOT_CERT.to_owned(), Value::String(pem));
        }
        info!(config_map = self.names.bundle, "publishing the roots");
        let replaced = self.api.replace(&path, &object).await?;
        replaced.map(|_replaced| ()).ok_or_else(|| self.contended())
    }

    fn contended(&self) -> RootError {
        RootError::Contended(format!("ConfigMap {}/{}", self.names.namespace, self.names.bundle))
    }

    fn shown(&self) -> String {
        format!("{}/{}", self.names.namespace, self.names.secret)
    }

    fn collection(&self, kind: &str) -> String {
        format!("/api/v1/namespaces/{}/{kind}", self.names.namespace)
    }

    fn path(&self, kind: &str, name: &str) -> String {
        format!("{}/{name}", self.collection(kind))
    }
}

impl Read {
    fn of(object: Value) -> Self {
        let version = object.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        Self { version: version.unwrap_or_default().to_owned(), object }
    }

    fn is_ours(&self) -> bool {
        let labels = self.object.pointer("/metadata/labels");
        let keeper = labels.and_then(|labels| labels.get(KEPT_BY.0));
        keeper.and_then(Value::as_str) == Some(KEPT_BY.1)
    }

    fn part(&self, name: &str) -> Option<Vec<u8>> {
        part(&self.object, name)
    }
}

fn part(secret: &Value, name: &str) -> Option<Vec<u8>> {
    STANDARD.decode(secret.get("data")?.get(name)?.as_str()?).ok()
}

/// Istio's layout before cert-manager's, where both are there.
pub(super) fn material(secret: &Value, shown: &str) -> Result<Material, RootError> {
    let (key, certificate, roots) = if part(secret, CA_KEY).is_some() {
        (CA_KEY, CA_CERT, ROOT_CERT)
    } else if part(secret, TLS_KEY).is_some() {
        (TLS_KEY, TLS_CERT, TLS_ROOT)
    } else {
        return Err(RootError::NoKey(shown.to_owned()));
    };
    let take = |name: &'static str| {
        let missing = || RootError::Part { secret: shown.to_owned(), name };
        Ok::<_, RootError>((name, part(secret, name).ok_or_else(missing)?))
    };
    Ok(Material {
        origin: format!("Secret {shown}"),
        key: take(key)?,
        certificate: take(certificate)?,
        chain: part(secret, CERT_CHAIN).unwrap_or_default(),
        roots: take(roots)?,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_secret_of_istio_or_of_cert_manager_makes_an_authority() {
        let files = files();
        let istio = secret(&files.clone().into_iter().collect::<Vec<_>>());
        let authority = Authority::try_new(material(&istio, "ns/s").unwrap()).unwrap();
        authority.require_domain(&domain()).unwrap();

        let text = |name: &str| files.get(name).unwrap().clone();
        let manager = secret(&[
            (TLS_KEY, text(CA_KEY)),
            (TLS_CERT, text(CERT_CHAIN)),
            (TLS_ROOT, text(ROOT_CERT)),
        ]);
        let other = Authority::try_new(material(&manager, "ns/s").unwrap()).unwrap();
        assert_eq!(other.roots().certificates(), authority.roots().certificates());
        assert_eq!(other.not_after(), authority.not_after());
    }

    #[test]
    fn a_secret_that_lacks_a_part_is_refused_with_the_name_of_the_part() {
        let files = files();
        for (name, said) in [
            (CA_KEY, "Secret ns/s has neither ca-key.pem nor tls.key"),
            (CA_CERT, "Secret ns/s: ca-cert.pem is missing or not in base64"),
            (ROOT_CERT, "Secret ns/s: root-cert.pem is missing or not in base64"),
        ] {
            let mut less = files.clone();
            less.remove(name);
            let object = secret(&less.into_iter().collect::<Vec<_>>());
            let error = material(&object, "ns/s").map(|_| ()).unwrap_err();
            assert_eq!(error.to_string(), said);
        }
        let mut mixed = files.clone();
        let other: BTreeMap<_, _> = make(&domain(), now()).unwrap().into_iter().collect();
        mixed.insert(CA_KEY, other.get(CA_KEY).unwrap().clone());
        let object = secret(&mixed.into_iter().collect::<Vec<_>>());
        let error = Authority::try_new(material(&object, "ns/s").unwrap()).unwrap_err();
        let said = "Secret ns/s/ca-key.pem: is not the key of the certificate that signs";
        assert_eq!(error.to_string(), said);
    }

    fn files() -> BTreeMap<&'static str, String> {
        make(&domain(), now()).unwrap().into_iter().collect()
    }

    fn secret(parts: &[(&str, String)]) -> Value {
        let data: BTreeMap<&str, String> =
            parts.iter().map(|(name, text)| (*name, STANDARD.encode(text))).collect();
        json!({"data": data})
    }

    fn domain() -> TrustDomain {
        TrustDomain::parse("cluster.local").unwrap()
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }
}
