//! A rotation of the root, as it stands in the Secret. How far it is, is an annotation; the keys that
//! come stand in the data beside those that sign. Both change in one write, so that whoever is killed
//! leaves one phase or the next, and nothing between them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use adit_core::identity::TrustDomain;
use adit_core::root_rotation::{Lives, Phase, Step};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::pki::{
    Bundle, CA_CERT, CA_KEY, CERT_CHAIN, MAX_LIFETIME, PkiError, ROOT_CERT, ROOT_KEY, make,
    read_certificates, to_pem,
};

/// How far the rotation is: a [`Note`].
pub(super) const ANNOTATION: &str = "adit.dev/root-rotation";

/// As long as `tunnel.expiredGrace` is by default: an agent that lets tunnels live longer cuts flows
/// when it hears that the old root is gone.
const TUNNEL_GRACE: Duration = Duration::from_secs(24 * 3600);

/// The root that is dropped when the rotation ends.
const OLD_ROOT: &str = "old-root-cert.pem";

/// What signs, and the name under which what comes next waits.
const PARTS: [(&str, &str); 5] = [
    (ROOT_KEY, "next-root-key.pem"),
    (ROOT_CERT, NEXT_ROOT),
    (CA_KEY, "next-ca-key.pem"),
    (CA_CERT, "next-ca-cert.pem"),
    (CERT_CHAIN, "next-cert-chain.pem"),
];
const NEXT_ROOT: &str = "next-root-cert.pem";

/// What the annotation holds, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    phase: String,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// The new root's [`fingerprint`].
    #[serde(default, rename = "newRoot", skip_serializing_if = "Option::is_none")]
    pub(super) new_root: Option<String>,
}

/// Why the Secret's rotation cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum RotationError {
    #[error(
        "annotation {ANNOTATION} is {0:?}, which is no phase of a rotation; correct or remove it"
    )]
    Annotation(String),
    #[error("the rotation is said to be past a step that the Secret does not show: {0} is missing")]
    Missing(&'static str),
    #[error("the root that signs, at the end of {CERT_CHAIN}, is none of {ROOT_CERT}")]
    Signer,
    #[error("{ROOT_CERT} would lose the root that signs")]
    LastRoot,
    #[error(transparent)]
    Pki(#[from] PkiError),
}

/// What a rotation waits for; of what signs now, the end.
pub(super) const fn lives(signer: Option<SystemTime>) -> Lives {
    Lives { certificate: MAX_LIFETIME, tunnel: TUNNEL_GRACE, signer }
}

/// How far it is.
pub(super) fn phase(object: &Value) -> Result<Phase, RotationError> {
    let Some(text) = annotation(object) else {
        return Ok(Phase::Idle);
    };
    let unfit = || RotationError::Annotation(text.to_owned());
    let note: Note = serde_json::from_str(text).map_err(|_other| unfit())?;
    let since = match &note.since {
        Some(since) => Some(OffsetDateTime::parse(since, &Rfc3339).map_err(|_not| unfit())?),
        None => None,
    };
    Phase::from_label(&note.phase, since.map(SystemTime::from)).ok_or_else(unfit)
}

/// The new root's fingerprint, once there is one.
pub(super) fn new_root(object: &Value) -> Option<String> {
    serde_json::from_str::<Note>(annotation(object)?).ok()?.new_root
}

fn annotation(object: &Value) -> Option<&str> {
    object.pointer("/metadata/annotations")?.get(ANNOTATION)?.as_str()
}

/// What the annotation is to be; none where there is no rotation.
pub(super) fn noted(phase: Phase, new_root: Option<String>) -> Option<String> {
    if phase == Phase::Idle {
        return None;
    }
    let since = phase.since().and_then(|since| OffsetDateTime::from(since).format(&Rfc3339).ok());
    let note = Note { phase: phase.as_label().to_owned(), since, new_root };
    // Texts only: that cannot fail.
    serde_json::to_string(&note).ok()
}

/// SHA-256 of the certificate, in hexadecimal digits.
pub(super) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    digest(&SHA256, certificate).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The Secret after a step.
pub(super) fn apply(
    object: &Value,
    step: Step,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<Value, RotationError> {
    let mut parts = Parts::of(object)?;
    match step {
        Step::MakeRoot => parts.make_root(trust_domain, now)?,
        Step::SignWithNew => parts.sign_with_new()?,
        Step::DropOld => parts.drop_old()?,
        Step::DropNew => parts.drop_new()?,
    }
    let new_root = match step {
        Step::MakeRoot => parts.certificates(NEXT_ROOT)?.first().map(fingerprint),
        Step::SignWithNew => new_root(object),
        Step::DropOld | Step::DropNew => None,
    };
    Ok(parts.into_object(object, noted(step.done(now), new_root)))
}

/// The data of a Secret, decoded.
struct Parts(BTreeMap<String, Vec<u8>>);

impl Parts {
    fn of(object: &Value) -> Result<Self, RotationError> {
        let data = object.get("data").and_then(Value::as_object).into_iter().flatten();
        let decoded = data.map(|(name, text)| {
            let bytes = text.as_str().and_then(|text| STANDARD.decode(text).ok());
            let origin = name.clone();
            let broken = PkiError::Invalid { origin, problem: "is not in base64" };
            Ok((name.clone(), bytes.ok_or(broken)?))
        });
        Ok(Self(decoded.collect::<Result<_, PkiError>>()?))
    }

    fn into_object(self, object: &Value, note: Option<String>) -> Value {
        let mut object = object.clone();
        let data = self.0.into_iter().map(|(name, bytes)| (name, STANDARD.encode(bytes).into()));
        put(&mut object, "data", data.collect::<Map<_, _>>().into());
        if let Some(metadata) = object.get_mut("metadata") {
            let annotations = metadata.get("annotations").and_then(Value::as_object).cloned();
            let mut annotations = annotations.unwrap_or_default();
            match note {
                None => drop(annotations.remove(ANNOTATION)),
                Some(note) => drop(annotations.insert(ANNOTATION.to_owned(), note.into())),
            }
            put(metadata, "annotations", annotations.into());
        }
        object
    }

    fn make_root(
        &mut self,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<(), RotationError> {
        let made: BTreeMap<_, _> = make(trust_domain, now)?.into_iter().collect();
        for (name, next) in PARTS {
            let text = made.get(name).ok_or(RotationError::Missing(name))?;
            self.0.insert(next.to_owned(), text.clone().into_bytes());
        }
        let mut roots = self.certificates(ROOT_CERT)?;
        roots.extend(self.certificates(NEXT_ROOT)?);
        self.trust(roots)
    }

    fn sign_with_new(&mut self) -> Result<(), RotationError> {
        let mut roots = self.certificates(NEXT_ROOT)?;
        roots.extend(self.certificates(ROOT_CERT)?);
        let old = self.signer()?;
        for (name, next) in PARTS {
            let bytes = self.0.remove(next).ok_or(RotationError::Missing(next))?;
            self.0.insert(name.to_owned(), bytes);
        }
        self.0.insert(OLD_ROOT.to_owned(), pem(&old).into_bytes());
        self.trust(roots)
    }

    fn drop_old(&mut self) -> Result<(), RotationError> {
        let old = self.certificates(OLD_ROOT)?;
        self.0.remove(OLD_ROOT);
        self.distrust(&old)
    }

    fn drop_new(&mut self) -> Result<(), RotationError> {
        let new = self.certificates(NEXT_ROOT)?;
        for (_, next) in PARTS {
            self.0.remove(next);
        }
        self.distrust(&new)
    }

    fn distrust(&mut self, gone: &[CertificateDer<'static>]) -> Result<(), RotationError> {
        let mut roots = self.certificates(ROOT_CERT)?;
        roots.retain(|root| !gone.contains(root));
        self.trust(roots)?;
        // Whatever somebody did to the Secret by hand: its certificates must verify.
        self.signer().map(drop).map_err(|_none| RotationError::LastRoot)
    }

    /// The roots at the end of the chain that signs.
    fn signer(&self) -> Result<Vec<CertificateDer<'static>>, RotationError> {
        let roots = self.certificates(ROOT_CERT)?;
        let mut chain = self.certificates(CERT_CHAIN)?;
        chain.retain(|certificate| roots.contains(certificate));
        if chain.is_empty() { Err(RotationError::Signer) } else { Ok(chain) }
    }

    fn trust(&mut self, roots: Vec<CertificateDer<'static>>) -> Result<(), RotationError> {
        let bundle = Bundle::try_new(roots, ROOT_CERT)?;
        self.0.insert(ROOT_CERT.to_owned(), pem(bundle.certificates()).into_bytes());
        Ok(())
    }

    fn certificates(
        &self,
        name: &'static str,
    ) -> Result<Vec<CertificateDer<'static>>, RotationError> {
        let pem = self.0.get(name).ok_or(RotationError::Missing(name))?;
        Ok(read_certificates(pem, name)?)
    }
}

fn pem(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(to_pem).collect()
}

fn put(object: &mut Value, name: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests;
