//! Broken trees, one rule each, beside a sound one.

use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A workspace in a temporary directory.
struct Tree(PathBuf);

impl Tree {
    fn sound() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let tree = Self(std::env::temp_dir().join(format!("adit-arch-{}-{number}", process::id())));
        for member in MEMBERS {
            let manifest = "[package]\n\n[dependencies]\n\n[lints]\nworkspace = true\n";
            tree.write(&format!("{member}/Cargo.toml"), manifest);
        }
        tree.write("node-agent/src/lib.rs", "pub mod proxy;\npub mod sys;\npub mod tunnel;\n");
        tree.write("node-agent/src/sys/mod.rs", "use nix::libc;\n");
        tree.write("node-agent/src/proxy/mod.rs", "use crate::tunnel::Stream;\n");
        tree.write(
            "node-agent/src/tunnel/mod.rs",
            "use h2::client;\nuse crate::tunnel::pool::Pool;\n",
        );
        tree
    }

    fn with(self, path: &str, text: &str) -> Self {
        self.write(path, text);
        self
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[track_caller]
    fn refused_for(&self, at: &str, what: &str) {
        let found = violations(&self.0).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(at), "{found:?}");
        assert!(found[0].contains(what), "{found:?}");
    }

    #[track_caller]
    fn accepted(&self) {
        assert_eq!(violations(&self.0).unwrap(), Vec::<String>::new());
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn accepts_a_sound_tree() {
    Tree::sound().accepted();
}

#[test]
fn refuses_a_module_that_names_a_higher_row() {
    let tree =
        Tree::sound().with("node-agent/src/tunnel/pool.rs", "\nfn f() { crate::proxy::g() }\n");
    tree.refused_for("node-agent/src/tunnel/pool.rs:2", "`crate::proxy`");
}

#[test]
fn refuses_a_module_that_names_its_own_row() {
    let tree = Tree::sound().with("node-agent/src/sys/mod.rs", "use crate::pki::Key;\n");
    tree.refused_for("node-agent/src/sys/mod.rs:1", "`crate::pki`");
}

#[test]
fn refuses_a_module_without_a_row() {
    let tree = Tree::sound().with("node-agent/src/utils.rs", "");
    tree.refused_for("node-agent/src/utils.rs", "no row");
}

#[test]
fn refuses_a_group_of_modules() {
    let tree = Tree::sound().with("node-agent/src/proxy/mod.rs", "use crate::{tunnel, sys};\n");
    tree.refused_for("node-agent/src/proxy/mod.rs:1", "crate::{");
}

#[test]
fn refuses_a_way_round_through_super() {
    let tree = Tree::sound().with("node-agent/src/tunnel/pool.rs", "use super::super::proxy;\n");
    tree.refused_for("node-agent/src/tunnel/pool.rs:1", "super");
    Tree::sound().with("node-agent/src/tunnel/pool.rs", "use super::Stream;\n").accepted();
}

#[test]
fn refuses_an_outside_crate_in_a_module_that_does_not_own_it() {
    let tree =
        Tree::sound().with("node-agent/src/proxy/connect.rs", "let x = aya::Ebpf::load();\n");
    tree.refused_for("node-agent/src/proxy/connect.rs:1", "`aya` belongs to datapath");
    Tree::sound().with("node-agent/src/proxy/connect.rs", "use raya::Ebpf;\n").accepted();
}

#[test]
fn refuses_a_member_without_the_lints() {
    let tree = Tree::sound().with("ebpf/Cargo.toml", "[package]\n");
    tree.refused_for("ebpf/Cargo.toml", "lints");
}

#[test]
fn refuses_a_core_that_can_do_io() {
    let manifest =
        "[dependencies]\nthiserror.workspace = true\ntokio = \"1\"\n[lints]\nworkspace = true\n";
    let tree = Tree::sound().with("node-agent/core/Cargo.toml", manifest);
    tree.refused_for("node-agent/core/Cargo.toml", "`tokio`");
}

#[test]
fn refuses_a_file_that_is_too_long() {
    let tree = Tree::sound().with("shared/src/lib.rs", &"\n".repeat(LONGEST + 1));
    tree.refused_for("shared/src/lib.rs", "split it");
}

#[test]
fn does_not_look_at_comments_and_tests() {
    let text = "// see crate::proxy\n#[cfg(test)]\nmod tests {\n    use crate::proxy::x;\n}\n";
    Tree::sound().with("node-agent/src/tunnel/pool.rs", text).accepted();
}

#[test]
fn does_not_look_at_test_modules_in_files_of_their_own() {
    let tree =
        Tree::sound().with("node-agent/src/tunnel/mod.rs", "#[cfg(test)]\npub(crate) mod mint;\n");
    let tree = tree.with("node-agent/src/tunnel/mint.rs", "use crate::proxy::x;\n");
    tree.accepted();
    Tree::sound()
        .with("node-agent/src/tunnel/mint.rs", "use crate::proxy::x;\n")
        .refused_for("node-agent/src/tunnel/mint.rs:1", "`crate::proxy`");
}
