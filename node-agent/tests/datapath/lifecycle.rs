//! Withdrawal, restarts, pods that go away, and failures.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::path::PathBuf;
use std::time::Duration;

use adit::datapath::cleanup::cleanup;
use adit::datapath::kernel::KernelDatapath;
use adit::datapath::{Datapath, DatapathError, OpenPod};
use adit_core::enrolment::Step;
use adit_shared::value::Enrolled as Entry;
use aya::maps::{HashMap, Map, MapData};
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use crate::space::{
    Enrolled, Kind, PATIENCE, PEER4, PEER6, POD4, POD6, World, accept, address, path, ping, root,
};

#[tokio::test]
async fn enrolment_and_withdrawal_leave_open_connections_alone() {
    if !root() {
        return;
    }
    let world = World::new();
    let server = world.peer.listen_async("[::]:80");
    let app = world.pod.listen_async("[::]:8080");
    let mut before = world.pod.connect(&format!("{PEER4}:80")).await.unwrap();
    let mut before_other = accept(&server).await.0;
    let mut before_in = world.peer.connect(&format!("{POD4}:8080")).await.unwrap();
    let mut before_in_other = accept(&app).await.0;

    let agent = world.enrolled(2).await;
    ping(&mut before, &mut before_other).await;
    ping(&mut before_in, &mut before_in_other).await;
    let mut captured = Vec::new();
    for to in [format!("{PEER4}:80"), format!("[{PEER6}]:80")] {
        let client = world.pod.connect(&to).await.unwrap();
        captured.push((client, agent.accept().await.1));
    }
    let from = PEER4.parse().unwrap();
    let inward = agent.pod.sockets().inward(from, address(&format!("{POD4}:8080"))).unwrap();
    let mut inward = crate::space::dial(inward).await.unwrap();
    let mut inward_other = accept(&app).await.0;

    agent.withdraw().await;
    for (mut client, mut accepted) in captured {
        ping(&mut client, &mut accepted).await;
    }
    ping(&mut inward, &mut inward_other).await;
    ping(&mut before, &mut before_other).await;
    ping(&mut before_in, &mut before_in_other).await;

    let mut direct = world.pod.connect(&format!("{PEER4}:80")).await.unwrap();
    ping(&mut direct, &mut accept(&server).await.0).await;
    let mut direct = world.peer.connect(&format!("{POD4}:8080")).await.unwrap();
    ping(&mut direct, &mut accept(&app).await.0).await;

    // The rules go with the last connection that needed them.
    drop((inward, inward_other));
    let gone = async {
        while world.pod.shown("rule show").contains("0x111") {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("the rules stay");
}

#[tokio::test]
async fn withdrawal_removes_exactly_what_enrolment_made() {
    if !root() {
        return;
    }
    let world = World::new();
    world.pod.ip("rule add fwmark 0x111/0xfff lookup 200 pref 50");
    world.pod.ip("route add local 192.0.2.0/24 dev lo table 100");
    let state = || {
        ["rule show", "-6 rule show", "route show table all", "-6 route show table all"]
            .map(|what| world.pod.shown(what))
    };
    let before = state();
    let agent = world.enrolled(2).await;
    assert!(world.pod.shown("rule show").contains("0x111/0xfff lookup 100"));
    assert!(world.pod.shown("-6 route show table 100").contains("local default dev lo"));
    assert_eq!(world.pod.sysctl("net/ipv4/tcp_fwmark_accept"), "1");
    // Every step once more: done already, and no second rule.
    let once = state();
    for step in Step::ALL {
        agent.datapath.perform(&agent.pod, step).await.unwrap();
    }
    assert_eq!(state(), once);

    agent.withdraw().await;
    agent.withdraw().await;

    assert_eq!(state(), before);
    assert_eq!(world.pod.sysctl("net/ipv4/tcp_fwmark_accept"), "0");
    assert!(agent.datapath.adopted().is_empty());
}

#[tokio::test]
async fn a_pod_can_be_enrolled_again() {
    if !root() {
        return;
    }
    let world = World::new();
    let agent = world.enrolled(1).await;
    agent.withdraw().await;

    let again = Enrolled::new(agent.datapath, agent.pod).await;

    let _app = world.pod.connect(&format!("{PEER4}:80")).await.unwrap();
    assert_eq!(again.accept().await.0, Kind::Outbound);
}

#[tokio::test]
async fn while_the_agent_is_away_connections_wait_and_then_succeed() {
    if !root() {
        return;
    }
    let world = World::new();
    let _peers = world.peer.listen("[::]:80");
    let agent = world.enrolled(4).await;
    drop(agent); // as killed: nothing is undone, every descriptor is closed

    // Out of the pod, and into it.
    let dialled = [
        (&world.pod, format!("{PEER4}:80"), Kind::Outbound),
        (&world.pod, format!("[{PEER6}]:80"), Kind::Outbound),
        (&world.peer, format!("{POD4}:8080"), Kind::Plaintext),
        (&world.peer, format!("[{POD6}]:8080"), Kind::Plaintext),
        (&world.peer, format!("{POD4}:15008"), Kind::Hbone),
    ];
    let waiting = join_all(dialled.iter().map(|(from, to, _)| from.connect(to)));
    let restart = async {
        sleep(Duration::from_millis(300)).await;
        let datapath = world.start(2); // another number of workers
        let adopted = datapath.adopted();
        assert_eq!(adopted.len(), 1);
        assert!(adopted[0].alive && adopted[0].uid == world.target.uid);
        let pod = datapath.open(&world.target).await.unwrap();
        let agent = Enrolled::new(datapath, pod).await;
        let mut accepted = BTreeMap::new();
        while accepted.len() < dialled.len() {
            let (kind, stream, destination) = agent.accept().await;
            accepted.insert(destination, (kind, stream));
        }
        (agent, accepted)
    };
    let (waited, (agent, mut accepted)) = tokio::join!(waiting, restart);
    for (waited, (_, to, expected)) in waited.into_iter().zip(&dialled) {
        let (kind, mut stream) = accepted.remove(&address(to)).unwrap();
        assert_eq!(kind, *expected, "{to}");
        ping(&mut waited.unwrap(), &mut stream).await;
    }
    assert!(agent.counter("dropped_no_listener") >= 5);

    let names = |directory: PathBuf| -> BTreeSet<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let expected = [
        "AGENT_TAG",
        "COUNTERS",
        "ENROLLED",
        "LISTENERS",
        "accept",
        "bind4",
        "bind6",
        "connect4",
        "connect6",
        "pods",
    ];
    assert_eq!(names(world.v1()), expected.map(str::to_owned).into());
    for _ in 0..32 {
        world.peer.connect(&format!("{POD4}:8080")).await.unwrap();
        assert_eq!(agent.accept().await.0, Kind::Plaintext);
    }
}

/// A pod may start when it is captured, before the program stands that lets connections wait.
#[tokio::test]
async fn an_agent_killed_before_the_last_step_lets_nothing_out_and_the_next_one_takes_over() {
    if !root() {
        return;
    }
    let world = World::new();
    let server = world.peer.listen("[::]:80");
    let app = world.pod.listen("[::]:8080");
    let datapath = world.start(2);
    let pod = datapath.open(&world.target).await.unwrap();
    for step in Step::ALL.into_iter().filter(|step| *step != Step::Hold) {
        datapath.perform(&pod, step).await.unwrap();
    }
    drop((pod, datapath)); // as killed

    let dialled = [
        (&world.pod, format!("{PEER4}:80")),
        (&world.pod, format!("[{PEER6}]:80")),
        (&world.peer, format!("{POD4}:8080")),
        (&world.peer, format!("[{POD6}]:8080")),
    ];
    let brief = Duration::from_millis(300);
    let tried = join_all(dialled.iter().map(|(from, to)| timeout(brief, from.connect(to))));
    for (tried, (_, to)) in tried.await.into_iter().zip(&dialled) {
        assert!(!matches!(tried, Ok(Ok(_))), "connected to {to}");
    }
    for listener in [&server, &app] {
        let reached = listener.accept().unwrap_err();
        assert_eq!(reached.kind(), std::io::ErrorKind::WouldBlock);
    }

    let agent = world.enrolled(2).await;
    for ((from, to), expected) in
        dialled.iter().zip([Kind::Outbound, Kind::Outbound, Kind::Plaintext, Kind::Plaintext])
    {
        let _client = from.connect(to).await.unwrap();
        assert_eq!(agent.accept().await.0, expected, "{to}");
    }
}

#[tokio::test]
async fn an_agent_takes_over_from_one_that_still_runs() {
    if !root() {
        return;
    }
    let world = World::new();
    let old = world.enrolled(4).await;
    let mut client = world.pod.connect(&format!("{PEER4}:80")).await.unwrap();

    let new = world.enrolled(3).await;
    let (_, mut queued, _) = old.accept().await;
    ping(&mut client, &mut queued).await;
    for _ in 0..32 {
        let _client = world.pod.connect(&format!("{PEER4}:80")).await.unwrap();
        assert_eq!(new.accept().await.0, Kind::Outbound);
    }
}

#[tokio::test]
async fn nothing_is_kept_of_a_pod_whose_namespace_is_gone() {
    if !root() {
        return;
    }
    let mut world = World::new();
    let agent = world.enrolled(1).await;
    drop(agent);
    drop(world.pod.netns.take());
    world.peer.netns = None;
    let deleted = std::process::Command::new("ip").args(["netns", "del", &world.pod.name]).output();
    assert!(deleted.unwrap().status.success());

    let gone = async {
        // The kernel takes a namespace apart in the background.
        loop {
            let datapath = world.start(1);
            if datapath.adopted().is_empty() {
                break datapath;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let _datapath = timeout(PATIENCE, gone).await.expect("the pins stay");
    assert_eq!(enrolled_map(&world).keys().count(), 0);
}

#[tokio::test]
async fn a_pod_that_does_not_come_back_is_forgotten() {
    if !root() {
        return;
    }
    let world = World::new();
    let server = world.peer.listen_async("[::]:80");
    drop(world.enrolled(1).await);
    let datapath = world.start(1);

    datapath.forget(&world.target.uid).await.unwrap();
    datapath.forget(&world.target.uid).await.unwrap();

    assert!(datapath.adopted().is_empty());
    assert!(!world.pod.shown("rule show").contains("0x111"));
    let mut direct = world.pod.connect(&format!("{PEER4}:80")).await.unwrap();
    ping(&mut direct, &mut accept(&server).await.0).await;
}

#[tokio::test]
async fn cleanup_leaves_nothing() {
    if !root() {
        return;
    }
    let world = World::new();
    let server = world.peer.listen_async("[::]:80");
    drop(world.enrolled(1).await);

    let removed = cleanup(&world.settings, false).await.unwrap();

    assert!(removed.iter().any(|line| line.contains(world.target.uid.as_str())), "{removed:?}");
    assert!(!world.settings.pins.exists());
    assert!(!world.pod.shown("rule show").contains("0x111"));
    let mut direct = world.pod.connect(&format!("{PEER4}:80")).await.unwrap();
    ping(&mut direct, &mut accept(&server).await.0).await;
    assert!(cleanup(&world.settings, false).await.unwrap().is_empty());
}

#[tokio::test]
async fn pins_of_another_layout_version_are_replaced_or_refused() {
    if !root() {
        return;
    }
    let world = World::new();
    let agent = world.enrolled(1).await;
    let other = world.settings.pins.join("v4000");
    std::fs::rename(world.v1(), &other).unwrap();

    let error = KernelDatapath::start(&world.settings, 1).unwrap_err();
    assert!(error.to_string().contains("v4000"), "{error}");
    let why = error.source().unwrap().to_string();
    assert!(why.contains(world.target.uid.as_str()) && why.contains("adit cleanup"), "{why}");

    std::fs::rename(&other, world.v1()).unwrap();
    agent.withdraw().await;
    std::fs::rename(world.v1(), &other).unwrap();
    let _started = world.start(1);
    assert!(!other.exists());
}

#[tokio::test]
async fn a_pinned_map_of_another_shape_is_refused() {
    if !root() {
        return;
    }
    let world = World::new();
    drop(world.start(1));
    let pin = world.v1().join("ENROLLED");
    std::fs::remove_file(&pin).unwrap();
    HashMap::<MapData, u32, u32>::create(1, 0).unwrap().pin(&pin).unwrap();

    let error = KernelDatapath::start(&world.settings, 1).unwrap_err();

    assert!(error.to_string().contains("adopt map"), "{error}");
}

#[tokio::test]
async fn a_namespace_that_is_not_the_pods_is_refused() {
    if !root() {
        return;
    }
    let world = World::new();
    let agent = world.enrolled(1).await;
    for (netns, expected) in [
        (path(&world.peer.name), "none of the pod's addresses"),
        (PathBuf::from("/proc/self/ns/net"), "the host's"),
        (PathBuf::from("/proc/self/status"), "network namespace /proc/self/status"),
        (PathBuf::from("/run/netns/kernel-none"), "network namespace /run/netns/kernel-none"),
    ] {
        let mut target = world.target.clone();
        target.netns = netns;
        let error = agent.datapath.open(&target).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let mut twin = world.target.clone();
    twin.uid = adit_core::workload::PodUid::parse("twin").unwrap();
    let error = agent.datapath.open(&twin).await.unwrap_err();
    assert!(error.to_string().contains("another pod"), "{error}");
}

/// Each step is made to fail by what could really happen to it.
#[tokio::test]
async fn a_step_that_fails_says_which_operation_it_was() {
    if !root() {
        return;
    }
    let world = World::new();
    let datapath = world.start(1);
    let pod = datapath.open(&world.target).await.unwrap();
    let fails = async |step| describe(&datapath.perform(&pod, step).await.unwrap_err());

    world.pod.ip("link set eth0 down");
    world.pod.ip("link set eth0 name eth7");
    let error = fails(Step::Listeners).await;
    assert!(error.contains("open the listeners") && error.contains("No such device"), "{error}");
    let error = fails(Step::Slots).await;
    assert!(error.contains("LISTENERS") && error.contains("not open"), "{error}");

    let in_the_way = world.v1().join(format!("pods/0_{}/lookup_new", world.target.uid));
    std::fs::create_dir_all(&in_the_way).unwrap();
    let error = fails(Step::Lookup).await;
    assert!(error.contains("lookup") && error.contains("directory"), "{error}");

    // The address is gone that captured connections were to come from.
    let error = fails(Step::Routes).await;
    assert!(error.contains("table 100"), "{error}");

    let mut map = enrolled_map(&world);
    for cookie in 0..1024 {
        let entry = Entry { index: 9, flags: 0 };
        map.insert(u64::MAX - cookie, entry, 0).unwrap();
    }
    let error = fails(Step::Capture).await;
    assert!(error.contains("ENROLLED"), "{error}");

    let error = fails(Step::Hold).await;
    assert!(error.contains("holds connections back to eth0"), "{error}");
    world.pod.ip("link set eth7 name eth0");
    datapath.perform(&pod, Step::Hold).await.unwrap();

    for step in Step::ALL.into_iter().rev() {
        datapath.undo(&pod, step).await.unwrap();
    }
    assert!(datapath.adopted().is_empty());
    assert!(!world.pod.shown("rule show").contains("0x111"));
}

#[tokio::test]
async fn a_number_of_workers_that_is_not_possible_is_refused() {
    if !root() {
        return;
    }
    let world = World::new();
    for workers in [0, 17] {
        let error = KernelDatapath::start(&world.settings, workers).unwrap_err();
        assert!(matches!(error, DatapathError::Limit(_)), "{error}");
    }
}

#[test]
fn the_doctor_finds_everything_and_leaves_nothing() {
    if !root() {
        return;
    }
    let world = World::new();
    let cgroup = world.settings.attach_point().unwrap();

    let probes = adit::datapath::probe::probe(&world.settings);

    for probe in &probes {
        assert!(probe.found.is_ok(), "{probe:#?}");
    }
    assert!(probes.len() > 14, "{probes:#?}");
    assert!(!world.settings.pins.exists());
    let left = format!("adit-doctor-{}", std::process::id());
    assert!(!cgroup.join(left).exists());
}

fn describe(error: &DatapathError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn enrolled_map(world: &World) -> HashMap<MapData, u64, Entry> {
    let data = MapData::from_pin(world.v1().join("ENROLLED")).unwrap();
    HashMap::try_from(Map::HashMap(data)).unwrap()
}
