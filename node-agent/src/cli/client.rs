//! The client of the admin API: HTTP/1.1 over the Unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use crate::admin::view::ErrorView;

/// How long the agent may take to begin its answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest line of a stream, in bytes; a flow takes about one kilobyte.
const MAX_LINE: usize = 1 << 20;

/// Who is asked.
#[derive(Debug)]
pub(super) struct Client {
    socket: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("no agent can be reached at {socket}")]
    Connect {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the agent did not answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    #[error("the connection to the agent broke")]
    Broken(#[source] hyper::Error),
    #[error("{}", error.error)]
    Answered { status: StatusCode, error: ErrorView },
    #[error("the agent's answer is not understood")]
    NotUnderstood(#[source] serde_json::Error),
    #[error("the agent's answer has a line of more than {MAX_LINE} bytes")]
    TooLong,
}

/// The lines of an answer that comes bit by bit.
#[derive(Debug)]
pub(super) struct Lines {
    body: Incoming,
    buffer: BytesMut,
    connection: JoinHandle<()>,
}

impl ClientError {
    /// See the help of `adit`.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => 5,
            Self::Connect { .. } => 3,
            Self::Answered { status, .. } if *status == StatusCode::FORBIDDEN => 5,
            Self::Answered { .. }
            | Self::Timeout
            | Self::Broken(_)
            | Self::NotUnderstood(_)
            | Self::TooLong => 1,
        }
    }

    /// What to do.
    pub(super) fn help(&self) -> Option<String> {
        let text = match self {
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "is the agent running on this node? If its socket is elsewhere, name it with \
                 --socket or ADIT_SOCKET"
            }
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "the socket is for root only: try sudo"
            }
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused => {
                "the agent that made this socket has ended; start it again"
            }
            Self::Connect { .. } => "name the agent's socket with --socket or ADIT_SOCKET",
            Self::Timeout => "the agent may be stuck or short of CPU: look at its log",
            Self::Broken(_) => {
                "the agent may have ended just now, or serves too many clients already: ask again"
            }
            Self::Answered { error, .. } => return error.help.clone(),
            Self::NotUnderstood(_) | Self::TooLong => {
                "the agent may be of another version: compare `adit version`"
            }
        };
        Some(text.to_owned())
    }
}

impl Client {
    pub(super) const fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks for a view.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.send(Method::GET, path, None::<&()>, TIMEOUT).await
    }

    /// Sends a request and reads a view. The answer may begin as late as `limit`.
    pub(super) async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        limit: Duration,
    ) -> Result<T, ClientError> {
        let body = body.map(serde_json::to_vec).transpose();
        let body = body.map_err(ClientError::NotUnderstood)?.unwrap_or_default();
        let (answer, connection) = self.exchange(method, path, body, limit).await?;
        let status = answer.status();
        let collected = answer.into_body().collect().await;
        connection.abort();
        let bytes = collected.map_err(ClientError::Broken)?.to_bytes();
        if !status.is_success() {
            return Err(refused(status, &bytes));
        }
        serde_json::from_slice(&bytes).map_err(ClientError::NotUnderstood)
    }

    /// Asks for a stream.
    pub(super) async fn stream(&self, path: &str) -> Result<Lines, ClientError> {
        let (answer, connection) = self.exchange(Method::GET, path, Vec::new(), TIMEOUT).await?;
        let status = answer.status();
        let mut body = answer.into_body();
        if !status.is_success() {
            let bytes = (&mut body).collect().await.map_err(ClientError::Broken)?;
            return Err(refused(status, &bytes.to_bytes()));
        }
        Ok(Lines { body, buffer: BytesMut::new(), connection })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<(Response<Incoming>, JoinHandle<()>), ClientError> {
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream
            .map_err(|source| ClientError::Connect { socket: self.socket.clone(), source })?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(ClientError::Broken)?;
        let connection = tokio::spawn(async move {
            // What went wrong is told to the request as well.
            let _ended = connection.await;
        });
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = method;
        // Paths are made by `query`, of characters that a URI takes.
        *request.uri_mut() = path.parse().unwrap_or_default();
        let answer = tokio::time::timeout(limit, sender.send_request(request));
        match answer.await {
            Ok(Ok(answer)) => Ok((answer, connection)),
            Ok(Err(error)) => Err(ClientError::Broken(error)),
            Err(_elapsed) => Err(ClientError::Timeout),
        }
    }
}

impl Lines {
    /// The next line that is not empty, or `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1).freeze().slice(..end);
                if line.is_empty() {
                    continue;
                }
                return Ok(Some(line));
            }
            if self.buffer.len() > MAX_LINE {
                return Err(ClientError::TooLong);
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(ClientError::Broken(error)),
                None => return Ok(None),
            }
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn refused(status: StatusCode, body: &[u8]) -> ClientError {
    let error = serde_json::from_slice(body).unwrap_or_else(|_: serde_json::Error| ErrorView {
        error: format!("the agent answered {status}"),
        help: Some("the agent may be of another version: compare `adit version`".to_owned()),
    });
    ClientError::Answered { status, error }
}

/// A path with parameters; their values may be anything (RFC 3986 section 2.1).
pub(super) fn query(path: &str, parameters: &[(&str, String)]) -> String {
    let mut text = path.to_owned();
    for (index, (name, value)) in parameters.iter().enumerate() {
        text.push(if index == 0 { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) {
                text.push(char::from(byte));
            } else {
                text.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_value_fits_into_a_query() {
        let parameters = [("peer", "a b&c=é".to_owned()), ("port", "80".to_owned())];
        assert_eq!(query("/v1/flows", &parameters), "/v1/flows?peer=a%20b%26c%3D%C3%A9&port=80");
        assert_eq!(query("/v1/flows", &[]), "/v1/flows");
    }
}
