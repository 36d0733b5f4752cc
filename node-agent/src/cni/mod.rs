//! The CNI plugin's side of the agent: what the two say to each other ([`Request`], [`Answer`]), who may
//! start ([`Gate`]), what the plugin remembers while no agent answers ([`cache`]), and how it gets into a
//! node's CNI configuration and out of it ([`install`]). The plugin itself is `adit cni`.

pub mod cache;
pub mod conflist;
mod gate;
pub mod install;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use gate::Gate;

/// The plugin's file name, and its `type` in a CNI configuration.
pub const PLUGIN: &str = "adit-cni";

/// Whether and where the plugin is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether at all.
    pub install: bool,
    /// The node's directory of CNI configurations.
    pub config_directory: PathBuf,
    /// The node's directory of CNI plugins.
    pub bin_directory: PathBuf,
    /// The file that the plugin decides by while no agent answers.
    pub cache: PathBuf,
    /// Namespaces whose pods are never held.
    pub exempt: Vec<String>,
    /// How long a pod is held at most before its start fails and is tried again.
    pub wait: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            install: false,
            config_directory: PathBuf::from("/etc/cni/net.d"),
            bin_directory: PathBuf::from("/opt/cni/bin"),
            cache: PathBuf::from("/var/lib/adit/cni.json"),
            exempt: vec!["kube-system".to_owned(), "adit-system".to_owned()],
            wait: Duration::from_secs(20),
        }
    }
}

/// What the plugin asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The pod's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID; empty where the runtime does not tell it.
    pub uid: String,
    /// The path of its network namespace.
    pub netns: String,
    /// The addresses it was given.
    pub addresses: Vec<IpAddr>,
    /// How long to wait for its enrolment, in milliseconds. 0: say how it is now.
    pub wait_ms: u64,
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "outcome")]
pub enum Answer {
    /// It does not belong to the mesh.
    Pass,
    /// It is enrolled.
    Enrolled,
    /// The agent has not heard of all pods yet: as if it were not there.
    NotReady,
    /// It was to be enrolled, and never will be.
    #[serde(rename_all = "camelCase")]
    Refused {
        /// Why, in words.
        why: String,
    },
    /// It must be enrolled, and is not.
    #[serde(rename_all = "camelCase")]
    NotEnrolled {
        /// How far it is, in words.
        why: String,
    },
}
