//! `cargo xtask ebpf`: builds the eBPF object that is committed as `ebpf/adit.bpf.o`.
//!
//! The node agent embeds the committed object, so that building it needs no BPF toolchain. What it
//! was built from and with stands in `ebpf/adit.bpf.toml`: a hash of the sources, and the versions
//! of compiler and linker. The same sources with the same versions give the same bytes.
#![expect(clippy::print_stdout, reason = "a command for people")]

mod record;
mod toolchain;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use record::Record;
use toolchain::Toolchain;

const OBJECT: &str = "ebpf/adit.bpf.o";
const RECORD: &str = "ebpf/adit.bpf.toml";
const TARGET: &str = "bpfel-unknown-none";

/// Builds the object and its record. With `check` the record must be that of the sources as they
/// are; where the toolchain is the recorded one the bytes must be the committed ones too, and where it
/// is another the fresh object takes the committed one's place, so that the tests run with it.
///
/// # Errors
/// A stale record, other bytes, a toolchain that is missing or a build that fails.
pub(crate) fn run(check: bool) -> Result<()> {
    let root = root()?;
    let sources = record::hash_sources(&root)?;
    let recorded = Record::read(&root.join(RECORD));
    if check {
        let recorded = recorded.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
        if recorded.sources != sources {
            bail!(
                "{OBJECT} is stale: it was built from other sources than those in ebpf/ and shared/. \
                 Run `cargo xtask ebpf` and commit {OBJECT} and {RECORD}"
            );
        }
        let committed = record::hash_file(&root.join(OBJECT))?;
        if recorded.object != committed {
            bail!("{OBJECT} is not the object that {RECORD} describes. Run `cargo xtask ebpf`");
        }
    }

    let toolchain = Toolchain::find()?;
    println!("rustc {}, LLVM {}, bpf-linker {}", toolchain.rustc, toolchain.llvm, toolchain.linker);
    let built = build(&root, &toolchain)?;
    let fresh = Record {
        sources,
        object: record::hash_file(&built)?,
        rustc: toolchain.rustc,
        llvm: toolchain.llvm,
        linker: toolchain.linker,
    };

    if !check {
        install(&built, &root)?;
        fresh.write(&root.join(RECORD))?;
        println!("wrote {OBJECT} and {RECORD}");
        return Ok(());
    }
    compare(&root, &built, &recorded?, &fresh)
}

fn compare(root: &Path, built: &Path, recorded: &Record, fresh: &Record) -> Result<()> {
    if !recorded.same_toolchain(fresh) {
        install(built, root)?;
        println!(
            "the committed object was built with rustc {}, LLVM {}, bpf-linker {}: its bytes cannot \
             be compared with this build. The sources match its record. {OBJECT} in this checkout is \
             now the fresh build, for the tests to run with; `git checkout {OBJECT}` takes it back",
            recorded.rustc, recorded.llvm, recorded.linker
        );
        return Ok(());
    }
    if recorded.object != fresh.object {
        bail!(
            "{OBJECT} differs from what its sources give with the same toolchain (see {}). \
             Run `cargo xtask ebpf` and commit both files",
            built.display()
        );
    }
    println!("{OBJECT} is what its sources give, byte for byte");
    Ok(())
}

/// The fresh object takes the place of the committed one.
fn install(built: &Path, root: &Path) -> Result<()> {
    let object = root.join(OBJECT);
    std::fs::copy(built, &object)
        .with_context(|| format!("copy {} to {}", built.display(), object.display()))?;
    Ok(())
}

fn build(root: &Path, toolchain: &Toolchain) -> Result<PathBuf> {
    // A target directory of its own: another compiler's artefacts would be thrown away each time.
    let target = root.join("ebpf/target");
    let mut command = Command::new(&toolchain.cargo);
    command
        .current_dir(root)
        .args(["build", "--package", "adit-ebpf", "--release", "--locked"])
        .args(["-Z", "build-std=core", "--target", TARGET, "--target-dir"])
        .arg(&target)
        // Encoded, because paths may contain spaces; and it takes the place of any RUSTFLAGS that
        // are meant for the host.
        .env("CARGO_ENCODED_RUSTFLAGS", flags(root, toolchain).join("\x1f"))
        .env("RUSTC", &toolchain.rustc_path)
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("CARGO_BUILD_TARGET");
    if toolchain.bootstrap {
        command.env("RUSTC_BOOTSTRAP", "1");
    }
    let status =
        command.status().with_context(|| format!("start {}", toolchain.cargo.display()))?;
    if !status.success() {
        bail!("the eBPF programs do not build ({status}); the compiler's messages stand above");
    }
    Ok(target.join(TARGET).join("release/adit-ebpf"))
}

fn flags(root: &Path, toolchain: &Toolchain) -> Vec<String> {
    let linker = toolchain.linker_path.display();
    let mut flags = vec![
        "-Cdebuginfo=2".to_owned(), // the maps' definitions are BTF, which comes from it
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={linker}"),
    ];
    // The debug information holds the paths of sources; none of them may depend on this machine.
    let resolved = toolchain.library.canonicalize();
    let resolved = resolved.as_deref().unwrap_or(&toolchain.library);
    for (from, to) in [
        (root, "/adit"),
        (&toolchain.cargo_home, "/cargo"),
        (&toolchain.library, "/rust/library"),
        (resolved, "/rust/library"), // a distribution may keep them behind a link
    ] {
        flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    }
    flags
}

fn root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.parent().context("the checkout's directory")?;
    Ok(root.to_path_buf())
}
