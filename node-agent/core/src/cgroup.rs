//! Which pod a process belongs to, by the cgroup it is in.

use crate::workload::PodUid;

/// The pod that a file `/proc/<pid>/cgroup` (cgroups(7)) names, or `None` if it names none or two.
///
/// A kubelet makes one cgroup for each pod, below `kubepods`: with the cgroupfs driver
/// `kubepods/burstable/pod<uid>`, with systemd's `kubepods-burstable-pod<uid>.slice`, where the UID has
/// `_` for `-`. A kubelet with a `cgroupRoot` of its own, as kind's, puts that in front: `kubelet-kubepods-…`.
/// Only the first one on a path counts: what is below it, the pod may have made itself.
///
/// To a reader with a cgroup namespace of its own, as a container has with cgroup v2, paths begin at the
/// reader's cgroup and climb from there, and `kubepods` may be among what is not shown: `/../../pod<uid>/<id>`
/// (cgroup_namespaces(7)).
#[must_use]
pub fn pod_of(file: &str) -> Option<PodUid> {
    let mut found = None;
    for line in file.lines() {
        // hierarchy-ID:controller-list:cgroup-path; version 2 leaves the list empty.
        let Some(path) = line.splitn(3, ':').nth(2) else { continue };
        let Some(uid) = pod_on(path) else { continue };
        match &found {
            Some(other) if *other != uid => return None,
            _ => found = Some(uid),
        }
    }
    found
}

/// Whether a file `/proc/<pid>/cgroup` names a cgroup of any pod's, wherever its reader is.
#[must_use]
pub fn is_in_a_pod(file: &str) -> bool {
    let mut paths = file.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.any(|path| {
        let mut components = path.split('/');
        components.any(|name| is_of_kubepods(name) || name.starts_with("pod"))
    })
}

fn pod_on(path: &str) -> Option<PodUid> {
    if let Some(uid) = pod_beside_reader(path) {
        return Some(uid);
    }
    let mut components = path.split('/').skip_while(|name| !is_of_kubepods(name));
    components.find_map(|name| {
        if let Some(slice) = name.strip_suffix(".slice") {
            let (before, uid) = slice.rsplit_once("-pod")?;
            return is_of_kubepods(before).then(|| uid_of(&uid.replace('_', "-")))?;
        }
        uid_of(name.strip_prefix("pod")?)
    })
}

/// The cgroupfs driver's `/../[../](burstable/ | besteffort/)pod<uid>`, as a reader in a pod's cgroup sees other pods.
fn pod_beside_reader(path: &str) -> Option<PodUid> {
    let mut below = path.strip_prefix("/../")?;
    while let Some(shorter) = below.strip_prefix("../") {
        below = shorter;
    }
    let (first, rest) = below.split_once('/').unwrap_or((below, ""));
    let pod = match first {
        "burstable" | "besteffort" => rest.split('/').next()?,
        _ => first,
    };
    uid_of(pod.strip_prefix("pod")?)
}

fn is_of_kubepods(name: &str) -> bool {
    name.starts_with("kubepods") || name.contains("-kubepods")
}

/// A UID as the API server gives it, or the hash that a kubelet gives to a static pod.
fn uid_of(text: &str) -> Option<PodUid> {
    let digits = text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    (digits && matches!(text.len(), 32 | 36)).then(|| PodUid::parse(text))?
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0d0ba8a6-1f3c-4b37-9d5e-0f6f0d4d3f11";

    fn pod(file: &str) -> Option<String> {
        pod_of(file).map(|uid| uid.as_str().to_owned())
    }

    #[test]
    fn each_driver_and_version_names_the_pod_in_its_way() {
        for path in [
            format!("0::/kubepods/burstable/pod{UID}/0123abcd"),
            format!("0::/kubepods/pod{UID}/0123abcd"),
            format!("12:memory:/lab-n1/kubepods/besteffort/pod{UID}/0123abcd\n0::/lab-n1\n"),
            format!(
                "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice/cri-containerd-0123.scope",
                UID.replace('-', "_")
            ),
            format!("0::/../../kubepods-pod{}.slice/crio-0123.scope", UID.replace('-', "_")),
            format!(
                "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{}.slice/cri-containerd-0123.scope",
                UID.replace('-', "_")
            ),
        ] {
            assert_eq!(pod(&path).as_deref(), Some(UID), "{path}");
        }
        let hash = "0123456789abcdef0123456789abcdef";
        assert_eq!(pod(&format!("0::/kubepods/pod{hash}/c")).as_deref(), Some(hash));
    }

    #[test]
    fn a_reader_with_a_cgroup_namespace_of_its_own_finds_the_pods_around_it() {
        // Read below kubepods/burstable/pod<other>/<id>, from Linux 6.18.
        for path in ["/../..", "/../../../besteffort", "/../../.."] {
            assert_eq!(pod(&format!("0::{path}/pod{UID}/c")).as_deref(), Some(UID), "{path}");
        }
        let other = UID.replace('0', "1");
        let nested = format!("0::/../../pod{UID}/c/kubepods/pod{other}");
        assert_eq!(pod(&nested).as_deref(), Some(UID), "what a pod made itself");
        for path in ["/../c", "/../c/burstable", "/burstable", "/../../../../user.slice", "/.."] {
            assert_eq!(pod(&format!("0::{path}/x/pod{UID}")), None, "{path}");
        }
        assert_eq!(pod(&format!("0::/burstable/pod{UID}/c")), None, "below the reader itself");
    }

    #[test]
    fn what_a_pod_makes_below_its_own_cgroup_changes_nothing() {
        let other = UID.replace('0', "1");
        let file = format!("0::/kubepods/pod{UID}/c/kubepods/pod{other}");
        assert_eq!(pod(&file).as_deref(), Some(UID));
    }

    #[test]
    fn two_pods_in_one_file_are_none() {
        let other = UID.replace('0', "1");
        assert_eq!(pod(&format!("1:cpu:/kubepods/pod{UID}/c\n0::/kubepods/pod{other}/c")), None);
    }

    #[test]
    fn a_process_outside_of_pods_belongs_to_none() {
        for file in [
            "",
            "0::/",
            "nonsense",
            "0::/system.slice/kubelet.service",
            "0::/user.slice/pod0d0ba8a6-1f3c-4b37-9d5e-0f6f0d4d3f11",
            "0::/kubepods/pod../../etc",
            "0::/kubepods/burstable/podcast",
            "0::/kubepods/pod0d0ba8a6-1f3c-4b37-9d5e-0f6f0d4d3f1/x",
        ] {
            assert_eq!(pod(file), None, "{file}");
        }
    }

    #[test]
    fn a_process_is_in_a_pod_wherever_its_path_begins() {
        for path in [
            "/kubepods/burstable/pod0d0ba8a6/x",
            "/kubepods.slice/kubepods-pod1.slice/cri-1.scope",
            "/../../pod0d0ba8a6-1f3c-4b37-9d5e-0f6f0d4d3f11/x",
        ] {
            assert!(is_in_a_pod(&format!("1:name=systemd:/\n0::{path}\n")), "{path}");
        }
        for path in ["/system.slice/kubelet.service", "/", "/../../../lab-n1"] {
            assert!(!is_in_a_pod(&format!("0::{path}\n")), "{path}");
        }
    }
}
