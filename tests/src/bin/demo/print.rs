//! How the demo speaks: numbered steps, the commands it runs, what they printed.
#![expect(clippy::print_stdout, reason = "the demo is there to be read")]

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU32, Ordering};

/// A voice, in colour only on a terminal.
#[derive(Debug)]
pub(crate) struct Voice {
    colour: bool,
    steps: AtomicU32,
}

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const YELLOW: &str = "33";

impl Voice {
    pub(crate) fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none();
        Self { colour: wanted && std::io::stdout().is_terminal(), steps: AtomicU32::new(0) }
    }

    /// Begins the next step.
    pub(crate) fn step(&self, title: &str) {
        let number = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        println!("\n{}", self.paint(BOLD, &format!("{number}. {title}")));
    }

    /// Explains.
    pub(crate) fn say(&self, text: &str) {
        for line in text.lines() {
            println!("   {line}");
        }
    }

    /// Shows a command and what it printed.
    pub(crate) fn command(&self, command: &str, printed: &str) {
        println!("\n   {}", self.paint(DIM, &format!("$ {command}")));
        for line in printed.trim_end().lines() {
            println!("   {line}");
        }
    }

    /// A result as it should be for what is encrypted.
    pub(crate) fn good(&self, text: &str) {
        println!("   {}", self.paint(GREEN, text));
    }

    /// A result that is meant to make one think.
    pub(crate) fn note(&self, text: &str) {
        println!("   {}", self.paint(YELLOW, text));
    }

    /// An empty line.
    pub(crate) fn pause(&self) {
        println!();
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
