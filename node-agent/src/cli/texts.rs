//! `adit completions` and `adit man`: made from the arguments themselves.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli::{Cli, Context, Failed};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  adit completions bash > /etc/bash_completion.d/adit
  adit completions zsh > \"${fpath[1]}/_adit\"
  adit completions fish > ~/.config/fish/completions/adit.fish
  source <(adit completions bash)   for this shell only")]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  adit man | man -l -
  adit man /usr/local/share/man/man8   then: man adit-flows")]
pub(super) struct ManArgs {
    /// A directory for the pages of all commands, such as adit-flows.8
    directory: Option<PathBuf>,
}

pub(super) fn completions(args: &CompletionsArgs, out: &mut dyn Write) -> Result<(), Failed> {
    // Into memory first: the generator panics where a write fails.
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "adit", &mut text);
    out.write_all(&text)?;
    Ok(())
}

pub(super) fn man(args: &ManArgs, context: &mut Context<'_>) -> Result<(), Failed> {
    let mut command = Cli::command().disable_help_subcommand(true);
    let Some(directory) = &args.directory else {
        context.out.write_all(&page(command)?.1)?;
        return Ok(());
    };
    command.build();
    for command in with_subcommands(&command) {
        let (name, text) = page(command)?;
        let path = directory.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        writeln!(context.out, "{}", path.display())?;
    }
    Ok(())
}

/// A page of section 8: administration. Its file's name and its text.
fn page(command: clap::Command) -> Result<(String, Vec<u8>), Failed> {
    let man = Man::new(command).section("8").source("adit").manual("adit");
    let mut text = Vec::new();
    man.render(&mut text)?;
    Ok((man.get_filename(), text))
}

fn with_subcommands(command: &clap::Command) -> Vec<clap::Command> {
    let mut all = vec![command.clone()];
    all.extend(command.get_subcommands().flat_map(with_subcommands));
    all
}
