//! Golden files: what the admin API and the commands print, byte by byte. Renewed by `BLESS=1`.

use std::path::Path;

/// Compares `actual` with the golden file of this name, or writes it.
#[track_caller]
pub(crate) fn check(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, actual).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == actual,
        "{} differs; run with BLESS=1 and look at the difference.\nexpected:\n{expected}\n\
         actual:\n{actual}",
        path.display()
    );
}
