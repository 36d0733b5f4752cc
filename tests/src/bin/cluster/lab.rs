//! The cluster that `cargo xtask cluster up` started, as the cases use it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use adit_e2e::netns::Netns;
use adit_e2e::wait::wait_for;
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// The nodes.
pub(crate) const NODES: [&str; 2] = ["n1", "n2"];

/// The address of the control plane's host, which is no node.
pub(crate) const CONTROL_PLANE: &str = "10.90.0.10";

/// A node's address.
pub(crate) fn address(node: &str) -> String {
    format!("10.90.0.1{}", node.trim_start_matches('n'))
}

/// The cluster.
#[derive(Debug)]
pub(crate) struct Lab {
    scripts: PathBuf,
    root: PathBuf,
}

impl Lab {
    /// As `cargo xtask cluster test` names it.
    pub(crate) fn from_environment() -> Result<Self> {
        let scripts =
            env::var_os("ADIT_K8S_SCRIPTS").context("start this with cargo xtask cluster test")?;
        let root = env::var_os("ADIT_K8S_ROOT").context("ADIT_K8S_ROOT is not set")?;
        Ok(Self { scripts: scripts.into(), root: root.into() })
    }

    /// A kustomization or a manifest of this checkout.
    pub(crate) fn file(&self, path: &str) -> String {
        self.scripts.join(path).display().to_string()
    }

    /// Runs kubectl and returns what it printed.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command("kubectl.sh", arguments).output().context("kubectl")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("kubectl {}: {}", arguments.join(" "), said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts kubectl; its output can be read when it has ended.
    pub(crate) fn start_kubectl(&self, arguments: &[&str]) -> Result<Child> {
        let mut command = self.command("kubectl.sh", arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("kubectl")
    }

    /// Runs a command on a node.
    pub(crate) fn on_node(&self, node: &str, command: &[&str]) -> Result<String> {
        let output = self.command("node.sh", &[&["exec", node], command].concat()).output()?;
        if !output.status.success() {
            bail!(
                "{node}: {}: {}",
                command.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Ends a part of a node and starts it again.
    pub(crate) fn restart(&self, node: &str, part: &str) -> Result<()> {
        self.run("restart.sh", &[node, part])
    }

    /// Ends every process and namespace of a node at once; its disk stays.
    pub(crate) fn crash(&self, node: &str) -> Result<()> {
        self.run("node.sh", &["crash", node])?;
        self.run("net.sh", &["lose", node])
    }

    /// Starts a node that crashed.
    pub(crate) fn boot(&self, node: &str) -> Result<()> {
        self.run("net.sh", &["up"])?;
        self.run("node.sh", &["start", node])
    }

    /// Starts or ends a part of the control plane: `api`, `stop-api`, `controllers`, `stop-controllers`.
    pub(crate) fn control_plane(&self, action: &str) -> Result<()> {
        self.run("control.sh", &[action])
    }

    /// What is started goes on afterwards, so its output is nobody's.
    fn run(&self, script: &str, arguments: &[&str]) -> Result<()> {
        let mut command = self.command(script, arguments);
        let status = command.stdout(Stdio::null()).status().context("a script of the cluster")?;
        ensure!(status.success(), "{script} {}: {status}", arguments.join(" "));
        Ok(())
    }

    /// Runs a command where the API server is.
    pub(crate) fn in_control_plane(&self, command: &[&str]) -> Result<String> {
        let netns = format!("--net={}", self.root.join("run/ns/cp").display());
        let output =
            Command::new("nsenter").arg(netns).args(command).output().context("nsenter")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a program in a pod.
    pub(crate) fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<String> {
        self.kubectl(&[&["-n", namespace, "exec", pod, "--"], command].concat())
    }

    /// One HTTP request from a pod; the body.
    pub(crate) fn get(&self, namespace: &str, pod: &str, url: &str) -> Result<String> {
        self.exec(namespace, pod, &["/testapp", "get", url, "10s"])
    }

    /// The pod with a label on a node: its name and its address.
    pub(crate) fn pod(&self, namespace: &str, app: &str, node: &str) -> Result<(String, String)> {
        let selector = format!("spec.nodeName={node},status.phase=Running");
        let label = format!("app={app}");
        let list = self.json(&[
            "-n",
            namespace,
            "get",
            "pods",
            "-l",
            &label,
            "--field-selector",
            &selector,
        ])?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let running = list["items"].as_array().into_iter().flatten();
        let mut alive = running.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        alive
            .find_map(|pod| Some((text(&pod["metadata"]["name"])?, text(&pod["status"]["podIP"])?)))
            .with_context(|| format!("no running pod {namespace}/{app} on {node}"))
    }

    /// What `kubectl … -o json` prints.
    pub(crate) fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).context("kubectl's output")
    }

    /// What an adit command on a node prints, as JSON.
    pub(crate) fn adit(&self, node: &str, command: &[&str]) -> Result<Value> {
        let label = "app.kubernetes.io/component=agent";
        let selector = format!("spec.nodeName={node},status.phase=Running");
        let list = self.json(&[
            "-n",
            "adit-system",
            "get",
            "pods",
            "-l",
            label,
            "--field-selector",
            &selector,
        ])?;
        let pods = list["items"].as_array().into_iter().flatten();
        let mut alive = pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let pod = alive.find_map(|pod| pod["metadata"]["name"].as_str());
        let pod = pod.with_context(|| format!("no agent runs on {node}"))?;
        let text =
            self.exec("adit-system", pod, &[&["adit"], command, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("adit {}", command.join(" ")))
    }

    /// How many pods of a namespace are enrolled, over all nodes.
    pub(crate) fn enrolled(&self, namespace: &str) -> Result<usize> {
        let mut count = 0;
        for node in NODES {
            let pods = self.adit(node, &["workloads"])?;
            let here = |pod: &&Value| {
                pod["namespace"] == namespace
                    && pod["local"] == true
                    && pod["enrolment"]["state"] == "enrolled"
            };
            count += pods.as_array().into_iter().flatten().filter(here).count();
        }
        Ok(count)
    }

    /// Waits until that many pods of a namespace are enrolled.
    pub(crate) fn wait_enrolled(&self, namespace: &str, count: usize) -> Result<()> {
        let what = format!("{count} pods of {namespace} enrolled");
        wait_for(&what, Duration::from_secs(30), || {
            Ok((self.enrolled(namespace)? == count).then_some(()))
        })
    }

    /// The network between the nodes.
    pub(crate) fn underlay(&self) -> Netns {
        Netns::existing(&self.root.join("run/ns/ul").display().to_string())
    }

    /// deploy/ with what differs here: a node is a part of this machine, and so is its cgroup2 hierarchy,
    /// which the agent would not take for a node's root by itself.
    pub(crate) fn overlay(&self) -> Result<String> {
        let hybrid = Path::new("/sys/fs/cgroup/unified").is_dir();
        let cgroup = if hybrid { "/sys/fs/cgroup/unified" } else { "/sys/fs/cgroup" };
        let config = std::fs::read_to_string(self.scripts.join("../../deploy/config.yaml"))?;
        // A kustomization names others by relative paths.
        let overlay = self.scripts.join("../../target/cluster/overlay");
        std::fs::create_dir_all(&overlay)?;
        std::fs::write(
            overlay.join("config.yaml"),
            format!("{config}\ndatapath: {{ cgroup: {cgroup} }}\n"),
        )?;
        let text = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: adit-system\n\
            resources: [../../../deploy]\nconfigMapGenerator:\n  - { name: adit-config, behavior: merge, files: [config.yaml] }\n";
        std::fs::write(overlay.join("kustomization.yaml"), text)?;
        Ok(overlay.display().to_string())
    }

    /// deploy/ with one of its components.
    pub(crate) fn with_component(&self, component: &str) -> Result<String> {
        let overlay = self.scripts.join("../../target/cluster").join(component);
        std::fs::create_dir_all(&overlay)?;
        let text = format!(
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../../../deploy]\n\
             components: [../../../deploy/components/{component}]\n"
        );
        std::fs::write(overlay.join("kustomization.yaml"), text)?;
        Ok(overlay.display().to_string())
    }

    /// What there is to see after a failure.
    pub(crate) fn state(&self) -> String {
        let commands: [&[&str]; 5] = [
            &["get", "pods", "-A", "-o", "wide"],
            &["-n", "adit-system", "describe", "pods"],
            &[
                "-n",
                "adit-system",
                "logs",
                "--tail=60",
                "--prefix",
                "-l",
                "app.kubernetes.io/component=agent",
            ],
            &[
                "-n",
                "adit-system",
                "logs",
                "--tail=30",
                "--prefix",
                "-l",
                "app.kubernetes.io/component=ca",
            ],
            &["get", "events", "-A", "--field-selector", "type=Warning"],
        ];
        let shown = commands.map(|command| match self.kubectl(command) {
            Ok(text) => format!("--- kubectl {}\n{text}", command.join(" ")),
            Err(error) => format!("--- {error:#}\n"),
        });
        shown.concat()
    }

    fn command(&self, script: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.scripts.join(script));
        command.args(arguments).stdin(Stdio::null()).env("ADIT_K8S_ROOT", &self.root);
        command
    }
}
