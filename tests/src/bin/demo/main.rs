//! The demo: two nodes, a few pods and real traffic on one machine, told step by step.
//! Start it with `cargo xtask demo`.
#![expect(clippy::print_stderr, reason = "failures are told to the user")]

mod print;
mod rollout;
mod story;

use std::env;
use std::process::{self, ExitCode};
use std::thread;

use adit_e2e::{requirements, run};
use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::print::Voice;

const USAGE: &str = "usage: demo [--keep | --clean | rollout]";
/// This machine cannot run it.
const CANNOT_RUN: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let missing = requirements::missing();
    if !missing.is_empty() {
        eprintln!("The demo cannot run here:");
        for what in missing {
            eprintln!("  - {what}");
        }
        return ExitCode::from(CANNOT_RUN);
    }
    let voice = Voice::new();
    let result = match *arguments.as_slice() {
        [] => tell(&voice, false),
        ["--keep"] => tell(&voice, true),
        ["--clean"] => clean(&voice),
        ["rollout"] => clean_up_on_signals().and_then(|()| rollout::tell(&voice)),
        _ => Err(anyhow::anyhow!(USAGE)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn tell(voice: &Voice, keep: bool) -> Result<()> {
    clean_up_on_signals()?;
    story::tell(voice, keep)
}

fn clean(voice: &Voice) -> Result<()> {
    for (id, age) in run::kept() {
        voice.say(&format!("Run {id} was kept {} minutes ago: removing it …", age.as_secs() / 60));
    }
    let removed = [run::sweep_kept()?, run::sweep_dead()?].concat();
    if removed.is_empty() {
        voice.say("There was nothing to remove.");
    } else {
        voice.say(&format!("Removed: {}.", removed.join(", ")));
    }
    Ok(())
}

/// Ctrl-C and its kin end the demo at once and leave nothing behind. Everything is found by name,
/// so it does not matter what the story is doing in that moment.
#[expect(clippy::exit, reason = "the main thread may be in the middle of anything")]
fn clean_up_on_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot watch for signals")?;
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let [mut interrupt, mut terminate, mut hangup] = {
        let _inside = runtime.enter();
        let signals = kinds.map(signal);
        let signals: Result<Vec<_>, _> = signals.into_iter().collect();
        let signals = signals.context("cannot watch for signals")?;
        signals.try_into().ok().context("three signals")?
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        eprintln!("\nInterrupted: removing the demo …");
        if let Err(error) = run::sweep_mine() {
            eprintln!("{error:#}");
        }
        process::exit(130);
    });
    Ok(())
}
