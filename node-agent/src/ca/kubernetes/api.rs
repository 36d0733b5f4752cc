//! The few requests that the CA makes of the API server, as JSON: objects that hold keys are never
//! decoded by a library that logs what it cannot decode.

use http::header::{ACCEPT, CONTENT_TYPE};
use http::request::Builder;
use http::{Method, Request};
use kube::Client;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::{Duration, timeout};

use crate::discovery::kubernetes::{Access, AccessError};

/// JSON, and of an object nothing but its metadata (Kubernetes API concepts, "Metadata-only fetches").
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// A request must be answered within this time.
const ANSWER: Duration = Duration::from_secs(5);

/// Why the API server did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// There is no way to it.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// It says no.
    #[error("the API server answers {code}: {message}")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// Its words.
        message: String,
    },
    /// It cannot be reached.
    #[error("the API server cannot be reached")]
    Unreachable(#[source] kube::Error),
    /// No answer in time.
    #[error("the API server did not answer within {} s", ANSWER.as_secs())]
    TimedOut,
    /// A request that is not well-formed.
    #[error("cannot make a request of {0}")]
    Path(String),
}

/// The API server. One client is kept while it works.
pub(super) struct Api {
    access: Access,
    client: Mutex<Option<Client>>,
}

impl Api {
    pub(super) const fn new(access: Access) -> Self {
        Self { access, client: Mutex::const_new(None) }
    }

    /// `None` if there is no such object.
    pub(super) async fn get(&self, path: &str) -> Result<Option<Value>, ApiError> {
        Self::unless(404, self.request(Method::GET, path, None).await)
    }

    /// The same without what the object holds: keys do not come here.
    pub(super) async fn metadata(&self, path: &str) -> Result<Option<Value>, ApiError> {
        let request = Request::builder().method(Method::GET).header(ACCEPT, METADATA);
        Self::unless(404, self.ask(request, path, None).await)
    }

    /// Changes an object's metadata by a merge patch (RFC 7386); `None` if the patch names a version
    /// that is no longer the object's.
    pub(super) async fn patch_metadata(
        &self,
        path: &str,
        change: &Value,
    ) -> Result<Option<Value>, ApiError> {
        let request = Request::builder()
            .method(Method::PATCH)
            .header(ACCEPT, METADATA)
            .header(CONTENT_TYPE, "application/merge-patch+json");
        Self::unless(409, self.ask(request, path, Some(change)).await)
    }

    /// Creates an object in a collection; `None` if there is one of its name already.
    pub(super) async fn create(
        &self,
        path: &str,
        object: &Value,
    ) -> Result<Option<Value>, ApiError> {
        Self::unless(409, self.request(Method::POST, path, Some(object)).await)
    }

    /// Replaces an object; `None` if somebody else did since it was read.
    pub(super) async fn replace(
        &self,
        path: &str,
        object: &Value,
    ) -> Result<Option<Value>, ApiError> {
        Self::unless(409, self.request(Method::PUT, path, Some(object)).await)
    }

    /// 404 is "not found"; both "exists already" and "changed since" are 409.
    fn unless(status: u16, answer: Result<Value, ApiError>) -> Result<Option<Value>, ApiError> {
        match answer {
            Ok(object) => Ok(Some(object)),
            Err(ApiError::Refused { code, .. }) if code == status => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, ApiError> {
        let request = Request::builder().method(method).header(CONTENT_TYPE, "application/json");
        self.ask(request, path, body).await
    }

    async fn ask(
        &self,
        request: Builder,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, ApiError> {
        let answer = timeout(ANSWER, self.attempt(request, path, body)).await;
        let answer = answer.unwrap_or(Err(ApiError::TimedOut));
        let stranger = matches!(answer, Err(ApiError::Refused { code: 401, .. }));
        let answered = matches!(answer, Ok(_) | Err(ApiError::Refused { .. }));
        if stranger || !answered {
            // A token or a CA may have been replaced.
            *self.client.lock().await = None;
        }
        answer
    }

    async fn attempt(
        &self,
        request: Builder,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, ApiError> {
        let client = {
            let mut kept = self.client.lock().await;
            match &*kept {
                Some(client) => client.clone(),
                None => kept.insert(self.access.client().await?).clone(),
            }
        };
        let body = body.map(|object| object.to_string().into_bytes()).unwrap_or_default();
        let malformed = |_malformed| ApiError::Path(path.to_owned());
        let request = request.uri(path).body(body).map_err(malformed)?;
        client.request(request).await.map_err(|error| {
            if let kube::Error::Api(status) = error {
                return ApiError::Refused { code: status.code, message: status.message };
            }
            ApiError::Unreachable(error)
        })
    }
}
