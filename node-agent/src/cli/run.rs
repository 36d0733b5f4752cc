//! `adit run`.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;

/// What describes the settings: the table of them.
/// Where the configuration is, unless another place is given.
pub const CONFIG: &str = "/etc/adit/config.yaml";

const DOCUMENT: &str = include_str!("../../../docs/configuration.md");

const EXAMPLES: &str = "\
Examples:
  adit run --config /etc/adit/config.yaml
  ADIT_LOG=debug adit run";

/// The arguments of `adit run`.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{}", settings(DOCUMENT)))]
pub struct RunOptions {
    /// The configuration, in YAML
    #[arg(short, long, env = "ADIT_CONFIG", default_value = CONFIG)]
    pub config: PathBuf,
}

/// The rows of the document's first table, as text: key, default, meaning.
fn settings(document: &str) -> String {
    let mut text = "Settings of the configuration file (default):\n".to_owned();
    let rows = document.lines().skip_while(|line| !line.starts_with("|---"));
    for row in rows.skip(1).take_while(|line| line.starts_with('|')) {
        let row = row.replace('`', "");
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        if let [key, default, meaning] = *cells.as_slice() {
            let default = if default.is_empty() { "none" } else { default };
            // A String takes every write.
            let _always = writeln!(text, "  {key} ({default})\n      {meaning}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_lists_every_setting_of_the_document() {
        let text = settings(DOCUMENT);
        for line in [
            "  node (the host's name)\n      this node, as pods name it in spec.nodeName\n",
            "  drain.deadline (30s)\n",
            "  identity.ca.address (none)\n",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        assert!(!text.contains('|') && !text.contains("Tokens"), "{text}");
    }
}
