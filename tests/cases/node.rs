//! What the node and its command line say.

use std::process::Command;

use adit_e2e::agent::Agent;
use adit_e2e::requirements::adit_binary;
use adit_e2e::{Node, client, server};

use crate::support::{Scene, can_run};

#[test]
fn doctor_finds_that_the_agent_can_run_here_and_prints_a_table() {
    if !can_run(true) {
        return;
    }
    let output = Command::new(adit_binary().unwrap()).arg("doctor").output().unwrap();

    let table = String::from_utf8(output.stdout).unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{table}\n{complaint}", output.status);
    assert!(table.lines().count() > 5, "{table}");
    for word in ["FEATURE", "NEEDED", "FOUND", "sk_lookup"] {
        assert!(table.to_lowercase().contains(&word.to_lowercase()), "{word} in\n{table}");
    }
}

#[test]
fn doctor_goes_by_the_agent_s_configuration() {
    if !can_run(true) {
        return;
    }
    let file = std::env::temp_dir().join(format!("adit-doctor-{}.yaml", std::process::id()));
    std::fs::write(&file, "datapath: { cgroup: not/absolute }\n").unwrap();
    let mut doctor = Command::new(adit_binary().unwrap());
    let output = doctor.arg("doctor").arg("--config").arg(&file).output().unwrap();
    std::fs::remove_file(&file).unwrap();

    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("datapath.cgroup"), "{complaint}");
    assert!(complaint.contains(&*file.to_string_lossy()), "{complaint}");
}

fn get(agent: &Agent, port: u16, path: &str) -> String {
    agent.http_get(port, path).unwrap()
}

#[test]
fn a_flow_is_counted_under_the_names_and_labels_that_istio_uses() {
    let Some(scene) = Scene::shared("node", "metrics") else {
        return;
    };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();

    client.run(|| client::echo(server.at4(8080), b"counted")).unwrap().unwrap();
    scene.outbound(&client, &server, 8080);

    let metrics = get(scene.cluster.agent(Node::A), 15020, "/metrics");
    for name in [
        "istio_tcp_connections_opened_total",
        "istio_tcp_connections_closed_total",
        "istio_tcp_sent_bytes_total",
        "istio_tcp_received_bytes_total",
    ] {
        let line = metrics.lines().find(|line| {
            line.starts_with(name)
                && line.contains("reporter=\"source\"")
                && line.contains("destination_workload_namespace=\"metrics\"")
                && line.contains("connection_security_policy=\"mutual_tls\"")
        });
        assert!(line.is_some(), "{name} in\n{metrics}");
    }
}

#[test]
fn a_flow_that_ended_is_one_line_of_the_access_log() {
    let Some(scene) = Scene::shared("node", "access-log") else {
        return;
    };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();

    client.run(|| client::echo(server.at4(8080), b"logged")).unwrap().unwrap();
    scene.outbound(&client, &server, 8080);

    let log = scene.cluster.agent(Node::A).log().since(0);
    let lines = log
        .lines()
        .filter(|line| line.contains(&server.identity()) && line.contains(&client.identity()));
    assert_eq!(lines.count(), 1, "{log}");
}

#[test]
fn an_agent_that_runs_is_ready() {
    let Some(scene) = Scene::shared("node", "ready") else {
        return;
    };
    let (_client, _server) = scene.pair();

    for agent in scene.cluster.agents() {
        let answer = get(agent, 15021, "/healthz/ready");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[test]
fn every_table_of_the_command_line_can_be_printed() {
    let Some(scene) = Scene::shared("node", "tables") else {
        return;
    };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();
    client.run(|| client::echo(server.at4(8080), b"shown")).unwrap().unwrap();
    scene.outbound(&client, &server, 8080);
    let agent = scene.cluster.agent(Node::A);

    for (command, word) in [
        ("status", "node-a"),
        ("workloads", "client"),
        ("services", ""),
        ("certs", "/ns/tables/sa/client"),
        ("tunnels", "/ns/tables/sa/server"),
        ("flows", "hbone"),
    ] {
        let table = agent.cli_text(&[command]).unwrap();
        assert!(table.contains(word), "{word} in `adit {command}`:\n{table}");
    }
}

#[test]
fn the_log_level_can_be_changed_while_the_agent_runs() {
    let Some(scene) = Scene::shared("node", "log-level") else {
        return;
    };
    let agent = scene.cluster.agent(Node::B);

    agent.cli_text(&["log-level", "info,adit=debug"]).unwrap();
    let shown = agent.cli_text(&["log-level"]).unwrap();
    agent.cli_text(&["log-level", "info"]).unwrap();

    assert!(shown.contains("adit=debug"), "{shown}");
}
