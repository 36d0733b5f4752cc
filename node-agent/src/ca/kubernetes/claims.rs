//! What a token says of itself, unverified. It is looked at to refuse at once, and for its own reason,
//! what the API server would refuse as well; nothing is ever granted because of it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// The longest token that is looked at; those of Kubernetes have about a kilobyte.
const MAX_TOKEN: usize = 16 * 1024;

/// Why a token is not worth the API server's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    /// No JSON web token (RFC 7519).
    Malformed,
    /// It has no end and no audience: one of a Secret, as Kubernetes made them before 1.24.
    Legacy,
    /// It is for somebody else.
    OtherAudience,
    /// Its time is over.
    Expired,
}

/// The claims of RFC 7519, section 4.1, that matter.
#[derive(Debug, Deserialize)]
struct Payload {
    #[serde(default)]
    aud: OneOrMany,
    /// Seconds since 1970.
    exp: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Default for OneOrMany {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

/// Whether the API server should be asked.
pub(super) fn look_at(token: &str, audience: &str, now: u64) -> Result<(), Unfit> {
    let payload = payload(token).ok_or(Unfit::Malformed)?;
    let audiences = match payload.aud {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    };
    let Some(end) = payload.exp.filter(|_| !audiences.is_empty()) else {
        return Err(Unfit::Legacy);
    };
    if !audiences.iter().any(|one| one == audience) {
        return Err(Unfit::OtherAudience);
    }
    if end <= now { Err(Unfit::Expired) } else { Ok(()) }
}

fn payload(token: &str) -> Option<Payload> {
    if token.len() > MAX_TOKEN {
        return None;
    }
    let mut parts = token.split('.');
    let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_token_is_looked_at_for_what_is_plainly_wrong_with_it() {
        let cases = [
            (json!({"aud": ["adit-ca"], "exp": 1001}), Ok(())),
            (json!({"aud": "adit-ca", "exp": 1001}), Ok(())),
            (json!({"aud": ["x", "adit-ca"], "exp": 1001}), Ok(())),
            (json!({"aud": ["adit-ca"], "exp": 1000}), Err(Unfit::Expired)),
            (json!({"aud": ["istio-ca"], "exp": 1001}), Err(Unfit::OtherAudience)),
            (json!({"aud": ["adit-ca"]}), Err(Unfit::Legacy)),
            (json!({"exp": 1001}), Err(Unfit::Legacy)),
            (json!({"iss": "kubernetes/serviceaccount"}), Err(Unfit::Legacy)),
            (json!({"aud": 5, "exp": 1001}), Err(Unfit::Malformed)),
            (json!("text"), Err(Unfit::Malformed)),
        ];
        for (payload, expected) in cases {
            assert_eq!(look_at(&token(&payload), "adit-ca", 1000), expected, "{payload}");
        }
    }

    #[test]
    fn what_is_no_token_is_refused_without_a_panic() {
        let whole = token(&json!({"aud": ["adit-ca"], "exp": 1001}));
        let texts = ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "é.é.é", &format!("{whole}.x")];
        for text in texts {
            assert_eq!(look_at(text, "adit-ca", 1000), Err(Unfit::Malformed), "{text}");
        }
        let long = format!("{whole}{}", "x".repeat(MAX_TOKEN));
        assert_eq!(look_at(&long, "adit-ca", 1000), Err(Unfit::Malformed));
    }

    fn token(payload: &Value) -> String {
        format!("e30.{}.c2lnbmF0dXJl", URL_SAFE_NO_PAD.encode(payload.to_string()))
    }
}
