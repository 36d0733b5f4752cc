//! The images of the cluster's pods: the sandbox's pause, and a server with a shell beside it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::image::archive::{self, Entry, Image};

/// What busybox is called by in the test image.
const APPLETS: &[&str] = &[
    "sh", "ls", "cat", "ps", "ip", "nc", "wget", "sleep", "env", "id", "hostname", "netstat",
    "touch", "rm", "tail", "head", "grep", "kill", "date", "seq", "true", "false",
];

/// Writes both below the cluster's directory, where a node looks for images as it starts.
pub(super) fn write(cache: &Path) -> Result<()> {
    let program = |name: &str| {
        let path = cache.join("pods").join(name);
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        anyhow::Ok(Entry::Program(bytes))
    };
    let directory = cache.join("images");
    fs::create_dir_all(&directory).context("cannot make the directory of images")?;
    let write = |reference, entrypoint, entries, file| {
        let image = Image { reference, entrypoint, labels: Vec::new(), entries };
        archive::write(&image, &directory.join(file))
    };
    let pause = BTreeMap::from([("pause", program("pause")?)]);
    write("local.test/pause:1", &["/pause"], pause, "pause.tar")?;
    let links: Vec<String> = APPLETS.iter().map(|name| format!("bin/{name}")).collect();
    let mut entries: BTreeMap<&str, Entry<'_>> =
        links.iter().map(|link| (&**link, Entry::Link("busybox"))).collect();
    entries.insert("bin/busybox", program("busybox")?);
    entries.insert("testapp", program("testapp")?);
    entries.insert("tmp", Entry::Directory(0o1777));
    write("local.test/testapp:1", &["/testapp"], entries, "testapp.tar")
}
