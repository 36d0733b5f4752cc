//! The `adit` binary: what it does itself, and the command line that chooses.

use std::path::PathBuf;
use std::process::ExitCode;

use adit::app;
use adit::cli::{self, CONFIG, DoctorOptions, Finding, Local};
use adit::cni;
use adit::config::{Config, ProcessEnvironment};
use adit::datapath::probe::{self, Probe};
use adit::datapath::{self, Settings};

fn main() -> ExitCode {
    cli::main(&Local {
        run: |options| app::run(Some(&options.config)),
        ca_serve: |options| app::ca::serve(options.service, options.source, &options.log),
        probe: |options| {
            let settings = probed(options)?;
            Ok(probe::probe(&settings).into_iter().map(finding).collect())
        },
        is_root: adit::sys::process::is_root,
        cleanup: |options| {
            let settings = Settings { pins: options.pins, ..Settings::default() };
            let plugin = cni::Settings {
                config_directory: options.cni_config,
                bin_directory: options.cni_bin,
                cache: options.cni_cache,
                ..cni::Settings::default()
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let pods = runtime.block_on(datapath::cleanup::cleanup(&settings, options.force))?;
            // Pods that start meanwhile are held until the plugin is gone.
            Ok([pods, cni::install::remove(&plugin)?].concat())
        },
    })
}

/// What an agent would run with here.
fn probed(options: DoctorOptions) -> anyhow::Result<Settings> {
    let usual = || Some(PathBuf::from(CONFIG)).filter(|file| file.exists());
    let settings = match options.config.or_else(usual) {
        Some(file) => Config::load(Some(&file), &ProcessEnvironment)?.datapath,
        None => Settings::default(),
    };
    Ok(Settings { pins: options.pins.unwrap_or(settings.pins), ..settings })
}

fn finding(probe: Probe) -> Finding {
    let Probe { feature, needed_for, found, consequence, required } = probe;
    let available = found.is_ok();
    let found = found.unwrap_or_else(|why| why);
    let (feature, needed_for) = (feature.to_owned(), needed_for.to_owned());
    let consequence = consequence.to_owned();
    Finding { feature, needed_for, available, found, consequence, required }
}
