//! Debian's kernel packages: which is the newest of a series, and its files.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::run_for_output;

/// An unpacked kernel.
pub(super) struct Kernel {
    /// The package's name and version.
    pub(super) name: String,
    /// As `uname -r` says it.
    pub(super) release: String,
    /// Where its files are, as below `/`.
    pub(super) tree: PathBuf,
}

impl Kernel {
    /// The file to boot.
    pub(super) fn image(&self) -> Result<PathBuf> {
        let image = self.tree.join("boot").join(format!("vmlinuz-{}", self.release));
        fs::canonicalize(&image).with_context(|| format!("{} is missing", image.display()))
    }
}

/// The newest kernel of a series, from the cache or from apt.
pub(super) fn fetch(series: &str) -> Result<Kernel> {
    if env::consts::ARCH != "x86_64" {
        bail!("the kernels are those of x86_64, and this is {}", env::consts::ARCH);
    }
    let pattern = format!("^linux-image-{}[.][0-9].*-cloud-amd64$", series.replace('.', "[.]"));
    let found =
        run_for_output(Command::new("apt-cache").args(["search", "--names-only", &pattern]))?;
    let package = newest(&found).with_context(|| {
        format!(
            "apt knows no cloud kernel of series {series}: `apt-get update`, or add a source that has \
             one (Debian 12 has both, 6.12 in bookworm-updates)"
        )
    })?;
    let shown =
        run_for_output(Command::new("apt-cache").args(["show", "--no-all-versions", package]))?;
    let version = shown.lines().find_map(|line| line.strip_prefix("Version: "));
    let version = version.with_context(|| format!("apt shows no version of {package}"))?;
    let name = format!("{package}_{version}");
    let tree = cache()?.join(name.replace(['/', ':'], "_"));
    if !tree.join("boot").exists() {
        download(package, version, &tree)?;
    }
    let release = package.trim_start_matches("linux-image-").to_owned();
    Ok(Kernel { name, release, tree })
}

/// The package with the highest version in its name, of `apt-cache search`'s lines.
fn newest(found: &str) -> Option<&str> {
    let packages = found.lines().filter_map(|line| line.split_whitespace().next());
    packages.max_by_key(|package| {
        let numbers = package.split(|c: char| !c.is_ascii_digit());
        numbers.filter_map(|number| number.parse::<u32>().ok()).collect::<Vec<_>>()
    })
}

/// Unpacks beside the place and renames, so that what is there is whole.
fn download(package: &str, version: &str, tree: &Path) -> Result<()> {
    println!("    apt-get download {package}={version}");
    let fresh = tree.with_extension(format!("new-{}", std::process::id()));
    fs::create_dir_all(&fresh).with_context(|| format!("cannot make {}", fresh.display()))?;
    let mut get = Command::new("apt-get");
    get.args(["-qq", "download", &format!("{package}={version}")]).current_dir(&fresh);
    // As root, apt reads for its own user, which may not look in here; it says so and goes on.
    run_for_output(get.args(["-o", "APT::Sandbox::User=root"]))?;
    let deb = fs::read_dir(&fresh)?.filter_map(Result::ok).map(|entry| entry.path());
    let deb = deb.into_iter().find(|path| path.extension().is_some_and(|end| end == "deb"));
    let deb = deb.with_context(|| format!("apt-get left no package in {}", fresh.display()))?;
    run_for_output(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&fresh))?;
    fs::remove_file(&deb)?;
    fs::rename(&fresh, tree).with_context(|| format!("cannot make {}", tree.display()))
}

fn cache() -> Result<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = base.or_else(home).context("neither XDG_CACHE_HOME nor HOME is set")?;
    let cache = cache.join("adit").join("kernels");
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    Ok(cache)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let found = "linux-image-6.1.0-9-cloud-amd64 - Linux 6.1 for x86-64 cloud (signed)\n\
                     linux-image-6.1.0-56-cloud-amd64 - Linux 6.1 for x86-64 cloud (signed)\n\
                     linux-image-6.1.0-49-cloud-amd64 - Linux 6.1 for x86-64 cloud (signed)\n";
        assert_eq!(newest(found), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(newest(""), None);
    }
}
