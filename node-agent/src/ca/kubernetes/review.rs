//! Who presents a token, as the API server says (TokenReview of `authentication.k8s.io/v1`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use adit_core::issuance::Claims;
use adit_core::workload::{NodeName, ObjectName, PodUid};
use aws_lc_rs::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::{Duration, Instant};

use super::api::Api;
use super::claims::{self, Unfit};
use crate::ca::authn::NoCaller;

const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// How long an answer is good for. The API server itself remembers its answers for ten seconds.
const REMEMBERED: Duration = Duration::from_secs(10);

/// Reviews at one time; more would only wait at the API server.
const AT_ONCE: usize = 16;

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Asks the API server.
pub(in crate::ca) struct Reviews {
    api: Arc<Api>,
    audience: String,
    /// By the hash of the token. Only tokens that are good are remembered.
    recent: Mutex<HashMap<Vec<u8>, (Instant, Claims)>>,
    places: Semaphore,
}

#[derive(Debug, Deserialize)]
struct Review {
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    authenticated: bool,
    audiences: Vec<String>,
    user: User,
    error: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct User {
    username: String,
    extra: HashMap<String, Vec<String>>,
}

impl Reviews {
    pub(super) fn new(api: Arc<Api>, audience: String) -> Self {
        let recent = Mutex::new(HashMap::new());
        Self { api, audience, recent, places: Semaphore::new(AT_ONCE) }
    }

    /// What the token says of its holder.
    pub(in crate::ca) async fn review(&self, token: &[u8], unix: u64) -> Result<Claims, NoCaller> {
        let token = std::str::from_utf8(token).map_err(|_not_ascii| NoCaller::Malformed)?;
        claims::look_at(token, &self.audience, unix).map_err(|unfit| match unfit {
            Unfit::Malformed => NoCaller::Malformed,
            Unfit::Legacy => NoCaller::Legacy,
            Unfit::OtherAudience => NoCaller::OtherAudience,
            Unfit::Expired => NoCaller::Expired,
        })?;
        let key = digest(&SHA256, token.as_bytes()).as_ref().to_vec();
        if let Some(claims) = self.remembered(&key) {
            return Ok(claims);
        }
        let claims = self.ask(token).await?;
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.insert(key, (Instant::now(), claims.clone()));
        Ok(claims)
    }

    fn remembered(&self, key: &[u8]) -> Option<Claims> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|_, (since, _)| since.elapsed() < REMEMBERED);
        Some(recent.get(key)?.1.clone())
    }

    async fn ask(&self, token: &str) -> Result<Claims, NoCaller> {
        let place = self.places.acquire().await;
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self.audience]},
        });
        let answer = self.api.create(PATH, &review).await;
        drop(place);
        let answer = match answer {
            Ok(Some(answer)) => answer,
            Ok(None) => return Err(NoCaller::Unreviewed("the API server had a conflict".into())),
            Err(error) => {
                return Err(NoCaller::Unreviewed(format!("{:#}", anyhow::Error::new(error))));
            }
        };
        let review: Review = serde_json::from_value(answer)
            .map_err(|error| NoCaller::Unreviewed(format!("its answer: {error}")))?;
        judge(&review.status, &self.audience)
    }
}

/// A review that does not name the audience was made by a server that does not know audiences (API
/// documentation of TokenReviewStatus).
fn judge(status: &Status, audience: &str) -> Result<Claims, NoCaller> {
    let Status { authenticated, audiences, user, error } = status;
    if !authenticated {
        return Err(rejected(error));
    }
    if !audiences.iter().any(|one| one == audience) {
        return Err(NoCaller::OtherAudience);
    }
    let account = user.username.strip_prefix("system:serviceaccount:");
    let account = account.and_then(|rest| rest.split_once(':')).ok_or(NoCaller::NoAccount)?;
    let extra = |name| user.extra.get(name).and_then(|values| values.first());
    let pod = extra(POD_NAME).zip(extra(POD_UID));
    let pod =
        pod.and_then(|(name, uid)| Some((ObjectName::new(account.0, name), PodUid::parse(uid)?)));
    Ok(Claims {
        account: ObjectName::new(account.0, account.1),
        pod,
        node: extra(NODE_NAME).map(|name| NodeName::new(name)),
    })
}

/// The API server has no codes for its reasons: these are the words of its token authenticator
/// (kubernetes `pkg/serviceaccount/claims.go`, `jwt.go`).
fn rejected(error: &str) -> NoCaller {
    if error.contains("has been invalidated") {
        NoCaller::Invalidated
    } else if error.contains("has expired") {
        NoCaller::Expired
    } else if error.contains("invalid for the target audiences") {
        NoCaller::OtherAudience
    } else {
        NoCaller::Rejected(error.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_review_names_the_account_its_pod_and_its_node() {
        let claims = judge_json(answer()).unwrap();
        assert_eq!(claims.account, ObjectName::new("adit-system", "adit"));
        let pod = (ObjectName::new("adit-system", "adit-x7k2p"), PodUid::parse("u-1").unwrap());
        assert_eq!(claims.pod, Some(pod));
        assert_eq!(claims.node, Some(NodeName::new("n1")));
    }

    #[test]
    fn what_is_missing_from_a_review_is_missing_from_the_claims() {
        for (name, pod, node) in
            [(POD_NAME, false, true), (POD_UID, false, true), (NODE_NAME, true, false)]
        {
            let mut answer = answer();
            answer["user"]["extra"].as_object_mut().unwrap().remove(name);
            let claims = judge_json(answer).unwrap();
            assert_eq!((claims.pod.is_some(), claims.node.is_some()), (pod, node), "{name}");
        }
    }

    #[test]
    fn a_review_that_does_not_vouch_for_the_audience_counts_for_nothing() {
        let mut other = answer();
        other["audiences"] = json!(["https://kubernetes.default.svc"]);
        assert_eq!(judge_json(other).unwrap_err(), NoCaller::OtherAudience);
        let mut none = answer();
        none.as_object_mut().unwrap().remove("audiences");
        assert_eq!(judge_json(none).unwrap_err(), NoCaller::OtherAudience);
    }

    #[test]
    fn a_user_that_is_no_service_account_is_no_caller() {
        for name in ["system:node:n1", "system:serviceaccount:adit", "kubernetes-admin", ""] {
            let mut answer = answer();
            answer["user"]["username"] = json!(name);
            assert_eq!(judge_json(answer).unwrap_err(), NoCaller::NoAccount, "{name}");
        }
    }

    fn answer() -> Value {
        json!({
            "authenticated": true,
            "audiences": ["adit-ca"],
            "user": {
                "username": "system:serviceaccount:adit-system:adit",
                "extra": {POD_NAME: ["adit-x7k2p"], POD_UID: ["u-1"], NODE_NAME: ["n1"]},
            },
        })
    }

    fn judge_json(status: Value) -> Result<Claims, NoCaller> {
        judge(&serde_json::from_value(status).unwrap(), "adit-ca")
    }
}
