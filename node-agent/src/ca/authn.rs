//! Who is calling: a bearer token, reviewed by the API server, or looked up in a file of tokens by
//! node:
//!
//! ```yaml
//! node-a: some-long-random-text
//! node-b: [sha256:9f86d0…, a-second-token-while-the-first-is-replaced]
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use adit_core::issuance::Caller;
use adit_core::workload::NodeName;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use serde::Deserialize;
use tracing::{info, warn};

use crate::ca::kubernetes::Reviews;
use crate::pki::{PkiError, read_private};

/// Below this a token could be guessed.
const SHORT: usize = 16;

/// Why nobody can be told from what a caller presents.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoCaller {
    /// There is no `authorization: Bearer …`.
    #[error("no bearer token was given")]
    Missing,
    /// No node has this token.
    #[error("the token is not known")]
    Unknown,
    /// It is no JSON web token.
    #[error("the token is not one of a Kubernetes service account")]
    Malformed,
    /// It has neither an audience nor an end.
    #[error("the token is one of a Secret, bound to no pod and no audience: give a projected one")]
    Legacy,
    /// It is for somebody else.
    #[error("the token is for another audience")]
    OtherAudience,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its pod or its service account is gone.
    #[error("the token's pod or service account is gone")]
    Invalidated,
    /// The API server does not accept it.
    #[error("the API server does not accept the token: {0}")]
    Rejected(String),
    /// It is of a user that is no service account.
    #[error("the token is of no service account")]
    NoAccount,
    /// The API server cannot be asked now.
    #[error("the token cannot be checked now: {0}")]
    Unreviewed(String),
}

impl NoCaller {
    /// The spelling used by metrics, log lines and the command line.
    #[must_use]
    pub(super) const fn as_label(&self) -> &'static str {
        match self {
            Self::Missing => "token_missing",
            Self::Unknown => "token_unknown",
            Self::Malformed => "token_malformed",
            Self::Legacy => "token_legacy",
            Self::OtherAudience => "token_for_other_audience",
            Self::Expired => "token_expired",
            Self::Invalidated => "token_invalidated",
            Self::Rejected(_) => "token_rejected",
            Self::NoAccount => "token_of_no_service_account",
            Self::Unreviewed(_) => "token_not_reviewed",
        }
    }
}

/// Tells callers apart.
pub(super) enum Callers {
    /// By a file of tokens: nodes.
    Tokens(Tokens),
    /// By the API server: pods.
    Reviews(Reviews),
}

impl Callers {
    /// Who presents this `authorization` header.
    pub(super) async fn authenticate(
        &self,
        header: Option<&[u8]>,
        now: SystemTime,
    ) -> Result<Caller, NoCaller> {
        let token = header.and_then(bearer).ok_or(NoCaller::Missing)?;
        match self {
            Self::Tokens(tokens) => Ok(Caller::Node(tokens.node(token)?)),
            Self::Reviews(reviews) => {
                let unix = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
                Ok(Caller::Pod(reviews.review(token, unix).await?))
            }
        }
    }
}

/// The tokens of a file, read again when the file changes. A change that cannot be read is reported
/// and leaves the tokens as they were.
pub(super) struct Tokens {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    seen: Option<Stamp>,
    nodes: Vec<(NodeName, Hash)>,
}

type Hash = [u8; SHA256_OUTPUT_LEN];

/// Tells one version of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Tokens {
    pub(super) fn open(path: &Path) -> Result<Self, PkiError> {
        let seen = stamp(path);
        let nodes = load(path)?;
        Ok(Self { path: path.to_owned(), state: Mutex::new(State { seen, nodes }) })
    }

    /// The node whose token this is.
    fn node(&self, token: &[u8]) -> Result<NodeName, NoCaller> {
        let presented = hash(token);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.refresh(&mut state);
        let mut found = None;
        // All of them, equal or not: the time must not tell how far the search went.
        for (node, known) in &state.nodes {
            if verify_slices_are_equal(&presented, known).is_ok() {
                found = Some(node.clone());
            }
        }
        found.ok_or(NoCaller::Unknown)
    }

    fn refresh(&self, state: &mut State) {
        let now = stamp(&self.path);
        if now == state.seen {
            return;
        }
        state.seen = now;
        match load(&self.path) {
            Ok(nodes) => {
                info!(file = %self.path.display(), tokens = nodes.len(), "node tokens read again");
                state.nodes = nodes;
            }
            Err(error) => {
                warn!(%error, "node tokens changed and cannot be read; the old ones stay in use");
            }
        }
    }
}

/// The scheme's name is not case-sensitive (RFC 9110, section 11.1).
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(7)?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some(Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

fn load(path: &Path) -> Result<Vec<(NodeName, Hash)>, PkiError> {
    let invalid = |problem| PkiError::Invalid { origin: path.display().to_string(), problem };
    let text = read_private(path)?;
    // The parser's message could quote a token: it is not repeated.
    let parsed: BTreeMap<String, OneOrMany> = serde_yaml::from_slice(&text).map_err(|_quotes| {
        invalid("is not YAML of the form `node: token` or `node: [token, …]`")
    })?;
    let mut nodes: Vec<(NodeName, Hash)> = Vec::new();
    for (node, tokens) in parsed {
        let tokens = match tokens {
            OneOrMany::One(token) => vec![token],
            OneOrMany::Many(tokens) => tokens,
        };
        for token in tokens {
            let known = parse_token(&token).ok_or_else(|| {
                invalid("has a token that is empty, or a `sha256:` without 64 hexadecimal digits")
            })?;
            if nodes.iter().any(|(other, hash)| *hash == known && other.as_str() != node) {
                return Err(invalid("gives two nodes the same token"));
            }
            if !token.starts_with("sha256:") && token.len() < SHORT {
                warn!(%node, "this node's token is shorter than {SHORT} characters");
            }
            nodes.push((NodeName::new(&node), known));
        }
    }
    Ok(nodes)
}

fn parse_token(token: &str) -> Option<Hash> {
    let Some(digits) = token.strip_prefix("sha256:") else {
        let token = token.trim();
        return (!token.is_empty()).then(|| hash(token.as_bytes()));
    };
    let mut bytes = [0; SHA256_OUTPUT_LEN];
    if digits.len() != 2 * bytes.len() || !digits.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

fn hash(token: &[u8]) -> Hash {
    let mut bytes = [0; SHA256_OUTPUT_LEN];
    for (byte, from) in bytes.iter_mut().zip(digest(&SHA256, token).as_ref()) {
        *byte = *from;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_token_names_its_node_whether_it_is_stored_plain_or_as_a_hash() {
        let b = hex(&hash(b"token-of-node-b-0"));
        let text =
            format!("node-a: token-of-node-a-0\nnode-b: [other-other-other, 'sha256:{b}']\n");
        let file = File::new(&text);
        let tokens = Tokens::open(&file.0).unwrap();
        let ask = |header: &str| ask(&tokens, header);
        assert_eq!(ask("Bearer token-of-node-a-0"), Ok(NodeName::new("node-a")));
        assert_eq!(ask("bearer token-of-node-b-0"), Ok(NodeName::new("node-b")));
        assert_eq!(ask("Bearer other-other-other"), Ok(NodeName::new("node-b")));
        assert_eq!(ask("Bearer token-of-node-a-1"), Err(NoCaller::Unknown));
        assert_eq!(ask(&format!("Bearer sha256:{b}")), Err(NoCaller::Unknown));
        for header in ["", "Bearer", "Bearer ", "Basic token-of-node-a-0", "\u{e9}"] {
            assert_eq!(ask(header), Err(NoCaller::Missing), "{header:?}");
        }
    }

    #[test]
    fn a_change_of_the_file_counts_at_once_and_a_broken_one_leaves_the_tokens_as_they_were() {
        let file = File::new("node-a: the-first-token-1\n");
        let tokens = Tokens::open(&file.0).unwrap();
        let ask = |header: &str| ask(&tokens, header);
        file.replace("node-a: the-second-token-22\n");
        assert_eq!(ask("Bearer the-first-token-1"), Err(NoCaller::Unknown));
        assert!(ask("Bearer the-second-token-22").is_ok());
        file.replace("node-a: {");
        assert!(ask("Bearer the-second-token-22").is_ok());
        fs::remove_file(&file.0).unwrap();
        assert!(ask("Bearer the-second-token-22").is_ok());
        file.replace("node-a: the-third-token-333\n");
        assert!(ask("Bearer the-third-token-333").is_ok());
    }

    #[test]
    fn a_file_that_is_wrong_is_refused_without_repeating_a_token() {
        let cases = [
            "- secret-secret-secret",
            "secret-secret-secret",
            "node-a: {secret-secret-secret: 1}",
            "node-a: ''",
            "node-a: sha256:secret",
            "node-a: secret-secret-secret\nnode-b: secret-secret-secret",
        ];
        for text in cases {
            let file = File::new(text);
            let error = Tokens::open(&file.0).map(|_| ()).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
            assert!(error.contains(file.0.to_str().unwrap()), "{error}");
        }
        let file = File::new("node-a: secret-secret-secret");
        fs::set_permissions(&file.0, fs::Permissions::from_mode(0o644)).unwrap();
        let error = Tokens::open(&file.0).map(|_| ()).unwrap_err();
        assert!(matches!(error, PkiError::Exposed { .. }), "{error}");
    }

    fn ask(tokens: &Tokens, header: &str) -> Result<NodeName, NoCaller> {
        tokens.node(bearer(header.as_bytes()).ok_or(NoCaller::Missing)?)
    }

    struct File(PathBuf);

    impl File {
        fn new(text: &str) -> Self {
            let name = format!("adit-tokens-{:x}", rand::random::<u64>());
            let file = Self(std::env::temp_dir().join(name));
            file.replace(text);
            file
        }

        /// As a careful operator does it: a new file in place of the old one.
        fn replace(&self, text: &str) {
            let new = self.0.with_extension("new");
            fs::write(&new, text).unwrap();
            fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
            fs::rename(&new, &self.0).unwrap();
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            let _gone: std::io::Result<()> = fs::remove_file(&self.0);
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
