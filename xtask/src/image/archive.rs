//! An OCI image with one layer, as an archive: a tar of the OCI image layout, which containerd, podman,
//! buildah, skopeo and docker load. The same contents give the same bytes: times are zero, owners root,
//! entries sorted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// What an image consists of.
pub(crate) struct Image<'a> {
    /// Its whole reference, registry and tag included.
    pub(crate) reference: &'a str,
    /// The command that a container starts.
    pub(crate) entrypoint: &'a [&'a str],
    /// `org.opencontainers.image.*` labels.
    pub(crate) labels: Vec<(&'a str, &'a str)>,
    /// Path within the image, without a leading slash → what is there. Parents are made.
    pub(crate) entries: BTreeMap<&'a str, Entry<'a>>,
}

/// One path of an image.
pub(crate) enum Entry<'a> {
    /// An executable file with these bytes.
    Program(Vec<u8>),
    /// A symbolic link to this target.
    Link(&'a str),
    /// An empty directory with this mode.
    Directory(u32),
}

/// A blob of the image layout.
struct Blob {
    digest: String,
    bytes: Vec<u8>,
}

/// The image specification's names (image-spec v1.1, media-types.md).
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Images bear no date: they are what their contents are.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// Writes the archive, whole or not at all.
pub(crate) fn write(image: &Image<'_>, path: &Path) -> Result<()> {
    let bytes = archive(image)?;
    let mut hidden = path.as_os_str().to_owned();
    hidden.push(".new");
    let hidden = Path::new(&hidden);
    let mut file =
        File::create(hidden).with_context(|| format!("cannot write {}", hidden.display()))?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).context("cannot write the archive")?;
    std::fs::rename(hidden, path).with_context(|| format!("cannot write {}", path.display()))
}

fn archive(image: &Image<'_>) -> Result<Vec<u8>> {
    let layer = layer(&image.entries)?;
    let diff = digest(&layer);
    let layer = Blob::of(compress(&layer)?);
    let config = Blob::of(config(image, &diff)?);
    let manifest = Blob::of(serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor(CONFIG),
        "layers": [layer.descriptor(LAYER)],
    }))?);
    let Some((_, tag)) = image.reference.rsplit_once(':') else {
        bail!("image reference {} has no tag", image.reference);
    };
    let mut named = manifest.descriptor(MANIFEST);
    if let Some(named) = named.as_object_mut() {
        // containerd goes by the first, others by the second.
        let annotations = json!({
            "io.containerd.image.name": image.reference,
            "org.opencontainers.image.ref.name": tag,
        });
        named.insert("annotations".to_owned(), annotations);
    }
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [named],
    }))?;

    let mut tar = Builder::new(Vec::new());
    for directory in ["blobs", "blobs/sha256"] {
        add(&mut tar, directory, &Entry::Directory(0o755))?;
    }
    let mut blobs = [layer, config, manifest];
    blobs.sort_by(|a, b| a.digest.cmp(&b.digest));
    for blob in &blobs {
        add_file(&mut tar, &format!("blobs/sha256/{}", blob.digest), 0o644, &blob.bytes)?;
    }
    add_file(&mut tar, "index.json", 0o644, &index)?;
    let layout = serde_json::to_vec(&json!({ "imageLayoutVersion": "1.0.0" }))?;
    add_file(&mut tar, "oci-layout", 0o644, &layout)?;
    Ok(tar.into_inner()?)
}

/// The layer as a tar, not compressed.
fn layer(entries: &BTreeMap<&str, Entry<'_>>) -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    let mut made: Vec<&str> = Vec::new();
    for (path, entry) in entries {
        for (end, _) in path.match_indices('/') {
            let parent = path.get(..end).unwrap_or_default();
            if !made.contains(&parent) && !entries.contains_key(parent) {
                add(&mut tar, parent, &Entry::Directory(0o755))?;
                made.push(parent);
            }
        }
        add(&mut tar, path, entry)?;
    }
    Ok(tar.into_inner()?)
}

fn add(tar: &mut Builder<Vec<u8>>, path: &str, entry: &Entry<'_>) -> Result<()> {
    match entry {
        Entry::Program(bytes) => add_file(tar, path, 0o755, bytes),
        Entry::Link(target) => {
            let mut header = header(EntryType::Symlink, 0o777, 0);
            tar.append_link(&mut header, path, target)?;
            Ok(())
        }
        Entry::Directory(mode) => {
            let mut header = header(EntryType::Directory, *mode, 0);
            tar.append_data(&mut header, format!("{path}/"), std::io::empty())?;
            Ok(())
        }
    }
}

fn add_file(tar: &mut Builder<Vec<u8>>, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    let mut header = header(EntryType::Regular, mode, u64::try_from(bytes.len())?);
    tar.append_data(&mut header, path, bytes)?;
    Ok(())
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn config(image: &Image<'_>, diff: &str) -> Result<Vec<u8>> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("no image for {other}"),
    };
    let labels: serde_json::Map<String, Value> =
        image.labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    Ok(serde_json::to_vec(&json!({
        "architecture": architecture,
        "os": "linux",
        "created": CREATED,
        "config": {
            "Entrypoint": image.entrypoint,
            "Env": ["PATH=/usr/bin:/bin"],
            "WorkingDir": "/",
            "Labels": labels,
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{diff}")] },
        "history": [{ "created": CREATED, "created_by": "cargo xtask image" }],
    }))?)
}

/// gzip without a name and a time.
fn compress(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Blob {
    fn of(bytes: Vec<u8>) -> Self {
        Self { digest: digest(&bytes), bytes }
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({
            "mediaType": media_type,
            "digest": format!("sha256:{}", self.digest),
            "size": self.bytes.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn image(program: &[u8]) -> Image<'_> {
        Image {
            reference: "localhost/adit:0.1.0",
            entrypoint: &["/usr/bin/adit"],
            labels: vec![("org.opencontainers.image.title", "adit")],
            entries: BTreeMap::from([
                ("usr/bin/adit", Entry::Program(program.to_vec())),
                ("usr/bin/other", Entry::Link("adit")),
                ("tmp", Entry::Directory(0o1777)),
            ]),
        }
    }

    /// The files of a tar, by path; directories and links with their target or nothing.
    fn unpack(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut tar = tar::Archive::new(bytes);
        let entries = tar.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            assert_eq!(entry.header().mtime().unwrap(), 0);
            let mut contents = Vec::new();
            if let Some(target) = entry.link_name_bytes() {
                contents = target.into_owned();
            }
            entry.read_to_end(&mut contents).unwrap();
            (String::from_utf8(entry.path_bytes().into_owned()).unwrap(), contents)
        });
        entries.collect()
    }

    #[test]
    fn the_same_contents_give_the_same_bytes() {
        assert_eq!(archive(&image(b"program")).unwrap(), archive(&image(b"program")).unwrap());
        assert_ne!(archive(&image(b"program")).unwrap(), archive(&image(b"another")).unwrap());
    }

    #[test]
    fn every_descriptor_leads_to_a_blob_of_its_digest_and_size() {
        let files = unpack(&archive(&image(b"program")).unwrap());
        let blob = |descriptor: &Value| {
            let name = descriptor["digest"].as_str().unwrap().replace(':', "/");
            let bytes = files.get(&format!("blobs/{name}")).unwrap();
            assert!(name.ends_with(&digest(bytes)));
            assert_eq!(descriptor["size"], bytes.len());
            bytes.clone()
        };
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let named = &index["manifests"][0];
        assert_eq!(named["annotations"]["io.containerd.image.name"], "localhost/adit:0.1.0");
        let manifest: Value = serde_json::from_slice(&blob(named)).unwrap();
        let config: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        let mut layer = Vec::new();
        let compressed = blob(&manifest["layers"][0]);
        flate2::read::GzDecoder::new(&*compressed).read_to_end(&mut layer).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", digest(&layer)));
        let names: Vec<String> = unpack(&layer).into_keys().collect();
        assert_eq!(names, ["tmp/", "usr/", "usr/bin/", "usr/bin/adit", "usr/bin/other"]);
        assert_eq!(unpack(&layer)["usr/bin/adit"], b"program");
        assert_eq!(unpack(&layer)["usr/bin/other"], b"adit");
    }

    #[test]
    fn a_reference_without_a_tag_is_refused() {
        let mut image = image(b"program");
        image.reference = "localhost/adit";
        assert!(archive(&image).is_err());
    }
}
