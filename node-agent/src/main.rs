//! The `adit` binary: what it does itself, and the command line that chooses.

use std::process::ExitCode;

use adit::app;
use adit::cli::{self, Finding, Local};
use adit::datapath::probe::{self, Probe};
use adit::datapath::{self, Settings};
use adit::sys::process;

fn main() -> ExitCode {
    cli::main(&Local {
        run: |options| app::run(Some(&options.config)),
        ca_serve: |options| app::ca::serve(options.service, options.manifests, &options.log),
        probe: |options| {
            require_root("loads programs to see what the kernel takes")?;
            let settings = Settings { pins: options.pins, ..Settings::default() };
            Ok(probe::probe(&settings).into_iter().map(finding).collect())
        },
        is_root: adit::sys::process::is_root,
        cleanup: |options| {
            require_root("removes programs from the kernel")?;
            let settings = Settings { pins: options.pins, ..Settings::default() };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(datapath::cleanup::cleanup(&settings, options.force))?)
        },
    })
}

/// What an ordinary user is refused would look like something that the kernel lacks.
fn require_root(why: &str) -> anyhow::Result<()> {
    anyhow::ensure!(process::is_root(), "run it as root: it {why}");
    Ok(())
}

fn finding(probe: Probe) -> Finding {
    let Probe { feature, needed_for, found, consequence, required } = probe;
    let available = found.is_ok();
    let found = found.unwrap_or_else(|why| why);
    let (feature, needed_for) = (feature.to_owned(), needed_for.to_owned());
    let consequence = consequence.to_owned();
    Finding { feature, needed_for, available, found, consequence, required }
}
