//! adit's development tasks.

mod ebpf;

use clap::Parser;

/// adit's development tasks.
#[derive(Debug, Parser)]
enum Task {
    /// Build the eBPF object that is committed.
    Ebpf {
        /// Fail if the committed object is not what the sources give.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::Ebpf { check } => ebpf::run(check),
    }
}
