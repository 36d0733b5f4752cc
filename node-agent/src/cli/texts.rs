//! `adit completions` and `adit man`: made from the arguments themselves.

use std::io::Write;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::{Cli, Failed};

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell, as in `adit completions bash > /etc/bash_completion.d/adit`
    shell: Shell,
}

pub(super) fn completions(args: &CompletionsArgs, out: &mut dyn Write) -> Result<(), Failed> {
    // Into memory first: the generator panics where a write fails.
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "adit", &mut text);
    out.write_all(&text)?;
    Ok(())
}

pub(super) fn man(out: &mut dyn Write) -> Result<(), Failed> {
    let mut text = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut text)?;
    out.write_all(&text)?;
    Ok(())
}
