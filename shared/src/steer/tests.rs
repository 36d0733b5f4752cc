//! The decisions, exhaustively.
use core::net::IpAddr;
extern crate std;
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use super::*;
use crate::key::{MARK, MARK_MASK, MAX_PODS, MAX_SLOTS};
use crate::value::words;

const OWN: [&str; 4] = ["10.1.0.2", "10.9.0.2", "fd00:1::2", "fe80::2"];

#[test]
fn only_streams_of_enrolled_pods_that_are_not_the_agents_are_marked() {
    for bits in 0..8_u8 {
        let (stream, enrolled, agent) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
        let expected = match (stream, enrolled, agent) {
            (true, true, false) => Connect::Mark,
            (true, true, true) => Connect::Agent,
            _ => Connect::Pass,
        };
        assert_eq!(connect(stream, enrolled, agent), expected, "{bits:03b}");
    }
}

#[test]
fn what_applications_accept_from_the_agent_is_known_by_its_mark() {
    assert!(accepted_from_agent(INWARD_MARK, true));
    assert!(!accepted_from_agent(INWARD_MARK, false));
    for mark in [0, MARK, INWARD_MARK + 1, u32::MAX] {
        assert!(!accepted_from_agent(mark, true), "{mark:#x}");
    }
    // The rule routes both alike.
    assert_eq!(INWARD_MARK & MARK_MASK, MARK);
}

#[test]
fn only_a_syn_alone_opens_a_connection() {
    let opening: Vec<u8> = (0..=u8::MAX).filter(|flags| opens(*flags)).collect();
    // PSH, URG, ECE and CWR may stand beside it.
    assert_eq!(opening.len(), 16);
    assert!(opening.contains(&0x02) && opening.contains(&0xc2));
    for flags in [0x12, 0x03, 0x06, 0x10, 0x00] {
        assert!(!opens(flags), "{flags:#x}");
    }
}

/// Every combination of (source, destination, interface, port, protocol) against the sentence that
/// describes it.
#[test]
fn every_kind_of_packet_goes_where_the_table_says() {
    let v4 = ["10.1.0.2", "10.9.0.2", "127.0.0.1", "127.9.9.9", "10.1.0.77", "0.0.0.0"];
    let v6 = ["fd00:1::2", "fe80::2", "::1", "fd00:1::77", "fe80::77", "::"];
    for family in [v4, v6] {
        let ends = family.into_iter().flat_map(|from| family.map(|to| (from, to)));
        for ((from, to), port) in
            ends.flat_map(|ends| [22, 15001, 15006, 15008, 8080].map(|port| (ends, port)))
        {
            for (on_loopback, protocol) in [(false, 6), (true, 6), (false, 17), (true, 17)] {
                let packet = packet(from, to, port, on_loopback, protocol);
                let expected = expected(from, to, port, on_loopback, protocol);
                assert_eq!(
                    steer(&pod(4), &packet),
                    expected,
                    "{from} > {to}:{port} lo={on_loopback} proto={protocol}"
                );
            }
        }
    }
}

/// The rules once more, in words about texts instead of code about words.
fn expected(from: &str, to: &str, port: u16, on_loopback: bool, protocol: u32) -> Steer {
    let loopback = |address: &str| address.starts_with("127.") || address == "::1";
    let own = |address: &str| OWN.contains(&address);
    if protocol == 17 || from == to || loopback(to) {
        return Steer::Pass;
    }
    if !own(to) {
        return Steer::To(Role::Outbound);
    }
    if on_loopback || own(from) || loopback(from) {
        return Steer::Pass;
    }
    Steer::To(if port == 15008 { Role::Hbone } else { Role::Plaintext })
}

#[test]
fn a_connection_to_an_own_address_that_is_not_known_cannot_loop() {
    let arrives = packet("10.1.0.77", "10.77.0.1", 80, false, 6);
    let from_agent = packet("10.77.0.1", "10.77.0.1", 80, false, 6);

    assert_eq!(steer(&pod(1), &arrives), Steer::To(Role::Outbound));
    assert_eq!(steer(&pod(1), &from_agent), Steer::Pass);
}

#[test]
fn an_address_beyond_the_count_is_not_the_pods() {
    let mut short = pod(1);
    short.v4_count = 1;
    let packet = packet("10.1.0.77", "10.9.0.2", 80, false, 6);

    assert_eq!(steer(&pod(1), &packet), Steer::To(Role::Plaintext));
    assert_eq!(steer(&short, &packet), Steer::To(Role::Outbound));
}

#[test]
fn the_worker_depends_on_the_four_values_only_and_all_workers_get_their_share() {
    for workers in [1, 2, 3, 4, 16] {
        for to in ["10.1.0.2", "fd00:1::2"] {
            let from = if to.contains(':') { "fd00:1::77" } else { "10.1.0.77" };
            let mut share = BTreeMap::<u32, u32>::new();
            for port in 0..4096 {
                let mut packet = packet(from, to, 8080, false, 6);
                packet.remote_port = 32768 + port;
                let chosen = worker(&pod(workers), &packet);
                packet.on_loopback = true;
                packet.protocol = 17;
                assert_eq!(worker(&pod(workers), &packet), chosen);
                *share.entry(chosen).or_default() += 1;
            }
            assert_eq!(share.keys().copied().collect::<Vec<_>>(), (0..workers).collect::<Vec<_>>());
            let fair = 4096 / workers;
            for (worker, got) in share {
                assert!(got > fair / 2 && got < fair * 2, "worker {worker} of {workers} got {got}");
            }
        }
    }
}

#[test]
fn a_number_of_workers_out_of_range_is_brought_into_it() {
    let packet = packet("10.1.0.77", "10.1.0.2", 80, false, 6);
    assert_eq!(worker(&pod(0), &packet), 0);
    assert!(worker(&pod(u32::MAX), &packet) < MAX_WORKERS);
}

#[test]
fn every_listener_has_a_slot_of_its_own() {
    let mut seen = BTreeSet::new();
    for pod in 0..MAX_PODS {
        for role in Role::ALL {
            for worker in 0..MAX_WORKERS {
                let slot = slot(pod, role, worker);
                assert!(slot < MAX_SLOTS && seen.insert(slot));
            }
        }
    }
}

#[test]
fn a_pod_without_an_index_has_no_slot() {
    for role in Role::ALL {
        assert!(slot(PodConfig::EMPTY.index, role, 0) >= MAX_SLOTS);
    }
}

fn pod(workers: u32) -> PodConfig {
    let mut pod = PodConfig { index: 7, workers, ..PodConfig::EMPTY };
    for address in OWN {
        assert!(pod.add(address.parse().unwrap()));
    }
    pod
}

fn packet(from: &str, to: &str, port: u16, on_loopback: bool, protocol: u32) -> Packet {
    let ends = match (from.parse().unwrap(), to.parse().unwrap()) {
        (IpAddr::V4(remote), IpAddr::V4(local)) => Ends::V4 {
            remote: V4::from_ne_bytes(remote.octets()),
            local: V4::from_ne_bytes(local.octets()),
        },
        (IpAddr::V6(remote), IpAddr::V6(local)) => {
            Ends::V6 { remote: words(remote.octets()), local: words(local.octets()) }
        }
        mixed => panic!("{mixed:?}"),
    };
    Packet { ends, remote_port: 40000, local_port: port, protocol, on_loopback }
}
