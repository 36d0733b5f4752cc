//! Finds a compiler that can build for BPF: it needs the sources of Rust's standard library
//! (`-Z build-std`), and a bpf-linker made for an LLVM at least as new as the compiler's.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// A compiler, its linker, and their versions.
#[derive(Debug)]
pub(super) struct Toolchain {
    pub cargo: PathBuf,
    pub rustc_path: PathBuf,
    pub linker_path: PathBuf,
    /// The standard library's sources.
    pub library: PathBuf,
    pub cargo_home: PathBuf,
    /// Whether it is a stable compiler, to be told that it may use unstable features.
    pub bootstrap: bool,
    pub rustc: String,
    pub llvm: String,
    pub linker: String,
}

impl Toolchain {
    pub(super) fn find() -> Result<Self> {
        let cargo_home = cargo_home()?;
        let (linker_path, linker) = linker(&cargo_home)?;
        let mut missing = Vec::new();
        for rustc in candidates() {
            let Some((sysroot, rustc_version, llvm)) = describe(&rustc) else {
                continue;
            };
            let library = sysroot.join("lib/rustlib/src/rust/library");
            if !library.join("core/src/lib.rs").exists() {
                missing.push(format!(
                    "{} has no sources at {}",
                    rustc.display(),
                    library.display()
                ));
                continue;
            }
            let cargo = rustc.with_file_name("cargo");
            if !cargo.exists() {
                missing.push(format!("{} has no cargo beside it", rustc.display()));
                continue;
            }
            return Ok(Self {
                cargo,
                library,
                bootstrap: !rustc_version.contains("nightly"),
                rustc_path: rustc,
                linker_path,
                cargo_home,
                rustc: rustc_version,
                llvm,
                linker,
            });
        }
        bail!(
            "no Rust compiler here can build for BPF, because the standard library's sources are \
             missing:\n  {}\nInstall them with one of\n  \
             rustup toolchain install nightly --component rust-src\n  \
             rustup component add rust-src\n  \
             apt-get install rustc-web cargo-web rust-web-src     # Debian",
            missing.join("\n  ")
        )
    }
}

/// Compilers, the preferred first: the distribution's, whose version is the same for everybody who
/// has it, then rustup's.
fn candidates() -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/usr/bin/rustc")];
    for toolchain in ["nightly", "stable"] {
        let answer =
            Command::new("rustup").args(["which", "rustc", "--toolchain", toolchain]).output();
        if let Ok(answer) = answer
            && answer.status.success()
        {
            let path = String::from_utf8_lossy(&answer.stdout);
            found.push(PathBuf::from(path.trim()));
        }
    }
    found.retain(|path| path.exists());
    found
}

/// The sysroot of a compiler, its version and its LLVM's.
fn describe(rustc: &Path) -> Option<(PathBuf, String, String)> {
    let sysroot = PathBuf::from(output(rustc, &["--print", "sysroot"])?.trim());
    let version = output(rustc, &["-vV"])?;
    let field = |name: &str| {
        let line = version.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim().to_owned())
    };
    // The commit tells apart the nightlies of one version.
    let release = field("release:")?;
    let rustc = match field("commit-hash:") {
        Some(commit) if commit != "unknown" => format!("{release} ({})", commit.get(..9)?),
        _ => release,
    };
    Some((sysroot, rustc, field("LLVM version:")?))
}

fn linker(cargo_home: &Path) -> Result<(PathBuf, String)> {
    let in_path = env::var_os("PATH").unwrap_or_default();
    let path = env::split_paths(&in_path)
        .chain([cargo_home.join("bin")])
        .map(|directory| directory.join("bpf-linker"))
        .find(|path| path.exists())
        .context(
            "bpf-linker is missing. Install it for an LLVM at least as new as the compiler's: \
             cargo install bpf-linker --version 0.13.0 --locked     # needs llvm-22-dev",
        )?;
    let version = output(&path, &["--version"])
        .with_context(|| format!("{} does not run", path.display()))?;
    let version = version.split_whitespace().last().unwrap_or("unknown");
    Ok((path, version.to_owned()))
}

fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = env::var_os("CARGO_HOME") {
        return Ok(PathBuf::from(home));
    }
    let home = env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?;
    Ok(Path::new(&home).join(".cargo"))
}

fn output(program: &Path, arguments: &[&str]) -> Option<String> {
    let answer = Command::new(program).args(arguments).output().ok()?;
    answer.status.success().then(|| String::from_utf8_lossy(&answer.stdout).into_owned())
}
