//! A mark that cannot be set: the connection fails, and nothing leaves the pod.
//!
//! The kernel lets a connect program set SO_MARK always, so the failure is made in the committed object:
//! the one number in it that names the option becomes that of no option, which bpf_setsockopt refuses.

use std::fs::File;
use std::io::ErrorKind;

use adit::datapath::Settings;
use adit_shared::names;
use adit_shared::value::Enrolled;
use aya::maps::HashMap;
use aya::programs::CgroupSockAddr;
use aya::programs::links::CgroupAttachMode;
use aya::{Ebpf, EbpfLoader};

use crate::space::{PEER4, PEER6, World, accept, root};

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../ebpf/adit.bpf.o");

/// `r3 = 36`: the third argument of a helper, SO_MARK (linux/bpf.h, asm-generic/socket.h).
const MARK: [u8; 8] = [0xb7, 0x03, 0, 0, 36, 0, 0, 0];
/// `r3 = 9999`
const NO_OPTION: [u8; 8] = [0xb7, 0x03, 0, 0, 0x0f, 0x27, 0, 0];

#[tokio::test]
async fn a_connection_whose_mark_cannot_be_set_fails_and_nothing_leaves() {
    if !root() {
        return;
    }
    let world = World::new();
    let server = world.peer.listen_async("[::]:80");
    let twin = attach(OBJECT, &world);
    // The object as it is lets the connection pass, with its mark. No agent has made rules for the mark
    // here, so that it goes the ordinary way.
    let _direct = world.pod.connect(&format!("{PEER4}:80")).await.unwrap();
    let _arrived = accept(&server).await;
    drop(twin);

    let mut object = OBJECT.to_vec();
    let places: Vec<usize> =
        (0..object.len() - 8).step_by(8).filter(|at| object[*at..*at + 8] == MARK).collect();
    assert_eq!(places.len(), 2, "one in connect4, one in connect6");
    for at in places {
        object[at..at + 8].copy_from_slice(&NO_OPTION);
    }
    let _programs = attach(&object, &world);

    for to in [format!("{PEER4}:80"), format!("[{PEER6}]:80"), format!("[::ffff:{PEER4}]:80")] {
        let error = world.pod.connect(&to).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{to}");
    }
    // What is not the pod's is not touched.
    let _own = world.peer.connect(&format!("{PEER4}:80")).await.unwrap();
    let (_stream, from) = accept(&server).await;
    assert_eq!(from.ip().to_string(), PEER4);
}

/// The connect programs at the cgroup root, with maps of their own in which the pod is enrolled. They go
/// with what is returned.
fn attach(object: &[u8], world: &World) -> Ebpf {
    let mut object = EbpfLoader::new().load(object).unwrap();
    let cookie = world.pod.netns.as_ref().unwrap().cookie();
    let enrolled = object.map_mut(names::ENROLLED).unwrap();
    let mut enrolled: HashMap<_, u64, Enrolled> = HashMap::try_from(enrolled).unwrap();
    enrolled.insert(cookie, Enrolled { index: 0, flags: 0 }, 0).unwrap();
    let cgroup = File::open(Settings::default().attach_point().unwrap()).unwrap();
    for name in [names::CONNECT4, names::CONNECT6] {
        let program: &mut CgroupSockAddr = object.program_mut(name).unwrap().try_into().unwrap();
        program.load().unwrap();
        program.attach(&cgroup, CgroupAttachMode::Single).unwrap();
    }
    object
}
