//! The plugin on a node: its file, and its place at the end of the configuration that the runtime uses.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_core::admission::Remembered;
use adit_core::workload::NodeName;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{MissedTickBehavior, interval};

use super::{PLUGIN, Settings, cache, conflist};
use crate::discovery::Worlds;
use crate::shutdown::{Phase, Shutdown};

/// How often it is seen whether another agent has rewritten the configuration.
const PERIOD: Duration = Duration::from_secs(1);

/// The largest configuration that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// Why the plugin is not installed.
#[derive(Debug, thiserror::Error)]
enum InstallError {
    #[error("{what} {}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no CNI configuration in {} yet", .0.display())]
    None(PathBuf),
    #[error(
        "{} holds a single plugin: adit's can only follow others in a .conflist; new pods are \
         enrolled while they start instead of before",
        .0.display()
    )]
    Single(PathBuf),
    #[error("{}", path.display())]
    Conflist {
        path: PathBuf,
        #[source]
        source: conflist::ConflistError,
    },
}

/// The plugin on this node.
#[derive(Debug)]
pub struct Plugin {
    settings: Settings,
    socket: PathBuf,
    node: NodeName,
    written: Option<Remembered>,
    /// Whether the plugin's file was compared with this program.
    compared: bool,
    /// What is wrong, as it was told last.
    trouble: Option<String>,
}

/// Takes the plugin, its cache, and its place in every configuration away. Says what was removed.
///
/// # Errors
/// The first operation that failed, and the kernel's answer.
pub fn remove(settings: &Settings) -> anyhow::Result<Vec<String>> {
    let mut removed = Vec::new();
    for path in configurations(&settings.config_directory) {
        let Ok(text) = read(&path) else { continue };
        // What is no list has no plugin of ours.
        if let Ok(Some(rest)) = conflist::without(&text) {
            replace(&path, &rest)?;
            removed.push(format!("plugin {PLUGIN} from {}", path.display()));
        }
    }
    for path in [settings.bin_directory.join(PLUGIN), settings.cache.clone()] {
        match fs::remove_file(&path) {
            Ok(()) => removed.push(path.display().to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("remove", &path)(error).into()),
        }
    }
    Ok(removed)
}

impl Plugin {
    /// The plugin that asks the agent at this socket.
    #[must_use]
    pub fn new(settings: &Settings, socket: &Path, node: &NodeName) -> Self {
        let (settings, socket, node) = (settings.clone(), socket.to_owned(), node.clone());
        Self { settings, socket, node, written: None, compared: false, trouble: None }
    }

    /// Installs it and keeps it there, and its cache fresh, until the agent drains. It stays after
    /// that: pods that start while there is no agent are held, or not, by the cache.
    pub async fn run(mut self, worlds: Worlds, mut shutdown: Shutdown) {
        if !self.settings.install {
            return;
        }
        let mut changes = worlds.subscribe();
        let mut synced = worlds.synced();
        tokio::select! {
            () = shutdown.reached(Phase::Draining) => return,
            listed = synced.wait_for(|synced| *synced) => if listed.is_err() { return },
        }
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.remember(&worlds);
            self.install();
            tokio::select! {
                () = shutdown.reached(Phase::Draining) => return,
                change = changes.recv() => if matches!(change, Err(RecvError::Closed)) { return },
                _ = ticks.tick() => {}
            }
        }
    }

    fn remember(&mut self, worlds: &Worlds) {
        let remembered = cache::of_world(&worlds.load(), &self.node);
        if self.written.as_ref() == Some(&remembered) {
            return;
        }
        match cache::write(&self.settings.cache, &remembered) {
            Ok(()) => self.written = Some(remembered),
            Err(error) => {
                let path = self.settings.cache.display();
                tracing::warn!(%error, %path, "what the CNI plugin decides by cannot be written");
            }
        }
    }

    /// Says once what is wrong, and once that it is well.
    fn install(&mut self) {
        let done = self.place_program().and_then(|()| self.place_entry());
        let trouble = done.err().map(|error| format!("{:#}", anyhow::Error::new(error)));
        if trouble != self.trouble {
            match &trouble {
                Some(error) => tracing::warn!(error, "the CNI plugin is not installed"),
                None => tracing::info!("the CNI plugin is installed"),
            }
        }
        self.trouble = trouble;
    }

    /// Copies this program, if another one is there or none.
    fn place_program(&mut self) -> Result<(), InstallError> {
        let own = Path::new("/proc/self/exe");
        let place = self.settings.bin_directory.join(PLUGIN);
        if self.compared && place.exists() {
            return Ok(());
        }
        let program = fs::read(own).map_err(failed("read", own))?;
        if !fs::read(&place).is_ok_and(|there| there == program) {
            cache::replace(&place, &program, 0o755).map_err(failed("write", &place))?;
        }
        self.compared = true;
        Ok(())
    }

    fn place_entry(&self) -> Result<(), InstallError> {
        let directory = &self.settings.config_directory;
        let path = configurations(directory).into_iter().next();
        let path = path.ok_or_else(|| InstallError::None(directory.clone()))?;
        if path.extension().is_none_or(|extension| extension != "conflist") {
            return Err(InstallError::Single(path));
        }
        let text = read(&path).map_err(failed("read", &path))?;
        let changed = conflist::with(&text, &self.entry());
        let changed =
            changed.map_err(|source| InstallError::Conflist { path: path.clone(), source })?;
        match changed {
            None => Ok(()),
            Some(text) => replace(&path, &text),
        }
    }

    fn entry(&self) -> Value {
        json!({
            "type": PLUGIN,
            "socket": self.socket,
            "cache": self.settings.cache,
            "exemptNamespaces": self.settings.exempt,
            "waitMs": u64::try_from(self.settings.wait.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

/// The files that a runtime looks at, in its order: it uses the first
/// (containernetworking/cni, libcni.ConfFiles; sorted by containerd's go-cni and CRI-O).
fn configurations(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let known = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("conf" | "conflist" | "json"))
    };
    let mut paths: Vec<PathBuf> = paths.filter(known).collect();
    paths.sort();
    paths
}

fn read(path: &Path) -> io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    fs::File::open(path)?.take(LARGEST).read_to_string(&mut text)?;
    Ok(text)
}

/// In one step, with the mode it had.
fn replace(path: &Path, text: &str) -> Result<(), InstallError> {
    let mode = fs::metadata(path).map(|file| file.permissions().mode() & 0o777).unwrap_or(0o644);
    cache::replace(path, text.as_bytes(), mode).map_err(failed("write", path))
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"name":"lab","plugins":[{"type":"bridge"}]}"#;

    struct Node(PathBuf);

    impl Node {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("adit-cni-{name}-{}", std::process::id()));
            fs::create_dir_all(path.join("net.d")).unwrap();
            fs::create_dir_all(path.join("bin")).unwrap();
            Self(path)
        }

        fn installer(&self) -> Plugin {
            let settings = Settings {
                install: true,
                config_directory: self.0.join("net.d"),
                bin_directory: self.0.join("bin"),
                cache: self.0.join("cni.json"),
                ..Settings::default()
            };
            Plugin::new(&settings, &self.0.join("adit.sock"), &NodeName::new("node-a"))
        }

        fn text(&self, name: &str) -> String {
            fs::read_to_string(self.0.join("net.d").join(name)).unwrap()
        }
    }

    impl Drop for Node {
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_plugin_is_put_into_the_first_configuration_and_kept_there() {
        let node = Node::new("kept");
        let mut installer = node.installer();
        installer.install();
        assert!(installer.trouble.as_ref().unwrap().contains("no CNI configuration"));
        for name in ["20-other.conflist", "10-lab.conflist"] {
            fs::write(node.0.join("net.d").join(name), LIST).unwrap();
        }
        installer.install();
        assert_eq!(installer.trouble, None);
        assert!(node.text("10-lab.conflist").contains(PLUGIN));
        assert_eq!(node.text("20-other.conflist"), LIST);
        let program = fs::metadata(node.0.join("bin").join(PLUGIN)).unwrap();
        assert_eq!(program.permissions().mode() & 0o777, 0o755);
        // Another agent writes its own again.
        fs::write(node.0.join("net.d/10-lab.conflist"), LIST).unwrap();
        installer.install();
        assert!(node.text("10-lab.conflist").contains(PLUGIN));
    }

    #[test]
    fn a_configuration_that_is_no_list_stays_as_it_is_and_is_told() {
        let node = Node::new("single");
        let mut installer = node.installer();
        fs::write(node.0.join("net.d/10-lab.conf"), r#"{"type":"bridge"}"#).unwrap();
        installer.install();
        assert!(installer.trouble.as_ref().unwrap().contains("single plugin"));
        fs::write(node.0.join("net.d/05-lab.conflist"), "{").unwrap();
        installer.install();
        assert!(installer.trouble.as_ref().unwrap().contains("not JSON"));
        assert_eq!(node.text("05-lab.conflist"), "{");
    }

    #[test]
    fn removing_it_leaves_the_node_as_it_was() {
        let node = Node::new("removed");
        let mut installer = node.installer();
        fs::write(node.0.join("net.d/10-lab.conflist"), LIST).unwrap();
        cache::write(&installer.settings.cache, &Remembered::default()).unwrap();
        installer.install();
        assert_eq!(remove(&installer.settings).unwrap().len(), 3);
        let back: Value = serde_json::from_str(&node.text("10-lab.conflist")).unwrap();
        assert_eq!(back, serde_json::from_str::<Value>(LIST).unwrap());
        assert_eq!(fs::read_dir(node.0.join("bin")).unwrap().count(), 0);
        assert!(remove(&installer.settings).unwrap().is_empty());
    }
}
