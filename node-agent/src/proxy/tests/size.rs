//! What a flow costs while it waits: its task is the largest part of it.

use std::future::Future;

use super::super::{inbound_plaintext, inbound_tunnelled, outbound};

/// What an open flow's task may hold, in bytes.
const TASK: usize = 1024;

#[test]
fn the_task_of_a_flow_is_small() {
    let sizes = [of_two(outbound), of_three(inbound_plaintext), of_three(inbound_tunnelled)];
    assert!(sizes.iter().all(|size| *size <= TASK), "{sizes:?}");
}

fn of_two<A, B, F: Future>(_task: impl FnOnce(A, B) -> F) -> usize {
    size_of::<F>()
}

fn of_three<A, B, C, F: Future>(_task: impl FnOnce(A, B, C) -> F) -> usize {
    size_of::<F>()
}
