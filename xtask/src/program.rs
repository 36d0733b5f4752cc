//! The programs that tasks run: adit, and what drives it: the demo, the benchmark, the walk through a cluster.
//!
//! They are static, as the image's program is: what is tested is what is shipped, and it runs in a guest or a
//! pod as it stands. One command builds them all, because cargo builds a library anew for every selection of
//! packages that asks for other features of it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::step::{cargo, execute};

/// How they are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quickly; the code of others is optimised.
    Dev,
    /// As it is shipped.
    Release,
}

/// Where they are.
#[derive(Debug)]
pub(crate) struct Programs {
    directory: PathBuf,
}

impl Programs {
    /// Builds them.
    pub(crate) fn build(root: &Path, profile: Profile) -> Result<Self> {
        check_static_libc()?;
        let mut command = cargo(root, &["build", "--quiet", "--locked", "--bins"]);
        command.args(["-p", "adit", "-p", "adit-e2e", "--target", &triple()]);
        // With a target, the flags are not for build scripts and macros.
        command.env("CARGO_ENCODED_RUSTFLAGS", STATIC);
        command.args(["--profile", profile.name()]);
        execute(&mut command)?;
        Ok(Self { directory: directory(&target(root), profile) })
    }

    /// The one with this name.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

impl Profile {
    const fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
        }
    }
}

/// Lets the compiler link the C library into a program.
pub(crate) const STATIC: &str = "-Ctarget-feature=+crt-static";

/// This machine's, as rustc calls it.
pub(crate) fn triple() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

/// Where cargo puts what it builds for [`triple`].
pub(crate) fn directory(target: &Path, profile: Profile) -> PathBuf {
    target.join(triple()).join(match profile {
        Profile::Dev => "debug",
        Profile::Release => "release",
    })
}

/// Cargo's directory for what it builds.
pub(crate) fn target(root: &Path) -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |path| root.join(path))
}

/// Debian, Ubuntu and Arch have it with the compiler's headers; Fedora and SUSE have it apart, and without it
/// the linker says no more than `cannot find -lc`.
pub(crate) fn check_static_libc() -> Result<()> {
    let said = Command::new("cc").arg("-print-file-name=libc.a").output();
    let Ok(said) = said else {
        bail!("there is no C compiler: install gcc (Debian: apt-get install gcc libc6-dev)");
    };
    // It repeats the name where it finds no such file.
    if said.stdout.trim_ascii() == b"libc.a" {
        bail!(
            "there is no static C library to link: install glibc-static (Fedora) or glibc-devel-static (SUSE)"
        );
    }
    Ok(())
}
