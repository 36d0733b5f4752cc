//! A platform engineer's path on a real cluster, one case after the other: apply, label, look, restrict,
//! lose the agent, unlabel, uninstall. Start it with `cargo xtask cluster test`.
#![expect(clippy::print_stdout, reason = "it reports to its user")]
#![expect(
    clippy::indexing_slicing,
    reason = "a JSON value answers any index, with null if need be"
)]

mod cases;
mod flows;
mod lab;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

use crate::lab::Lab;

type Case = (&'static str, fn(&Lab) -> Result<String>);

/// In this order: each stands on what the ones before it left.
const CASES: &[Case] = &[
    ("the API server accepts every manifest", cases::install::manifests_are_valid),
    ("everything is rolled out", cases::install::apply),
    ("pods that are not opted in talk as before, in plaintext", cases::traffic::plaintext),
    ("labelling the namespace enrols its running pods", cases::enrol::label),
    ("the enrolled pods are annotated", cases::told::annotated),
    ("the pods talk across nodes, on one node and by ClusterIP", cases::traffic::reaches),
    ("the application sees its client's address", cases::traffic::source_address),
    ("adit flows shows the tunnels and both identities", cases::traffic::identities),
    ("adit flows --follow shows them as they come", cases::traffic::followed),
    ("nothing of the namespace crosses between the nodes in plaintext", cases::traffic::secret),
    ("exec, logs and port-forward work on enrolled pods", cases::traffic::kubectl),
    ("a pod that marks its sockets does not get around the tunnel", cases::marks::no_way_out),
    ("an ephemeral container talks as its pod", cases::ephemeral::container),
    (
        "NodePorts and hostPorts are reached from outside, and not under STRICT",
        cases::outside::node_port_and_host_port,
    ),
    ("a new pod is enrolled before its first container connects", cases::enrol::new_pod),
    ("without a CA a new identity's pod waits and says so", cases::told::refused),
    ("a rotation of the CA's root is begun and given up", cases::rotate::begun_and_given_up),
    ("the CNI plugin answers CHECK, STATUS and GC", cases::plugin::check_status_gc),
    (
        "a static pod is refused where the namespace is opted in, and starts elsewhere",
        cases::relics::refused_where_opted_in,
    ),
    ("a NetworkPolicy that blocks tunnels is noticed", cases::ports::blocked),
    (
        "a StatefulSet is reached by its pods' names; a CronJob's pod completes",
        cases::objects::stateful_set_and_cron_job,
    ),
    ("what twenty more pods cost", cases::crowd::sandboxes_and_memory),
    ("how fast pods talk", cases::speed::beside_plaintext),
    ("STRICT refuses a stranger and nobody else", cases::policy::strict),
    ("probes work under STRICT, and nobody else gets in by them", cases::probes::under_strict),
    ("an AuthorizationPolicy refuses whom it names, and says so", cases::policy::deny),
    ("a policy's status says what adit makes of it", cases::told::conditions),
    ("the agent's pod is deleted: connections wait and succeed", cases::lifecycle::agent_deleted),
    ("the agent is killed twice: connections wait and succeed", cases::lifecycle::agent_killed),
    ("without an agent only pods that must be enrolled wait", cases::lifecycle::no_agent),
    ("all agents are rolled out again under traffic", cases::upheaval::rollout_restart),
    ("kubelet and containerd are restarted under traffic", cases::upheaval::kubelet_and_containerd),
    ("the API server is away for a minute", cases::upheaval::api_server_away),
    ("a node loses its power and comes back: no pod of it talks in plaintext", cases::reboot::node),
    ("removing the label withdraws the pods; open connections live on", cases::enrol::unlabel),
    ("the annotations of withdrawn pods are gone", cases::told::cleared),
    ("uninstalling leaves pods talking and nothing on the nodes", cases::install::uninstall),
];

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the cases to the first that fails: the others would stand on nothing.
fn run() -> Result<bool> {
    let lab = Lab::from_environment()?;
    let began = Instant::now();
    for (number, (name, case)) in CASES.iter().enumerate() {
        let at = Instant::now();
        match case(&lab) {
            Ok(remark) => {
                println!("ok   {:5.1} s  {name}{}", at.elapsed().as_secs_f32(), noted(&remark));
            }
            Err(error) => {
                println!("FAIL {:5.1} s  {name}: {error:#}", at.elapsed().as_secs_f32());
                println!("{}", lab.state());
                println!("{} of {} cases passed", number, CASES.len());
                return Ok(false);
            }
        }
    }
    println!("{0} of {0} cases passed in {1:.0} s", CASES.len(), began.elapsed().as_secs_f32());
    Ok(true)
}

fn noted(remark: &str) -> String {
    if remark.is_empty() { String::new() } else { format!(" ({remark})") }
}
