//! Processes that come to a pod by other ways than its runtime's, and neighbours at the cgroup root.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use adit_e2e::bpf::PortBan;
use adit_e2e::cgroup::Cgroup;
use adit_e2e::{Node, Pod, client, server};

use crate::support::{Scene, can_run};

/// What runs in pods.
const POD: &str = env!("CARGO_BIN_EXE_pod");

fn scene(ns: &str) -> Option<Scene> {
    Scene::shared("sockets", ns)
}

fn cgroup(scene: &Scene, name: &str) -> Cgroup {
    Cgroup::create(&format!("adit-e2e-{}-{name}", scene.cluster.run().id())).unwrap()
}

/// A client and a server with an echo on the port, and how it is dialled.
fn pair(scene: &Scene) -> (Pod, Pod, server::Server, [SocketAddr; 2]) {
    let (client, server) = scene.pair();
    let echo = server.serve(8080, server::echo).unwrap();
    let to = [server.at4(8080), server.at6(8080)];
    (client, server, echo, to)
}

#[track_caller]
fn all_tunnelled(scene: &Scene, client: &Pod, server: &Pod, echo: &server::Server) {
    assert_eq!(echo.clients(), [IpAddr::V4(client.v4()), IpAddr::V6(client.v6())]);
    scene.outbound(client, server, 8080);
    let flows = scene.cluster.agent(Node::A).flows().unwrap();
    let sent = flows.iter().filter(|flow| flow.source.is(&client.full_name()));
    let protocols: Vec<_> = sent.map(|flow| flow.protocol.as_str()).collect();
    assert!(!protocols.is_empty() && protocols.iter().all(|one| *one == "hbone"), "{protocols:?}");
}

/// A socket belongs to the cgroup its process was in when it was made, and the process may move before it
/// is connected.
#[test]
fn a_process_that_is_moved_to_another_cgroup_stays_captured() {
    let Some(scene) = scene("moved") else { return };
    let (client, server, echo, destinations) = pair(&scene);
    let (before, after) = (cgroup(&scene, "before"), cgroup(&scene, "after"));

    for to in destinations {
        let mut command = client.command(POD);
        command.args(["send-when-told", &to.to_string(), "moved"]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut told = process.stdin.take().unwrap();
        let mut tell = || told.write_all(b"go on\n").unwrap();

        assert_eq!(lines.next().unwrap(), "ready");
        before.take(process.id()).unwrap();
        tell();
        assert_eq!(lines.next().unwrap(), "a socket is made");
        after.take(process.id()).unwrap();
        tell();
        assert_eq!(lines.next().unwrap(), "moved", "by the socket that was made before");
        assert_eq!(lines.next().unwrap(), "moved", "by one that was made after");
        assert!(process.wait().unwrap().success());
    }

    assert_eq!(echo.connections(), 4);
    all_tunnelled(&scene, &client, &server, &echo);
}

/// As `kubectl port-forward` and debuggers do: from a cgroup that is not the pod's.
#[test]
fn a_process_that_enters_the_pod_from_elsewhere_is_captured() {
    let Some(scene) = scene("entered") else { return };
    let (client, server, echo, destinations) = pair(&scene);
    let elsewhere = cgroup(&scene, "elsewhere");

    for to in destinations {
        let output = Command::new("sh")
            .args([
                "-c",
                "echo $$ >\"$0\" && exec nsenter --net=\"$1\" -- \"$2\" send \"$3\" hello",
            ])
            .arg(elsewhere.processes())
            .arg(client.netns().path())
            .arg(POD)
            .arg(to.to_string())
            .output()
            .unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{complaint}");
        assert_eq!(output.stdout, b"hello\n");
    }

    all_tunnelled(&scene, &client, &server, &echo);
}

/// Programs of others run whether they were attached before adit's or after, and so do adit's.
#[test]
fn programs_of_others_at_the_cgroup_root_run_as_well_as_adits() {
    if !can_run(true) {
        return;
    }
    let earlier = PortBan::attach(4711).unwrap();
    let Some(scene) = Scene::own("neighbours") else { return };
    let later = PortBan::attach(4712).unwrap();
    let (client, server, echo, destinations) = pair(&scene);

    for to in destinations {
        for port in [4711, 4712] {
            let banned = SocketAddr::new(to.ip(), port);
            let refused = client.run(|| TcpStream::connect(banned).unwrap_err()).unwrap();
            assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{banned}");
        }
        client.run(|| client::echo(to, b"between neighbours")).unwrap().unwrap();
    }

    all_tunnelled(&scene, &client, &server, &echo);
    drop((earlier, later));
}
