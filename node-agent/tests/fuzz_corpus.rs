//! What fuzzing found interesting once, replayed; and the things that belong to a fuzz target.
#![cfg(test)]

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use adit::testing::fuzz::{TARGETS, run};

/// All corpora together, in bytes: they are part of every clone.
const LARGEST: u64 = 300 << 10;

#[test]
fn every_committed_input_is_handled() {
    let mut total = 0;
    for (name, _) in TARGETS {
        let files = files(&fuzz().join("corpus").join(name));
        assert!(!files.is_empty(), "tests/fuzz/corpus/{name} has no input");
        for file in files {
            let bytes = fs::read(&file).unwrap();
            total += bytes.len() as u64;
            let outcome = catch_unwind(|| run(name, &bytes));
            assert!(outcome.is_ok(), "fuzz target {name}: {}", file.display());
        }
    }
    assert!(total < LARGEST, "{total} bytes of inputs, of at most {LARGEST}");
}

#[test]
fn every_target_has_its_entrance_and_every_entrance_its_target() {
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        let entrance = fuzz().join(format!("fuzz_targets/{name}.rs"));
        let text = fs::read_to_string(&entrance).unwrap_or_default();
        let call = format!("adit::testing::fuzz::run(\"{name}\", bytes)");
        assert!(text.contains(&call), "{} does not call {call}", entrance.display());
        let binary = format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"\n");
        assert!(manifest.contains(&binary), "tests/fuzz/Cargo.toml has no [[bin]] {name}");
    }
    assert_eq!(files(&fuzz().join("fuzz_targets")).len(), TARGETS.len());
}

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz")
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}
