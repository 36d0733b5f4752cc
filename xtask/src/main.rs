//! adit's development tasks. `cargo xtask ci` is what CI runs.

mod arch;
mod bench;
mod bless;
mod ci;
mod cluster;
mod demo;
mod ebpf;
mod fuzz;
mod image;
mod kernels;
mod program;
mod proto;
mod step;
mod test;

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "adit's development tasks", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything that CI checks, in the same order
    Ci,
    /// The unit tests, then the end-to-end tests (which need root)
    Test {
        /// Only the end-to-end tests whose name contains this
        filter: Option<String>,
    },
    /// Two nodes, a few pods and real traffic, explained step by step (needs root)
    Demo {
        /// Another story than the tour
        #[arg(conflicts_with_all = ["keep", "clean"])]
        story: Option<demo::Story>,
        /// Leave it running and say how to look around
        #[arg(long)]
        keep: bool,
        /// Remove what `--keep` left running
        #[arg(long, conflicts_with = "keep")]
        clean: bool,
    },
    /// The same work with and without adit, by turns (needs root and a quiet machine)
    Bench(bench::Options),
    /// Build the eBPF object from its sources
    Ebpf {
        /// Only check that the committed object is what the sources give
        #[arg(long)]
        check: bool,
    },
    /// The datapath's tests on other kernels, in emulated machines (needs qemu-system-x86 and apt)
    Kernels {
        /// Only the kernel of this series, such as 6.1
        series: Option<String>,
    },
    /// Generate the Rust code of the protobuf definitions
    Proto {
        /// Only check that the committed code is what the definitions give
        #[arg(long)]
        check: bool,
    },
    /// A static `adit` in an OCI archive, to load or push
    Image(image::Options),
    /// A real Kubernetes on this machine (needs root, a C compiler and apt)
    #[command(subcommand)]
    Cluster(cluster::Action),
    /// Let libFuzzer look for inputs that break a target (needs nightly Rust and cargo-fuzz)
    Fuzz {
        /// The target, such as `pool`
        target: String,
        /// How long
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Instead, add to the committed corpus what runs found and reaches more code
        #[arg(long)]
        merge: bool,
    },
    /// Check the layers, the owners of outside crates and the size of files
    Arch,
    /// Renew the golden files that tests compare with; look at the difference before you commit it
    Bless,
}

#[expect(clippy::print_stderr, reason = "a task reports its failure to its user")]
fn main() -> ExitCode {
    // Cargo sets it for what it runs; the manifest's directory is <root>/xtask.
    let manifest = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let root = manifest.as_deref().and_then(|path| path.parent());
    let Some(root) = root else {
        eprintln!("error: start this with `cargo xtask`");
        return ExitCode::FAILURE;
    };
    let result = match Arguments::parse().task {
        Task::Ci => ci::run(root),
        Task::Test { filter } => test::run(root, filter.as_deref()),
        Task::Demo { story, keep, clean } => demo::run(root, story, keep, clean),
        Task::Bench(options) => bench::run(root, &options),
        Task::Ebpf { check } => ebpf::run(check),
        Task::Kernels { series } => kernels::run(root, series.as_deref()),
        Task::Proto { check } => proto::run(root, check),
        Task::Fuzz { target, seconds, merge } => fuzz::run(root, &target, seconds, merge),
        Task::Image(options) => image::run(root, &options).map(drop),
        Task::Cluster(action) => cluster::run(root, &action),
        Task::Arch => arch::run(root),
        Task::Bless => bless::run(root),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
