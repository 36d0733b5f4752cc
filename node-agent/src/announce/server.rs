//! The few requests by which something is told, as JSON.

use std::time::{Duration, SystemTime};

use adit_core::announce::Answer;
use http::header::CONTENT_TYPE;
use http::{Method, Request};
use kube::Client;
use serde_json::Value;
use time::OffsetDateTime;
use tokio::time::timeout;

use crate::discovery::kubernetes::Access;

/// A request must be answered within this time.
const ANSWER: Duration = Duration::from_secs(10);

/// The API server, as a writer sees it. One client is kept while it works.
pub struct Server {
    access: Access,
    client: Option<Client>,
    /// The kind of what went wrong last, so that it is said once.
    said: Option<String>,
}

/// The body of a request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    /// A whole object, to be created.
    Object,
    /// A whole object, in the place of the one of its version.
    Replacement,
    /// RFC 7386.
    MergePatch,
}

impl Server {
    /// No connection is made yet.
    #[must_use]
    pub const fn new(access: Access) -> Self {
        Self { access, client: None, said: None }
    }

    pub(super) async fn write(&mut self, form: Form, path: &str, body: &Value) -> Answer {
        let (method, kind) = match form {
            Form::Object => (Method::POST, "application/json"),
            Form::Replacement => (Method::PUT, "application/json"),
            Form::MergePatch => (Method::PATCH, "application/merge-patch+json"),
        };
        let request = Request::builder().method(method).uri(path);
        let request = request.header(CONTENT_TYPE, kind).body(body.to_string().into_bytes());
        match self.ask(path, request).await {
            Ok(_object) => Answer::Done,
            Err(answer) => answer,
        }
    }

    /// [`Answer::Gone`] if there is no such object.
    pub(super) async fn read(&mut self, path: &str) -> Result<Value, Answer> {
        let request = Request::builder().uri(path).body(Vec::new());
        self.ask(path, request).await
    }

    async fn ask(
        &mut self,
        path: &str,
        request: http::Result<Request<Vec<u8>>>,
    ) -> Result<Value, Answer> {
        let answer = match timeout(ANSWER, self.attempt(request)).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err((Answer::Away, format!("no answer in {} s", ANSWER.as_secs()))),
        };
        let (answer, why) = match answer {
            Ok(object) => {
                self.said = None;
                return Ok(object);
            }
            Err(failure) => failure,
        };
        if answer == Answer::Away {
            // A token or a CA may have been replaced.
            self.client = None;
        }
        if answer == Answer::Gone {
            tracing::debug!(path, why, "there is nothing to tell of any more");
        } else {
            // Once for each kind of answer: what follows it names the object, and there may be many.
            let kind = why.split(':').next().unwrap_or_default();
            if self.said.as_deref() != Some(kind) {
                tracing::warn!(path, why, "the API server cannot be told; it will be tried again");
                self.said = Some(kind.to_owned());
            }
        }
        Err(answer)
    }

    async fn attempt(
        &mut self,
        request: http::Result<Request<Vec<u8>>>,
    ) -> Result<Value, (Answer, String)> {
        let request = request.map_err(|error| (Answer::Refused, error.to_string()))?;
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                let made = self.access.client().await.map_err(|error| away(&error.into()))?;
                self.client.insert(made).clone()
            }
        };
        match client.request::<Value>(request).await {
            Ok(object) => Ok(object),
            Err(kube::Error::Api(status)) => {
                let why = format!("{} {}: {}", status.code, status.reason, status.message);
                Err((answer(status.code), why))
            }
            Err(error) => Err(away(&error.into())),
        }
    }
}

/// By <https://kubernetes.io/docs/reference/using-api/api-concepts/>.
const fn answer(code: u16) -> Answer {
    match code {
        404 | 409 => Answer::Gone,
        401 | 408 | 429 | 500.. => Answer::Away,
        _ => Answer::Refused,
    }
}

fn away(error: &anyhow::Error) -> (Answer, String) {
    (Answer::Away, format!("{error:#}"))
}

/// RFC 3339 with six digits of a second, as the API server reads a MicroTime.
pub(super) fn micro_time(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let micros = time.replace_nanosecond(time.microsecond() * 1000).unwrap_or(time);
    let format = time::macros::format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z"
    );
    micros.format(format).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_time_has_six_digits_behind_the_second() {
        let time = UNIX_EPOCH + Duration::from_nanos(1_764_000_000_000_001_999);
        assert_eq!(micro_time(time), "2025-11-24T16:00:00.000001Z");
    }

    #[test]
    fn an_answer_says_whether_to_try_again_soon_later_or_not_at_all() {
        assert_eq!([404, 409].map(answer), [Answer::Gone; 2]);
        assert_eq!([400, 403, 413, 422].map(answer), [Answer::Refused; 4]);
        assert_eq!([401, 408, 429, 500, 503, 504].map(answer), [Answer::Away; 6]);
    }
}
