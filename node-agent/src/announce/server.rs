//! The few requests by which something is told, as JSON.

use std::time::Duration;

use adit_core::announce::Answer;
use http::{Method, Request};
use kube::Client;
use serde_json::Value;
use tokio::time::timeout;

use crate::discovery::kubernetes::Access;

/// A request must be answered within this time.
const ANSWER: Duration = Duration::from_secs(10);

/// The API server, as a writer sees it. One client is kept while it works.
pub struct Server {
    access: Access,
    client: Option<Client>,
    /// What went wrong last, so that it is said once.
    said: Option<String>,
}

/// The body of a request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    /// A whole object, to be created.
    Object,
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
        let answer = match timeout(ANSWER, self.attempt(form, path, body)).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err((Answer::Away, format!("no answer in {} s", ANSWER.as_secs()))),
        };
        let Err((answer, why)) = answer else {
            self.said = None;
            return Answer::Done;
        };
        if answer == Answer::Away {
            // A token or a CA may have been replaced.
            self.client = None;
        }
        if answer == Answer::Gone {
            tracing::debug!(path, why, "there is nothing to tell of any more");
        } else if self.said.as_ref() != Some(&why) {
            tracing::warn!(path, why, "the API server cannot be told; it will be tried again");
            self.said = Some(why);
        }
        answer
    }

    async fn attempt(
        &mut self,
        form: Form,
        path: &str,
        body: &Value,
    ) -> Result<(), (Answer, String)> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                let made = self.access.client().await.map_err(|error| away(&error.into()))?;
                self.client.insert(made).clone()
            }
        };
        let (method, kind) = match form {
            Form::Object => (Method::POST, "application/json"),
            Form::MergePatch => (Method::PATCH, "application/merge-patch+json"),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, kind)
            .body(body.to_string().into_bytes())
            .map_err(|error| (Answer::Refused, error.to_string()))?;
        match client.request::<Value>(request).await {
            Ok(_object) => Ok(()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_whether_to_try_again_soon_later_or_not_at_all() {
        assert_eq!([404, 409].map(answer), [Answer::Gone; 2]);
        assert_eq!([400, 403, 413, 422].map(answer), [Answer::Refused; 4]);
        assert_eq!([401, 408, 429, 500, 503, 504].map(answer), [Answer::Away; 6]);
    }
}
