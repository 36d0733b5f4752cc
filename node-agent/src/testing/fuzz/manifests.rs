//! A manifest as somebody may write it: the text of a file in YAML or JSON, on its way into the
//! world.

use adit_core::identity::TrustDomain;
use adit_core::world::World;

use crate::discovery::manifests;

/// The first byte says whether the file is JSON; the rest is its text.
///
/// # Panics
/// If what the file says is not what the world says then.
pub fn manifests(bytes: &[u8]) {
    let Some((first, text)) = bytes.split_first() else {
        return;
    };
    let Ok(domain) = TrustDomain::parse("cluster.local") else {
        panic!("a fixed trust domain");
    };
    let text = String::from_utf8_lossy(text);
    let (deltas, errors) = manifests::read_text(&text, *first == b'j', &domain);
    assert!(errors.iter().all(|error| !error.is_empty()));

    let (world, _changes) = World::default().apply(deltas.clone());

    let (same, changes) = world.apply(deltas);
    let touched = (&changes.namespaces, &changes.workloads, &changes.services);
    let nothing = changes.namespaces.is_empty()
        && changes.workloads.is_empty()
        && changes.services.is_empty();
    assert!(nothing, "the same once more changed {touched:?}");
    for pod in same.workloads() {
        assert_eq!(same.workload(&pod.uid).map(|pod| &pod.name), Some(&pod.name));
        assert_eq!(*pod.identity.trust_domain(), domain);
        for address in &pod.addresses {
            let owner = same.workload_at(*address);
            assert!(owner.is_none_or(|owner| owner.addresses.contains(address)), "{address}");
        }
    }
    for service in same.services() {
        let dialled = service.vips.iter().all(|vip| same.service_at(*vip).is_some());
        assert!(dialled, "{:?} cannot be dialled", service.name);
    }
}
