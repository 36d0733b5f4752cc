//! The configuration of the agent: the settings of every module, composed. A file, then the
//! environment, then one check that names everything that is wrong at once.
//!
//! Nobody receives the whole of it but `app`, which hands every module its own part.

mod check;
mod duration;
mod env;
mod file;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use adit_core::identity::TrustDomain;
use adit_core::workload::NodeName;

use crate::admin;
use crate::cni;
use crate::datapath;
use crate::discovery;
use crate::identity;
use crate::proxy;
use crate::telemetry::LogSettings;
use crate::telemetry::access_log::AccessLogSettings;
use crate::telemetry::metrics::MetricsSettings;
use crate::tunnel;
use crate::worker;

pub use env::{Environment, ProcessEnvironment};

/// The largest configuration file that is read.
const MAX_FILE: u64 = 1 << 20;

/// The configuration of the agent.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which node of which mesh this is.
    pub mesh: Mesh,
    /// Where the world comes from.
    pub discovery: discovery::Settings,
    /// How certificates are obtained.
    pub identity: identity::Settings,
    /// Where the programs are kept and attached.
    pub datapath: datapath::Settings,
    /// Whether and where the CNI plugin is installed.
    pub cni: cni::Settings,
    /// How many workers there are.
    pub worker: worker::Settings,
    /// How tunnels live.
    pub tunnel: tunnel::Settings,
    /// How flows live.
    pub flow: proxy::Settings,
    /// Where commands are answered.
    pub admin: admin::AdminSettings,
    /// Where metrics are scraped.
    pub metrics: MetricsSettings,
    /// Where readiness is asked for.
    pub readiness: admin::ReadinessSettings,
    /// What is logged, and how.
    pub log: LogSettings,
    /// Whether flow ends are logged.
    pub access_log: AccessLogSettings,
    /// How long open flows may go on after the agent was told to end.
    pub drain_deadline: Duration,
    /// Whether the taint `adit.dev/agent-not-ready` is taken off the node when the agent is ready.
    pub remove_taint: bool,
}

/// Which node of which mesh this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mesh {
    /// This node's name, as pods name it in `spec.nodeName`.
    pub node: NodeName,
    /// The cluster's name, for baggage and metrics.
    pub cluster: Arc<str>,
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Settings are wrong, in the file or in the environment.
    #[error("configuration {}: {problems}", shown(.path.as_deref()))]
    Invalid {
        /// The file, if there is one.
        path: Option<PathBuf>,
        /// All of them.
        problems: Problems,
    },
}

/// Everything that is wrong with a configuration, each with the path of its key or the name of its
/// variable.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<String>);

impl Problems {
    fn add(&mut self, key: &str, problem: impl fmt::Display) {
        self.0.push(format!("{key}: {problem}"));
    }

    /// One line each.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [single] => f.write_str(single),
            several => {
                write!(f, "{} errors", several.len())?;
                several.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

impl Config {
    /// Reads the configuration: `file`, or nothing but defaults, and the environment above it.
    ///
    /// # Errors
    /// The file cannot be read, or everything that is wrong with what it says.
    pub fn load(file: Option<&Path>, environment: &dyn Environment) -> Result<Self, ConfigError> {
        let text = match file {
            Some(path) => {
                read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?
            }
            None => String::new(),
        };
        Self::parse(&text, environment)
            .map_err(|problems| ConfigError::Invalid { path: file.map(Path::to_owned), problems })
    }

    /// The configuration that a text and an environment say.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn parse(text: &str, environment: &dyn Environment) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut raw = file::read(text, &mut problems);
        env::override_with(&mut raw, environment, &mut problems);
        match check::check(raw, environment, &mut problems) {
            Some(config) if problems.0.is_empty() => Ok(config),
            Some(_) | None => Err(problems),
        }
    }
}

fn shown(path: Option<&Path>) -> String {
    let name = path.map(|path| path.display().to_string());
    name.unwrap_or_else(|| "(no file)".to_owned())
}

fn read(path: &Path) -> io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if u64::try_from(read).is_ok_and(|read| read > MAX_FILE) {
        let error = format!("larger than {} MiB", MAX_FILE >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, error));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
