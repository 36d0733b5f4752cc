//! Two agents on one kernel: each with pods of its own, never with the same.

use std::path::PathBuf;
use std::time::Duration;

use adit::datapath::cleanup::cleanup;
use adit::datapath::kernel::KernelDatapath;
use adit::datapath::lock::PinsLock;
use adit::datapath::{Datapath, OpenPod, Settings};
use adit_core::enrolment::Step;
use adit_shared::value::Enrolled as Entry;
use aya::maps::{HashMap, Map, MapData};

use crate::space::{Enrolled, Kind, PATIENCE, PEER4, World, address, root};

/// Another agent's pins. They go with it.
struct Other(Settings);

impl Other {
    fn new(world: &World) -> Self {
        let pins = PathBuf::from(format!("{}-other", world.settings.pins.display()));
        Self(Settings { pins, ..Settings::default() })
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0.pins);
    }
}

#[tokio::test]
async fn a_pod_that_another_agents_programs_hold_is_refused_until_they_are_gone() {
    if !root() {
        return;
    }
    let world = World::new();
    let other = Other::new(&world);
    drop(world.enrolled(1).await); // as killed: its programs stay
    let new = KernelDatapath::start(&other.0, 1).unwrap();

    let error = new.open(&world.target).await.unwrap_err().to_string();
    let pins = world.settings.pins.display().to_string();
    assert!(error.contains("another adit agent"), "{error}");
    assert!(error.contains(&format!("adit cleanup --pins {pins}")), "{error}");

    cleanup(&world.settings, false).await.unwrap();
    let pod = new.open(&world.target).await.unwrap();
    let agent = Enrolled::new(new, pod).await;
    let _app = world.pod.connect(&format!("{PEER4}:80")).await.unwrap();
    assert_eq!(agent.accept().await.0, Kind::Outbound);
}

#[tokio::test]
async fn a_pod_whose_connections_another_agent_captures_is_refused_too() {
    if !root() {
        return;
    }
    let world = World::new();
    let other = Other::new(&world);
    // Only its entry is left: the look-up program is gone.
    let old = world.enrolled(1).await;
    for step in [Step::Lookup, Step::Routes] {
        old.datapath.undo(&old.pod, step).await.unwrap();
    }
    let new = KernelDatapath::start(&other.0, 1).unwrap();

    let error = new.open(&world.target).await.unwrap_err().to_string();
    assert!(error.contains("captures the pod's connections"), "{error}");
    assert!(error.contains(&world.settings.pins.display().to_string()), "{error}");

    // Another pod of the same kernel is the new agent's own.
    let mine = World::new();
    let pod = new.open(&mine.target).await.unwrap();
    let agent = Enrolled::new(new, pod).await;
    let _app = mine.pod.connect(&format!("{PEER4}:80")).await.unwrap();
    assert_eq!(agent.accept().await.0, Kind::Outbound);
}

#[tokio::test]
async fn a_connection_of_the_agents_own_that_others_capture_is_refused_and_makes_no_round() {
    if !root() {
        return;
    }
    let world = World::new();
    let other = Other::new(&world);
    let agent = world.enrolled(1).await;
    let _rival = KernelDatapath::start(&other.0, 1).unwrap();
    assert!(agent.datapath.missing().unwrap().is_empty());
    // The rival begins to capture the pod after this agent has.
    let rival = MapData::from_pin(other.0.pins.join("v1/ENROLLED")).unwrap();
    let mut rival: HashMap<_, u64, Entry> = HashMap::try_from(Map::HashMap(rival)).unwrap();
    let own = MapData::from_pin(world.v1().join("ENROLLED")).unwrap();
    let own: HashMap<_, u64, Entry> = HashMap::try_from(Map::HashMap(own)).unwrap();
    for cookie in own.keys() {
        rival.insert(cookie.unwrap(), Entry { index: 0, flags: 0 }, 0).unwrap();
    }

    let sockets = agent.pod.sockets();
    let dial = sockets.outward(address(&format!("{PEER4}:80"))).unwrap();
    let error = dial.connect().await.unwrap_err();

    assert!(error.to_string().contains("another adit agent"), "{error}");
    assert_eq!(adit::datapath::connect_failure(&error).as_label(), "captured_by_another_agent");
    let (kind, accepted, _) = agent.accept().await;
    assert_eq!(kind, Kind::Outbound);
    assert!(sockets.is_own(accepted.peer_addr().map(canonical).unwrap()), "{accepted:?}");
    let missing = agent.datapath.missing().unwrap();
    assert!(missing.iter().any(|line| line.contains("captures the pod's")), "{missing:?}");
}

#[test]
fn a_second_agent_at_the_same_pins_is_refused_and_told_who_holds_them() {
    if !root() {
        return;
    }
    let world = World::new();
    let held = PinsLock::take(&world.settings).unwrap();

    let error = PinsLock::take(&world.settings).unwrap_err().to_string();
    assert!(error.contains(&format!("process {}", std::process::id())), "{error}");

    drop(held);
    PinsLock::take(&world.settings).unwrap();
}

#[tokio::test]
async fn pins_that_an_agent_uses_are_not_cleaned_up_unless_forced() {
    if !root() {
        return;
    }
    let world = World::new();
    let _held = PinsLock::take(&world.settings).unwrap();
    let _agent = world.enrolled(1).await;

    let error = cleanup(&world.settings, false).await.unwrap_err().to_string();
    assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    assert!(world.v1().join("ENROLLED").exists());

    cleanup(&world.settings, true).await.unwrap();
    assert!(!world.settings.pins.exists());
}

#[tokio::test]
async fn what_another_process_took_away_is_noticed() {
    if !root() {
        return;
    }
    let world = World::new();
    let agent = world.enrolled(2).await;
    assert_eq!(agent.datapath.missing().unwrap(), Vec::<String>::new());

    // A second agent that does not ask for the lock: its links take the place of the first one's.
    let _second = world.start(2);
    let gone = async {
        while agent.datapath.missing().unwrap().len() < 5 {
            // The kernel frees a link that was replaced in the background.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("replaced programs are not noticed");
    let missing = agent.datapath.missing().unwrap();
    assert!(missing.iter().all(|line| line.contains("not attached to the cgroup")), "{missing:?}");

    cleanup(&world.settings, true).await.unwrap();
    let missing = agent.datapath.missing().unwrap().join("\n");
    assert!(missing.contains("its look-up program is not attached"), "{missing}");
}

#[tokio::test]
async fn an_entry_or_a_listener_that_is_gone_is_noticed() {
    if !root() {
        return;
    }
    let world = World::new();
    let agent = world.enrolled(1).await;
    let pin = world.v1().join("ENROLLED");
    let map = MapData::from_pin(pin).unwrap();
    let mut map: HashMap<_, u64, Entry> = HashMap::try_from(Map::HashMap(map)).unwrap();
    let cookies: Vec<u64> = map.keys().map(Result::unwrap).collect();
    for cookie in cookies {
        map.remove(&cookie).unwrap();
    }
    agent.datapath.undo(&agent.pod, Step::Slots).await.unwrap();

    let missing = agent.datapath.missing().unwrap();

    assert!(missing[0].contains("map ENROLLED"), "{missing:?}");
    assert!(missing[1].contains("map LISTENERS"), "{missing:?}");
}

fn canonical(address: std::net::SocketAddr) -> std::net::SocketAddr {
    std::net::SocketAddr::new(address.ip().to_canonical(), address.port())
}
