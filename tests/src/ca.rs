//! The CA process, on its own host between the nodes.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::cluster::{CA_HOST, TRUST_DOMAIN, host_addresses};
use crate::manifest::Manifests;
use crate::netns::Netns;
use crate::process::{Log, Process};
use crate::requirements::adit_binary;
use crate::run::Run;
use crate::wait::{SOON, wait_until};

/// Where it serves.
pub const PORT: u16 = 15012;

/// The CA.
#[derive(Debug)]
pub struct Ca {
    netns: Netns,
    directory: PathBuf,
    tokens: PathBuf,
    manifests: PathBuf,
    log: Log,
    process: Mutex<Option<Process>>,
}

impl Ca {
    pub(crate) fn new(run: &Run, netns: Netns, manifests: &Manifests) -> Self {
        Self {
            netns,
            directory: run.directory().join("ca"),
            tokens: run.directory().join("tokens.yaml"),
            manifests: manifests.directory().to_owned(),
            log: Log::new(run.directory().join("ca.log")),
            process: Mutex::default(),
        }
    }

    /// Writes the tokens by which the nodes are known, and a file with its token for each node.
    ///
    /// # Errors
    /// The file system's.
    pub fn write_tokens(&self, nodes: &[&str]) -> Result<()> {
        let mut all = String::new();
        for node in nodes {
            let token = format!("{node}-token-of-this-run");
            all.push_str(&format!("{node}: {token}\n"));
            write_private(&self.token(node), &token)?;
        }
        write_private(&self.tokens, &all)
    }

    /// Forgets the nodes' tokens, until [`Ca::write_tokens`].
    ///
    /// # Errors
    /// The file system's.
    pub fn forget_tokens(&self) -> Result<()> {
        write_private(&self.tokens, "nobody: a-token-that-nobody-has\n")
    }

    /// The file with a node's token.
    #[must_use]
    pub fn token(&self, node: &str) -> PathBuf {
        self.tokens.with_file_name(format!("{node}.token"))
    }

    /// Makes the root and the intermediate if there are none yet, and serves.
    ///
    /// # Errors
    /// What failed, with the end of its log.
    pub fn start(&self) -> Result<()> {
        let adit = adit_binary()?;
        if !self.directory.exists() {
            self.init(&adit)?;
        }
        let (v4, _) = host_addresses(CA_HOST);
        let mut command = self.netns.command(&adit.to_string_lossy());
        command
            .args(["ca", "serve", "--trust-domain", TRUST_DOMAIN])
            .args(["--name", "adit-ca", "--ip", &v4.to_string()])
            .args(["--listen", &format!("{v4}:{PORT}")])
            .arg("--dir")
            .arg(&self.directory)
            .arg("--manifests")
            .arg(&self.manifests)
            .arg("--tokens")
            .arg(&self.tokens);
        let process = Process::start("the CA", &mut command, self.log.path())?;
        *self.lock() = Some(process);
        let address = SocketAddr::from((v4, PORT));
        let listens = wait_until("the CA to listen", SOON, || {
            let tried = self
                .netns
                .run(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok());
            matches!(tried, Ok(true))
        });
        listens.with_context(|| format!("its log:\n{}", self.log.since(0)))
    }

    fn init(&self, adit: &Path) -> Result<()> {
        let output = Command::new(adit)
            .args(["ca", "init", "--trust-domain", TRUST_DOMAIN, "--dir"])
            .arg(&self.directory)
            .output()
            .context("cannot start adit")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`adit ca init` failed: {said}");
        }
        Ok(())
    }

    /// Kills it without notice.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&self) -> Result<()> {
        let mut process = self.lock().take().context("the CA does not run")?;
        process.kill()
    }

    /// Its host's network namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The URL that agents use.
    #[must_use]
    pub fn url(&self) -> String {
        let (v4, _) = host_addresses(CA_HOST);
        format!("https://{v4}:{PORT}")
    }

    /// The directory with its keys and certificates.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The root certificate.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.directory.join("root-cert.pem")
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text).with_context(|| format!("cannot write {path:?}"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).context("cannot set the mode")
}
