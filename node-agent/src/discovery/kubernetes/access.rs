//! How the API server is reached: from inside a pod with what Kubernetes mounts there, or with a
//! kubeconfig.

use std::path::PathBuf;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// A connection to the API server must stand within this time.
const CONNECT: Duration = Duration::from_secs(10);

/// A connection that carries nothing for this long is given up. The API server sends a bookmark on
/// an idle watch about once a minute.
pub const SILENCE: Duration = Duration::from_secs(150);

/// Where Kubernetes tells a pod its namespace.
const OWN_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// Where the API server's address, its CA and this process's credentials come from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// A kubeconfig; without one, what Kubernetes gives every pod.
    pub kubeconfig: Option<PathBuf>,
}

/// Why there is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Not inside a pod.
    #[error("this is no pod with a service account's token; give a kubeconfig")]
    NotInPod(#[source] kube::config::InClusterError),
    /// The kubeconfig.
    #[error("kubeconfig {path}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// What the files hold cannot be used.
    #[error("cannot set up the client of the API server")]
    Client(#[from] kube::Error),
}

impl Access {
    /// A client. Nothing is connected yet; the files are read now, and a token's file again as
    /// Kubernetes renews it.
    ///
    /// # Errors
    /// [`AccessError`].
    pub async fn client(&self) -> Result<Client, AccessError> {
        let mut config = match &self.kubeconfig {
            None => Config::incluster().map_err(AccessError::NotInPod)?,
            Some(path) => {
                let failed = |source| AccessError::Kubeconfig { path: path.clone(), source };
                let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
                let options = KubeConfigOptions::default();
                Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(failed)?
            }
        };
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(SILENCE);
        // Who calls has a back-off of its own.
        config.default_retry = false;
        Ok(Client::try_from(config)?)
    }
}

/// The namespace that this pod is in.
///
/// # Errors
/// If it is in none.
pub fn own_namespace() -> std::io::Result<String> {
    Ok(std::fs::read_to_string(OWN_NAMESPACE)?.trim().to_owned())
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.kubeconfig {
            None => f.write_str("kubernetes"),
            Some(path) => write!(f, "kubernetes {}", path.display()),
        }
    }
}
