//! The Unix socket of the admin API: its directory, its permissions, who may connect, and what
//! happens to the socket of an agent that died.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::admin::{Shared, http, routes};
use crate::shutdown::{Phase, Shutdown};

/// Clients at a time; a follower counts as long as it follows, and each pod that is being made.
const MAX_CLIENTS: usize = 512;

/// Whether a user may talk to the agent.
pub type Allow = Arc<dyn Fn(u32) -> bool + Send + Sync>;

/// The socket, listening. Dropping it removes the file, unless another agent has replaced it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file.
    file: (u64, u64),
    owner: u32,
}

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A path without a directory or a name.
    #[error("admin socket {0}: the path must name a file in a directory")]
    Path(PathBuf),
    /// The directory is not safe.
    #[error(
        "admin socket: users other than root and the agent's own may change the directory {0}; \
         choose one of its own, such as /run/adit"
    )]
    Directory(PathBuf),
    /// An agent answers there.
    #[error("admin socket {0}: another agent answers there; stop it, or configure another path")]
    Taken(PathBuf),
    /// The file is something else than a socket.
    #[error("admin socket {0}: the file is there and is no socket; it is not touched")]
    NotASocket(PathBuf),
    /// A file operation failed.
    #[error("admin socket: {what} {path}")]
    Io {
        /// The operation.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// Root, and the user the agent runs as.
#[must_use]
pub fn owner_or_root(socket: &Socket) -> Allow {
    let owner = socket.owner;
    Arc::new(move |uid| uid == 0 || uid == owner)
}

impl Socket {
    /// Opens the socket. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn open(path: &Path) -> Result<Self, SocketError> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(SocketError::Path(path.to_owned()));
        };
        prepare_directory(directory)?;
        // Bound under another name and renamed: nobody can connect before the mode is set, and a
        // dead agent's socket is replaced in one step.
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}", std::process::id()));
        let hidden = directory.join(hidden);
        let _left_over = fs::remove_file(&hidden);
        let listener = UnixListener::bind(&hidden).map_err(failed("bind", &hidden))?;
        let placed = place(&hidden, path);
        if placed.is_err() {
            let _gone = fs::remove_file(&hidden);
        }
        let (file, owner) = placed?;
        Ok(Self { listener, path: path.to_owned(), file, owner })
    }

    /// Answers requests until the process is to end.
    pub async fn serve(self, state: Shared, allow: Allow, mut shutdown: Shutdown) {
        let router = routes::router(state);
        let refusal = Router::new().fallback(forbidden);
        let room = Arc::new(Semaphore::new(MAX_CLIENTS));
        let mut clients = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = shutdown.reached(Phase::Forced) => return,
            };
            while clients.try_join_next().is_some() {}
            let Ok((stream, _address)) = accepted else {
                http::pause_after_failed_accept().await;
                continue;
            };
            let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                continue;
            };
            let router = if may(&stream, &allow) { router.clone() } else { refusal.clone() };
            clients.spawn(async move {
                http::serve(stream, router).await;
                drop(permit);
            });
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if identify(&self.path).is_ok_and(|(file, _)| file == self.file) {
            let _gone = fs::remove_file(&self.path);
        }
    }
}

/// Whoever cannot be named may not.
fn may(stream: &UnixStream, allow: &Allow) -> bool {
    match stream.peer_cred() {
        Ok(peer) if allow(peer.uid()) => true,
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), pid = peer.pid(), "refused an admin client");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "refused an admin client without credentials");
            false
        }
    }
}

fn forbidden() -> std::future::Ready<axum::response::Response> {
    let error = "only root and the agent's own user may talk to the agent";
    std::future::ready(http::refuse(StatusCode::FORBIDDEN, &error, Some("run the command as root")))
}

/// Makes the directory, or checks that only root and this process's user can change it.
fn prepare_directory(directory: &Path) -> Result<(), SocketError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o755);
    if let Some(parent) = directory.parent() {
        builder.create(parent).map_err(failed("make the directory", parent))?;
    }
    let made = DirBuilder::new().mode(0o700).create(directory);
    match made {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed("make the directory", directory)(error)),
    }
    let metadata = fs::metadata(directory).map_err(failed("look at", directory))?;
    let own = fs::metadata("/proc/self").map_err(failed("look at", Path::new("/proc/self")))?.uid();
    let owned = metadata.uid() == 0 || metadata.uid() == own;
    if !owned || metadata.mode() & 0o022 != 0 {
        return Err(SocketError::Directory(directory.to_owned()));
    }
    Ok(())
}

/// Gives the socket its mode and its name, if nobody else has a claim to the name.
fn place(hidden: &Path, path: &Path) -> Result<((u64, u64), u32), SocketError> {
    fs::set_permissions(hidden, Permissions::from_mode(0o600))
        .map_err(failed("set the mode of", hidden))?;
    match fs::symlink_metadata(path) {
        Ok(old) if old.mode() & 0o170_000 != 0o140_000 => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        // A connection that the kernel takes has somebody behind it, however busy.
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(SocketError::Taken(path.to_owned()));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("look at", path)(error)),
    }
    fs::rename(hidden, path).map_err(failed("rename a socket to", path))?;
    identify(path).map_err(failed("look at", path))
}

/// Device and inode, and the owner.
fn identify(path: &Path) -> io::Result<((u64, u64), u32)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok(((metadata.dev(), metadata.ino()), metadata.uid()))
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SocketError {
    let path = path.to_owned();
    move |source| SocketError::Io { what, path, source }
}
