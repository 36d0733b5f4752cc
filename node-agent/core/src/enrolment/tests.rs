//! The rules of enrolment, one by one.

use std::time::Duration;

use super::backoff::splitmix;
use super::bench::Bench;
use super::walk::{identity, target, uid, walk};
use super::{Input, NotEnrolled, PodState, Step};

const UP: [&str; 7] =
    ["do listeners", "serve", "do slots", "do routes", "do lookup", "do capture", "do hold"];

#[test]
fn a_pod_is_enrolled_step_by_step_once_its_certificate_is_there() {
    let mut bench = Bench::new();
    assert_eq!(bench.send(wanted("p")), ["acquire cart"]);
    assert_eq!(bench.state("p"), Some(&PodState::AwaitingCertificate));
    assert_eq!(bench.send(certificate()), ["open p"]);
    assert_eq!(bench.run(), UP);
    assert_eq!(bench.state("p"), Some(&PodState::Enrolled));
    assert_eq!(bench.enrolment.poll_timeout(), None);
}

#[test]
fn a_pod_without_a_namespace_or_an_address_waits_for_it() {
    let mut without_netns = target("p", "cart");
    without_netns.netns = None;
    let mut without_address = target("p", "cart");
    without_address.addresses.clear();
    for early in [without_netns, without_address] {
        let mut bench = Bench::new();
        bench.send(Input::Wanted(early));
        bench.send(certificate());
        assert_eq!(bench.state("p"), Some(&PodState::AwaitingNamespace));
        assert_eq!(bench.send(wanted("p")), ["open p"]);
    }
}

#[test]
fn one_certificate_serves_all_pods_of_an_identity() {
    let mut bench = enrolled();
    assert_eq!(bench.send(wanted("q")), ["open q"]);
    assert_eq!(bench.run(), UP);
    withdraw(&mut bench, "p");
    assert!(!withdraw(&mut bench, "q").is_empty());
}

#[test]
fn the_last_pod_of_an_identity_releases_it() {
    let mut bench = enrolled();
    let all = withdraw(&mut bench, "p");
    assert_eq!(all.last().map(String::as_str), Some("release cart"));
}

#[test]
fn withdrawal_lets_peers_learn_of_it_and_open_flows_end() {
    let mut bench = enrolled();
    assert_eq!(bench.send(unwanted("p")), ["undo capture"]);
    assert!(bench.succeed().is_empty(), "peers may still use the tunnel");
    assert_eq!(bench.state("p"), Some(&PodState::Withdrawing(Step::Lookup)));
    assert_eq!(bench.pass(), ["undo lookup"]);
    assert_eq!(bench.succeed(), ["await idle p"]);
    assert_eq!(bench.enrolment.poll_timeout(), None);
    assert_eq!(bench.state("p"), Some(&PodState::Withdrawing(Step::Routes)));
    assert!(bench.idle().is_empty(), "last bytes may be on their way");
    assert_eq!(bench.pass(), ["await idle p"]);
    assert_eq!(bench.idle(), ["undo routes"]);
    let rest = ["undo slots", "retire", "undo listeners", "close p", "release cart"];
    assert_eq!(bench.run(), rest);
    let why = NotEnrolled::NamespaceNotLabelled;
    assert_eq!(bench.state("p"), Some(&PodState::NotEnrolled(why)));
}

#[test]
fn a_pod_wanted_again_while_flows_end_is_captured_again_without_reopening() {
    let mut bench = enrolled();
    bench.send(unwanted("p"));
    bench.run();
    bench.pass();
    bench.run();
    assert_eq!(bench.send(wanted("p")), ["do lookup"]);
    assert_eq!(bench.run(), ["do capture", "do hold"]);
    assert_eq!(bench.state("p"), Some(&PodState::Enrolled));
    assert!(bench.idle().is_empty(), "the answer comes too late to matter");
}

#[test]
fn an_answer_to_an_earlier_question_does_not_end_a_later_withdrawal() {
    let mut bench = enrolled();
    bench.send(unwanted("p"));
    bench.run();
    bench.pass();
    bench.run();
    bench.send(wanted("p"));
    bench.run();
    bench.send(unwanted("p"));
    bench.run();
    bench.pass();
    assert_eq!(bench.run(), ["await idle p"]);
    assert!(bench.send(Input::Idle(uid("p"), 1)).is_empty());
    assert_eq!(bench.enrolment.poll_timeout(), None);
    assert!(bench.idle().is_empty());
    assert!(bench.enrolment.poll_timeout().is_some());
}

#[test]
fn a_pod_wanted_again_after_the_workers_gave_it_up_gets_new_listeners() {
    let mut bench = enrolled();
    bench.send(unwanted("p"));
    bench.run();
    bench.pass();
    bench.run();
    bench.idle();
    bench.pass();
    assert_eq!(bench.idle(), ["undo routes"]);
    assert_eq!(bench.succeed(), ["undo slots"]);
    assert_eq!(bench.succeed(), ["retire"]);
    assert!(bench.send(wanted("p")).is_empty(), "one job at a time");
    assert_eq!(bench.succeed(), ["undo listeners"]);
    assert_eq!(bench.run(), UP);
}

#[test]
fn a_pod_unlabelled_while_it_is_enrolled_turns_round_after_the_step() {
    let mut bench = Bench::new();
    bench.send(wanted("p"));
    bench.send(certificate());
    assert_eq!(bench.succeed(), ["do listeners"]);
    assert_eq!(bench.succeed(), ["serve"]);
    assert!(bench.send(unwanted("p")).is_empty());
    assert_eq!(bench.succeed(), ["retire"]);
    assert_eq!(bench.run(), ["undo listeners", "close p", "release cart"]);
}

#[test]
fn a_failed_step_is_undone_with_all_before_it_and_named_and_tried_again() {
    let down = [
        "undo capture",
        "undo lookup",
        "await idle p",
        "undo routes",
        "undo slots",
        "retire",
        "undo listeners",
        "close p",
    ];
    // Which job fails, the step that is named, and where the way down begins.
    let cases = [
        (1, Step::Listeners, 6),
        (2, Step::Listeners, 5),
        (3, Step::Slots, 4),
        (4, Step::Routes, 3),
        (5, Step::Lookup, 1),
        (6, Step::Capture, 0),
    ];
    for (job, step, first) in cases {
        let mut bench = Bench::new();
        bench.send(wanted("p"));
        bench.send(certificate());
        for _ in 0..job {
            bench.succeed();
        }
        let mut all = bench.fail("no memory");
        let failed = PodState::Failed { step: Some(step), error: String::from("no memory") };
        assert_eq!(bench.state("p"), Some(&failed));
        all.extend(bench.run());
        if first < 2 {
            all.extend(bench.idle());
            all.extend(bench.run());
        }
        assert_eq!(all, &down[first..], "after {step:?}");
        assert_eq!(bench.state("p"), Some(&failed));
        assert_eq!(bench.pass(), ["open p"]);
        assert_eq!(bench.run(), UP);
        assert_eq!(bench.state("p"), Some(&PodState::Enrolled));
    }
}

/// It may have started: the CNI plugin was told that it is captured.
#[test]
fn a_captured_pod_that_cannot_be_held_stays_captured_and_is_tried_again() {
    let mut bench = captured();
    assert_eq!(bench.state("p"), Some(&PodState::Enrolling(Step::Hold)));
    let failed = PodState::Failed { step: Some(Step::Hold), error: String::from("busy") };
    for _ in 0..3 {
        assert!(bench.fail("busy").is_empty());
        assert_eq!(bench.state("p"), Some(&failed));
        assert_eq!(bench.pass(), ["do hold"]);
    }
    assert!(bench.succeed().is_empty());
    assert_eq!(bench.state("p"), Some(&PodState::Enrolled));

    let mut bench = captured();
    bench.fail("busy");
    let mut all = bench.send(Input::Gone(uid("p")));
    all.extend(bench.run());
    assert_eq!(all[..DOWN_AT_ONCE.len()], DOWN_AT_ONCE);
}

#[test]
fn at_the_end_a_captured_pod_that_is_not_held_yet_is_held_and_stays() {
    let mut bench = captured();
    assert!(bench.send(Input::Shutdown).is_empty());
    assert!(!bench.enrolment.is_settled());
    assert!(bench.succeed().is_empty());
    assert!(bench.enrolment.is_settled());

    let mut bench = captured();
    bench.fail("busy");
    assert!(bench.send(Input::Shutdown).is_empty());
    assert!(bench.enrolment.is_settled(), "it does not wait for a retry");

    let mut bench = Bench::new();
    bench.send(wanted("p"));
    bench.send(certificate());
    for _ in 0..6 {
        bench.succeed();
    }
    assert!(bench.send(Input::Shutdown).is_empty());
    assert_eq!(bench.run(), ["do hold"], "the capture was under way");
    assert!(bench.enrolment.is_settled());
}

#[test]
fn a_namespace_that_cannot_be_opened_is_tried_again_ever_more_slowly() {
    let mut bench = Bench::new();
    bench.send(wanted("p"));
    bench.send(certificate());
    let mut waits = Vec::new();
    for _ in 0..8 {
        assert!(bench.fail("not this pod's").is_empty());
        let (at, why) = bench.enrolment.poll_timeout().unwrap();
        assert_eq!(why, "retry");
        waits.push((at - bench.now).as_secs());
        assert_eq!(bench.pass(), ["open p"]);
    }
    let allowed = [1..=2, 2..=4, 4..=8, 8..=16, 16..=32, 30..=60, 30..=60, 30..=60];
    for (wait, allowed) in waits.iter().zip(allowed) {
        assert!(allowed.contains(wait), "{waits:?}");
    }
}

#[test]
fn a_change_of_the_target_ends_the_wait_for_the_retry() {
    let mut bench = Bench::new();
    bench.send(wanted("p"));
    bench.send(certificate());
    bench.fail("no such file");
    assert!(bench.send(wanted("p")).is_empty(), "nothing changed");
    let mut moved = target("p", "cart");
    moved.netns = Some("/run/netns/b".into());
    assert_eq!(bench.send(Input::Wanted(moved)), ["open p"]);
}

#[test]
fn another_namespace_or_address_means_withdrawing_at_once_and_enrolling_again() {
    let mut moved = target("p", "cart");
    moved.netns = Some("/run/netns/b".into());
    let mut readdressed = target("p", "cart");
    readdressed.addresses.push("fd00::1".parse().unwrap());
    for changed in [moved, readdressed] {
        let mut bench = enrolled();
        let mut all = bench.send(Input::Wanted(changed));
        all.extend(bench.run());
        let mut expected = DOWN_AT_ONCE.to_vec();
        expected.extend(["close p", "open p"]);
        expected.extend(UP);
        assert_eq!(all, expected);
    }
}

#[test]
fn a_namespace_that_is_no_longer_named_changes_nothing() {
    let mut bench = enrolled();
    let mut unnamed = target("p", "cart");
    unnamed.netns = None;
    assert!(bench.send(Input::Wanted(unnamed)).is_empty());
    assert_eq!(bench.state("p"), Some(&PodState::Enrolled));
}

#[test]
fn another_identity_is_acquired_before_the_pod_is_enrolled_with_it() {
    let mut bench = enrolled();
    let mut all = bench.send(Input::Wanted(target("p", "till")));
    all.extend(bench.run());
    let mut expected = DOWN_AT_ONCE.to_vec();
    expected.extend(["close p", "release cart", "acquire till"]);
    assert_eq!(all, expected);
    assert!(bench.send(certificate()).is_empty(), "not that one");
    assert_eq!(bench.send(Input::CertificateReady(identity("till"))), ["open p"]);
}

#[test]
fn a_deleted_or_finished_pod_is_undone_without_waiting_and_forgotten() {
    let mut bench = enrolled();
    let mut all = bench.send(Input::Gone(uid("p")));
    all.extend(bench.run());
    let mut expected = DOWN_AT_ONCE.to_vec();
    expected.extend(["close p", "release cart"]);
    assert_eq!(all, expected);
    assert_eq!(bench.state("p"), None);

    let mut bench = enrolled();
    let mut all = bench.send(Input::Unwanted(uid("p"), NotEnrolled::Finished));
    all.extend(bench.run());
    assert_eq!(all, expected);
    let why = PodState::NotEnrolled(NotEnrolled::Finished);
    assert_eq!(bench.state("p"), Some(&why));
}

#[test]
fn a_deletion_ends_the_wait_of_a_withdrawal() {
    let mut bench = enrolled();
    bench.send(unwanted("p"));
    bench.run();
    assert_eq!(bench.send(Input::Gone(uid("p"))), ["undo lookup"]);
    assert_eq!(bench.run().last().map(String::as_str), Some("release cart"));
}

#[test]
fn an_undo_that_fails_is_tried_again_and_nothing_below_it_is_touched() {
    let mut bench = enrolled();
    bench.send(unwanted("p"));
    assert!(bench.fail("map is locked").is_empty());
    let failed =
        PodState::Failed { step: Some(Step::Capture), error: String::from("map is locked") };
    assert_eq!(bench.state("p"), Some(&failed));
    assert_eq!(bench.pass(), ["undo capture"]);
    assert!(!withdraw(&mut bench, "p").is_empty());
}

#[test]
fn a_pod_that_leaves_and_returns_waits_for_a_new_certificate() {
    let mut bench = enrolled();
    withdraw(&mut bench, "p");
    assert_eq!(bench.send(wanted("p")), ["acquire cart"]);
    assert_eq!(bench.state("p"), Some(&PodState::AwaitingCertificate));
    assert_eq!(bench.send(certificate()), ["open p"]);
}

#[test]
fn an_adopted_pod_is_taken_up_from_the_first_step() {
    let mut bench = adopted();
    assert_eq!(bench.send(wanted("p")), ["acquire cart"]);
    assert_eq!(bench.send(certificate()), ["open p"]);
    assert_eq!(bench.run(), UP);
    assert_eq!(bench.state("p"), Some(&PodState::Enrolled));
}

#[test]
fn an_adopted_pod_stays_captured_whatever_fails() {
    for job in 0..8 {
        let mut bench = adopted();
        bench.send(wanted("p"));
        bench.send(certificate());
        for _ in 0..job {
            bench.succeed();
        }
        let mut all = bench.fail("no memory");
        all.extend(bench.run());
        all.extend(bench.pass());
        all.extend(bench.run());
        let capture = |text: &&String| ["undo capture", "undo lookup"].contains(&text.as_str());
        assert_eq!(all.iter().find(capture), None, "{all:?}");
        assert_eq!(bench.state("p"), Some(&PodState::Enrolled), "{all:?}");
    }
}

#[test]
fn an_adopted_pod_whose_certificate_does_not_come_is_served_without_after_a_while() {
    let mut bench = adopted();
    bench.send(wanted("p"));
    assert!(bench.wait(Duration::from_secs(9)).is_empty());
    assert_eq!(bench.state("p"), Some(&PodState::AwaitingCertificate));
    assert_eq!(bench.wait(Duration::from_secs(1)), ["open p"]);
    assert_eq!(bench.run(), UP);

    let mut twin = Bench::new();
    twin.send(wanted("p"));
    assert_eq!(twin.enrolment.poll_timeout(), None);
    assert!(twin.wait(Duration::from_secs(3600)).is_empty());
}

#[test]
fn nothing_adopted_is_forgotten_before_the_first_complete_list() {
    let mut bench = adopted();
    assert!(bench.send(unwanted("p")).is_empty());
    assert!(bench.send(Input::Gone(uid("p"))).is_empty());
    assert_eq!(bench.send(Input::Synced), ["forget p"]);
    bench.run();
    assert_eq!(bench.state("p"), None);
}

#[test]
fn an_adopted_pod_that_discovery_does_not_name_is_forgotten() {
    let mut bench = adopted();
    assert_eq!(bench.send(Input::Synced), ["forget p"]);
    assert!(bench.fail("busy").is_empty());
    assert_eq!(bench.pass(), ["forget p"]);
    assert!(bench.run().is_empty());
    assert_eq!(bench.enrolment.poll_timeout(), None);
}

#[test]
fn an_adopted_pod_whose_namespace_is_gone_is_forgotten_and_enrolled_anew() {
    let mut bench = Bench::new();
    let gone = Input::Adopted { uid: uid("p"), alive: false };
    assert_eq!(bench.send(gone), ["forget p"]);
    assert_eq!(bench.send(wanted("p")), ["acquire cart"]);
    assert!(bench.send(certificate()).is_empty(), "one job at a time");
    assert_eq!(bench.run()[0], "open p");
    assert_eq!(bench.state("p"), Some(&PodState::Enrolled));
}

#[test]
fn an_adopted_pod_that_left_the_mesh_meanwhile_is_released() {
    let mut bench = adopted();
    bench.send(unwanted("p"));
    bench.send(Input::Synced);
    bench.run();
    let why = NotEnrolled::NamespaceNotLabelled;
    assert_eq!(bench.state("p"), Some(&PodState::NotEnrolled(why)));
}

#[test]
fn an_adopted_pod_unlabelled_half_way_is_undone_from_the_capture_down() {
    let mut bench = adopted();
    bench.send(wanted("p"));
    bench.send(Input::Synced);
    bench.send(certificate());
    assert_eq!(bench.succeed(), ["do listeners"]);
    bench.send(unwanted("p"));
    let all = bench.run();
    let expected = [
        "undo capture",
        "undo lookup",
        "undo routes",
        "undo slots",
        "undo listeners",
        "close p",
        "release cart",
    ];
    assert_eq!(all, expected);
}

#[test]
fn at_the_end_captured_pods_stay_and_half_enrolled_ones_are_undone() {
    let mut bench = enrolled();
    bench.send(wanted("q"));
    bench.succeed();
    bench.succeed();
    assert!(!bench.enrolment.is_settled());
    assert!(bench.send(Input::Shutdown).is_empty());
    let expected = ["retire", "undo listeners", "close q"];
    assert_eq!(bench.run(), expected);
    assert_eq!(bench.state("p"), Some(&PodState::Enrolled));
    assert!(bench.enrolment.is_settled());
    assert!(bench.send(wanted("r")).is_empty(), "nothing new begins");
}

const DOWN_AT_ONCE: [&str; 6] =
    ["undo capture", "undo lookup", "undo routes", "undo slots", "retire", "undo listeners"];

#[test]
fn no_order_of_events_breaks_the_order_of_steps_or_loses_a_pod() {
    for seed in 0..3000 {
        let mut state = seed;
        let mut bytes = Vec::new();
        while bytes.len() < 400 {
            state = splitmix(state);
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        let outcome = std::panic::catch_unwind(|| walk(&bytes));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

fn wanted(uid: &str) -> Input {
    Input::Wanted(target(uid, "cart"))
}

fn unwanted(uid: &str) -> Input {
    Input::Unwanted(self::uid(uid), NotEnrolled::NamespaceNotLabelled)
}

fn certificate() -> Input {
    Input::CertificateReady(identity("cart"))
}

/// The last step of the pod `p` is being done.
fn captured() -> Bench {
    let mut bench = Bench::new();
    bench.send(wanted("p"));
    bench.send(certificate());
    for _ in UP {
        bench.succeed();
    }
    bench
}

/// The pod `p` is enrolled.
fn enrolled() -> Bench {
    let mut bench = Bench::new();
    bench.send(wanted("p"));
    bench.send(certificate());
    bench.run();
    assert_eq!(bench.state("p"), Some(&PodState::Enrolled));
    bench
}

/// An earlier agent left `p` captured.
fn adopted() -> Bench {
    let mut bench = Bench::new();
    let left = Input::Adopted { uid: uid("p"), alive: true };
    assert!(bench.send(left).is_empty());
    bench
}

/// The label goes, and nothing holds the withdrawal up.
fn withdraw(bench: &mut Bench, uid: &str) -> Vec<String> {
    let mut all = bench.send(unwanted(uid));
    for _ in 0..3 {
        all.extend(bench.run());
        if all.last().is_some_and(|text| text.starts_with("await")) {
            all.extend(bench.idle());
            all.extend(bench.run());
        }
        if bench.enrolment.poll_timeout().is_some() {
            all.extend(bench.pass());
        }
    }
    if all.last().is_some_and(|text| text.starts_with("await")) {
        all.extend(bench.idle());
        all.extend(bench.run());
    }
    all
}
