//! `cargo xtask cluster`: a real Kubernetes on this machine, made by the scripts of `tests/cluster`.

mod images;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;

use crate::image;
use crate::program::{Profile, Programs};
use crate::step::{cargo, execute, step};
use crate::test::is_root;

/// Where what was built is kept, unless ADIT_K8S_ROOT names another place.
const CACHE: &str = "/var/cache/adit-k8s";

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Build what it consists of, if that is not there yet: minutes, once
    Prepare,
    /// Start etcd, the control plane and two nodes; the first time, build them
    Up,
    /// Build adit's image and give it to the nodes
    Load {
        /// Build without optimisation, quicker
        #[arg(long)]
        dev: bool,
    },
    /// Start it, walk through everything that docs/kubernetes.md promises, and end it
    Test {
        /// Leave it running, also after a failure
        #[arg(long)]
        keep: bool,
        /// Build adit without optimisation, quicker
        #[arg(long)]
        dev: bool,
    },
    /// What 5,000 pods cost an agent: a real API server, objects without a kubelet (minutes; a quiet machine)
    Scale,
    /// Run kubectl against the cluster
    Kubectl {
        /// What kubectl is told
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// End it and leave nothing but what was built
    Down,
}

/// Does it.
pub(crate) fn run(root: &Path, action: &Action) -> Result<()> {
    if !is_root() {
        bail!("the cluster's nodes are namespaces of this machine: run this as root");
    }
    let cluster = Cluster::new(root);
    match action {
        Action::Prepare => cluster.prepare(),
        Action::Up => cluster.up(),
        Action::Load { dev } => cluster.load(*dev),
        Action::Test { keep: true, dev } => cluster.test(*dev),
        Action::Test { keep: false, dev } => cluster.test_and_end(*dev),
        Action::Scale => {
            cluster.prepare()?;
            cluster.scale()
        }
        Action::Kubectl { arguments } => execute(cluster.script("kubectl.sh").args(arguments)),
        Action::Down => cluster.down(),
    }
}

/// The cluster of this checkout.
struct Cluster<'a> {
    root: &'a Path,
    cache: PathBuf,
}

impl<'a> Cluster<'a> {
    fn new(root: &'a Path) -> Self {
        let cache = env::var_os("ADIT_K8S_ROOT").map_or_else(|| CACHE.into(), PathBuf::from);
        Self { root, cache }
    }

    #[expect(clippy::print_stdout, reason = "a task talks to its user")]
    fn up(&self) -> Result<()> {
        self.prepare()?;
        step("the images of pods", || images::write(&self.cache))?;
        step("cluster", || execute(&mut self.script("up.sh")))?;
        println!("\nLook around with `cargo xtask cluster kubectl get pods -A`.");
        Ok(())
    }

    fn prepare(&self) -> Result<()> {
        self.check_tools()?;
        step("the cluster's parts", || execute(&mut self.script("prepare.sh")))
    }

    fn down(&self) -> Result<()> {
        execute(&mut self.script("down.sh"))
    }

    fn test(&self, dev: bool) -> Result<()> {
        let programs = Programs::build(self.root, Profile::Dev)?;
        step("image", || image::run(self.root, &image::Options::dev(dev)).map(drop))?;
        self.up()?;
        self.load(dev)?;
        let mut command = Command::new(programs.path("cluster"));
        command.env("ADIT_K8S_ROOT", &self.cache);
        command.env("ADIT_K8S_SCRIPTS", self.root.join("tests/cluster"));
        step("cases", || execute(&mut command))
    }

    /// The cluster ends whatever the tests say.
    fn test_and_end(&self, dev: bool) -> Result<()> {
        let tested = self.test(dev);
        let ended = self.down();
        tested.and(ended)
    }

    fn scale(&self) -> Result<()> {
        let programs = Programs::build(self.root, Profile::Release)?;
        let arguments = ["test", "--locked", "--test", "apiserver", "scale", "--"];
        let mut measurement = cargo(self.root, &arguments);
        measurement.args(["--ignored", "--nocapture", "--test-threads=1"]);
        measurement.env("ADIT_K8S_ROOT", &self.cache).env("ADIT_K8S_REQUIRE", "1");
        execute(measurement.env("ADIT_BIN", programs.path("adit")))
    }

    fn load(&self, dev: bool) -> Result<()> {
        let archive = image::run(self.root, &image::Options::dev(dev))?;
        for node in ["n1", "n2"] {
            execute(self.script("node.sh").args(["load", node]).arg(&archive))?;
        }
        Ok(())
    }

    fn check_tools(&self) -> Result<()> {
        let missing: Vec<&str> = ["cc", "openssl", "curl", "unzip", "dpkg", "nsenter", "sysctl"]
            .into_iter()
            .filter(|tool| Command::new(tool).arg("--help").output().is_err())
            .collect();
        if !missing.is_empty() {
            bail!("the cluster needs these programs, and they are missing: {}", missing.join(", "));
        }
        let parent = self.cache.parent().context("ADIT_K8S_ROOT must be an absolute path")?;
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))
    }

    fn script(&self, name: &str) -> Command {
        let mut command = Command::new(self.root.join("tests/cluster").join(name));
        command.env("ADIT_K8S_ROOT", &self.cache);
        command
    }
}
