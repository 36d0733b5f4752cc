//! `cargo xtask arch`: the rules of the architecture that a line scan can check. Comments and test
//! modules are not looked at.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The modules of `node-agent/src`, lowest row first. A module names modules of lower rows only.
const LAYERS: &[&[&str]] = &[
    &["telemetry", "sys", "shutdown", "pki", "proto"],
    &["datapath", "identity", "discovery", "observer"],
    &["tunnel"],
    &["proxy"],
    &["worker"],
    &["enrol", "ca"],
    &["cni", "announce"],
    &["admin"],
    &["config"],
    &["app"],
    &["cli"],
];

/// Modules that may name any other: the list of modules, the entry point, the test kit.
const FREE: &[&str] = &["lib", "main", "testing"];

/// Crates that touch the outside, and the modules that may name them.
const OWNED: &[(&str, &[&str])] = &[
    ("aya", &["datapath"]),
    ("rtnetlink", &["datapath"]),
    ("nix", &["sys"]),
    ("h2", &["tunnel"]),
    ("k8s_openapi", &["discovery"]),
    ("kube", &["discovery", "ca", "announce"]),
    ("notify", &["discovery"]),
    ("rcgen", &["pki", "identity"]),
    ("serde_yaml", &["config", "discovery", "cli", "ca"]),
    ("axum", &["admin"]),
    ("hyper", &["admin", "cli"]),
    ("clap", &["cli"]),
    ("tracing_subscriber", &["telemetry"]),
];

/// Parts of them that touch nothing: anybody may name these.
const HARMLESS: &[&str] = &["nix::errno::"];

/// All that `adit-core` may depend on.
const CORE: &[&str] = &["adit-shared", "thiserror"];

const LONGEST: usize = 600;
const MEMBERS: &[&str] = &["node-agent", "node-agent/core", "shared", "ebpf", "tests", "xtask"];

/// Checks the workspace below `root`.
pub(crate) fn run(root: &Path) -> Result<()> {
    let found = violations(root)?;
    if !found.is_empty() {
        bail!("{} violations:\n{}", found.len(), found.join("\n"));
    }
    Ok(())
}

fn violations(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for member in MEMBERS {
        check_manifest(&root.join(member).join("Cargo.toml"), member, &mut found)?;
        for folder in ["src", "cases"] {
            for file in rust_files(&root.join(member).join(folder))? {
                let text = read(&file)?;
                let shown = file.strip_prefix(root).unwrap_or(&file).display();
                let lines = text.lines().count();
                if lines > LONGEST {
                    found.push(format!("{shown}: {lines} lines, more than {LONGEST}: split it"));
                }
            }
        }
    }
    let source = root.join("node-agent/src");
    let files = rust_files(&source)?;
    let texts: Vec<String> = files.iter().map(|file| read(file)).collect::<Result<_>>()?;
    let paths: Vec<&Path> =
        files.iter().map(|file| file.strip_prefix(&source).unwrap_or(file)).collect();
    let sources = || paths.iter().zip(&texts);
    let tests: Vec<Vec<String>> =
        sources().flat_map(|(path, text)| test_modules(path, text)).collect();
    for (path, text) in sources() {
        let module = module_path(path);
        if !tests.iter().any(|test| module.starts_with(test)) {
            check_file(&Path::new("node-agent/src").join(path), &module, text, &mut found);
        }
    }
    Ok(found)
}

fn check_file(shown: &Path, module: &[String], text: &str, found: &mut Vec<String>) {
    let Some(top) = module.first().map(String::as_str) else {
        return;
    };
    let row = LAYERS.iter().position(|row| row.contains(&top));
    let free = FREE.contains(&top);
    if row.is_none() && !free {
        let shown = shown.display();
        found.push(format!("{shown}: module `{top}` has no row in LAYERS of xtask/src/arch.rs"));
    }
    for (index, line) in code_lines(text) {
        let mut report =
            |what: String| found.push(format!("{}:{}: {what}", shown.display(), index + 1));
        for named in after(line, "crate::").filter(|_| !free) {
            if named.starts_with('{') {
                report("`crate::{…}`: write one `use crate::module::…` each".to_owned());
            }
            let name = identifier(named);
            let below = LAYERS.iter().position(|row| row.contains(&name));
            if name != top && below >= row && !name.is_empty() {
                report(format!("`{top}` names `crate::{name}`, which is not in a lower row"));
            }
        }
        if line.contains(&"super::".repeat(module.len())) && !free {
            report("`super` reaches the root: write `crate::`".to_owned());
        }
        for (owned, owners) in OWNED {
            let harmless = HARMLESS.iter().any(|path| line.contains(path));
            let names = !harmless && after(line, &format!("{owned}::")).next().is_some();
            if names && !owners.contains(&top) && top != "testing" {
                report(format!("`{owned}` belongs to {}", owners.join(", ")));
            }
        }
    }
}

/// What follows each place where `path` stands as a whole segment at the start of a path.
fn after<'a>(line: &'a str, path: &str) -> impl Iterator<Item = &'a str> {
    let ends = line.match_indices(path).map(|(at, text)| (at, at + text.len()));
    ends.filter_map(|(start, end)| {
        let before = line.get(..start)?.chars().next_back();
        let inside = before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '$'));
        if inside { None } else { line.get(end..) }
    })
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    text.get(..end.unwrap_or(text.len())).unwrap_or_default()
}

/// The numbered lines that are code, up to the test module.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| {
        matches!(pair, [cfg, module] if cfg.starts_with("#[cfg(test)]") && (module.starts_with("mod tests") || module.starts_with("pub(crate) mod tests")))
    });
    let code = lines.into_iter().take(tests.unwrap_or(usize::MAX)).enumerate();
    code.map(|(index, line)| (index, line.split("//").next().unwrap_or_default()))
}

fn check_manifest(path: &Path, member: &str, found: &mut Vec<String>) -> Result<()> {
    let text = read(path)?;
    let section = |name: &'static str| {
        let lines = text.lines().skip_while(move |line| *line != name).skip(1);
        lines.take_while(|line| !line.starts_with('['))
    };
    if !section("[lints]").any(|line| line == "workspace = true") {
        found.push(format!("{member}/Cargo.toml: does not inherit the lints of the workspace"));
    }
    if member == "node-agent/core" {
        let names =
            section("[dependencies]").filter(|line| !line.is_empty() && !line.starts_with('#'));
        for name in names.map(|line| line.split(['.', ' ', '=']).next().unwrap_or_default()) {
            if !CORE.contains(&name) {
                found.push(format!("{member}/Cargo.toml: core must not depend on `{name}`"));
            }
        }
    }
    Ok(())
}

fn module_path(path: &Path) -> Vec<String> {
    let parts = path.with_extension("");
    let names = parts.iter().map(|part| part.to_string_lossy().into_owned());
    names.filter(|name| name != "mod").collect()
}

/// The modules in files of their own that a file declares under `#[cfg(test)]`.
fn test_modules(path: &Path, text: &str) -> Vec<Vec<String>> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let declared = lines.windows(2).filter_map(|pair| match pair {
        ["#[cfg(test)]", line] => line.rsplit_once("mod ")?.1.strip_suffix(';'),
        _ => None,
    });
    let mut parent = module_path(path);
    parent.retain(|name| name != "lib");
    let child = |name: &str| [parent.clone(), vec![name.to_owned()]].concat();
    declared.map(child).collect()
}

fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let Ok(entries) = fs::read_dir(directory) else {
        return Ok(files);
    };
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", directory.display()))?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests;
