//! The program of the image: static, and the same bytes wherever its sources lie.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::program::{Profile, Programs, STATIC, check_static_libc, directory, target, triple};
use crate::step::{cargo, execute};

/// Builds `adit` from the checkout at `root` as it is shipped; returns its bytes, which hold no path of this
/// machine.
pub(super) fn build(root: &Path) -> Result<Vec<u8>> {
    check_static_libc()?;
    let places = Places::find(root)?;
    let mut command = cargo(root, &["build", "--quiet", "--locked", "-p", "adit"]);
    // With a target, the flags are not for build scripts and macros, which cargo shares with others.
    command.args(["--target", &triple(), "--release"]);
    command.env("CARGO_ENCODED_RUSTFLAGS", places.flags());
    command.env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    // What is compiled together would depend on what was built before.
    command.env("CARGO_INCREMENTAL", "0");
    execute(&mut command)?;
    let path = path(&target(root));
    let program = read(&path)?;
    if let Some(found) = places.found_in(&program) {
        bail!("{} holds the path {found}: another machine would build another one", path.display());
    }
    Ok(program)
}

/// The one that tasks run, for a cluster of tests: neither optimised nor the same everywhere.
pub(super) fn build_quickly(root: &Path) -> Result<Vec<u8>> {
    let program = Programs::build(root, Profile::Dev)?.path("adit");
    // A tenth of it, without what a debugger reads.
    let stripped = target(root).join("image").join("adit");
    fs::create_dir_all(target(root).join("image")).context("cannot make the image's directory")?;
    execute(Command::new("strip").arg("-o").arg(&stripped).arg(&program))?;
    read(&stripped)
}

/// Where cargo puts the one that is shipped.
pub(super) fn path(target: &Path) -> PathBuf {
    directory(target, Profile::Release).join("adit")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let program = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if is_dynamic(&program) {
        bail!("{} needs a dynamic loader: it would not start in the image", path.display());
    }
    Ok(program)
}

/// Directories of this machine that the compiler meets, with what the program calls them.
struct Places(Vec<(PathBuf, String)>);

impl Places {
    fn find(root: &Path) -> Result<Self> {
        let home = env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
        let home = home.context("neither CARGO_HOME nor HOME is set")?;
        let rustc = env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
        let sysroot = PathBuf::from(OsString::from_vec(tell(&rustc, &["--print", "sysroot"])?));
        let version = String::from_utf8(tell(&rustc, &["--version", "--verbose"])?)?;
        let commit = version.lines().find_map(|line| line.strip_prefix("commit-hash: "));
        // What the standard library's own build calls its sources, whether they are installed or not.
        let library = format!("/rustc/{}", commit.context("rustc tells no commit-hash")?);
        // The compiler goes by the last one that fits.
        Ok(Self(vec![
            (root.to_owned(), "/adit".to_owned()),
            (target(root), "/adit/target".to_owned()),
            (home, "/cargo".to_owned()),
            (sysroot.join("lib/rustlib/src/rust"), library),
        ]))
    }

    /// As CARGO_ENCODED_RUSTFLAGS takes them.
    fn flags(&self) -> OsString {
        let mut flags = OsString::from(STATIC);
        for (from, to) in &self.0 {
            flags.push("\u{1f}--remap-path-prefix=");
            flags.push(from);
            flags.push("=");
            flags.push(to);
        }
        flags
    }

    /// The first of them that stands in a program. One like `/src` also stands in the middle of others, and
    /// tells nothing.
    fn found_in(&self, program: &[u8]) -> Option<String> {
        let telling = self
            .0
            .iter()
            .filter(|(from, to)| from.components().count() > 2 && from.as_path() != Path::new(to));
        let found = telling
            .map(|(from, _)| from.as_os_str().as_bytes())
            .find(|path| program.windows(path.len()).any(|window| window == *path));
        found.map(|path| String::from_utf8_lossy(path).into_owned())
    }
}

/// What a program prints, without the end of its last line.
fn tell(program: &OsString, arguments: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(program).args(arguments).output().context("cannot start rustc")?;
    if !output.status.success() {
        bail!("rustc {}: {}", arguments.join(" "), output.status);
    }
    Ok(output.stdout.trim_ascii_end().to_vec())
}

/// Whether an ELF file has a program header PT_INTERP (elf(5)); true also for what is no ELF file.
fn is_dynamic(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let half = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_le_bytes(elf.get(at..at + 4)?.try_into().ok()?));
    let headers = || {
        // ELF64: e_phoff, e_phentsize, e_phnum.
        let start = usize::try_from(word(0x20)?).ok()?;
        let (size, count) = (usize::from(half(0x36)?), usize::from(half(0x38)?));
        (0..count).map(|index| word(start + index * size)).collect::<Option<Vec<u32>>>()
    };
    let is_elf64 = elf.starts_with(b"\x7fELF\x02\x01");
    !is_elf64 || headers().is_none_or(|kinds| kinds.contains(&PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_an_interpreter_is_dynamic() {
        // The test itself is.
        let own = fs::read(env::current_exe().unwrap()).unwrap();
        assert!(is_dynamic(&own));
        assert!(is_dynamic(b"#!/bin/sh\n"));
        assert!(is_dynamic(b""));
    }

    #[test]
    fn a_program_without_one_is_not() {
        let mut elf = vec![0; 0x78];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[0x20] = 0x40; // e_phoff
        elf[0x36] = 0x38; // e_phentsize
        elf[0x38] = 1; // e_phnum
        elf[0x40] = 1; // PT_LOAD
        assert!(!is_dynamic(&elf));
        elf[0x40] = 3; // PT_INTERP
        assert!(is_dynamic(&elf));
    }

    #[test]
    fn a_path_of_the_machine_is_found_in_a_program() {
        let places = Places(vec![
            (PathBuf::from("/home/ann/adit"), "/adit".to_owned()),
            (PathBuf::from("/home/ann/.cargo"), "/cargo".to_owned()),
        ]);
        let program = b"\x7fELF\0/home/ann/.cargo/registry/src/lib.rs\0";
        assert_eq!(places.found_in(program).unwrap(), "/home/ann/.cargo");
        assert_eq!(places.found_in(b"\x7fELF\0/cargo/registry/src/lib.rs\0/home/ann"), None);
        let places = Places(vec![
            (PathBuf::from("/src"), "/adit".to_owned()),
            (PathBuf::from("/adit/target"), "/adit/target".to_owned()),
        ]);
        assert_eq!(places.found_in(b"\x7fELF\0/cargo/registry/src/lib.rs\0/adit/target/a"), None);
    }
}
