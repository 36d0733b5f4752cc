//! Whether a pod that is being made may start: what the agent answers to the CNI plugin, and what the
//! plugin decides alone while no agent answers.

use std::collections::{BTreeMap, BTreeSet};

use crate::enrolment::{NotEnrolled, PodState, Step};
use crate::workload::{MeshMode, PodUid};

/// The longest `CNI_ARGS` that is read, in bytes.
const LONGEST_ARGS: usize = 16 << 10;

/// The pod that a runtime makes, as `CNI_ARGS` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartingPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, where the runtime tells it.
    pub uid: Option<PodUid>,
}

/// Why `CNI_ARGS` cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// Not `KEY=VALUE` between semicolons.
    #[error("not KEY=VALUE between semicolons")]
    Syntax,
    /// Longer than any runtime writes.
    #[error("longer than {LONGEST_ARGS} bytes")]
    TooLong,
    /// A key stands there twice.
    #[error("{0} is given twice")]
    Twice(&'static str),
    /// A value is no name or no UID.
    #[error("{0} is not valid")]
    Value(&'static str),
}

/// What a plugin knows without the agent: who had to be enrolled when the agent saw to it last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Remembered {
    /// The namespaces with `adit.dev/mode: ambient`.
    pub namespaces: BTreeSet<String>,
    /// Pods of this node that another label of their own puts in (`true`) or out, by their UID, static
    /// pods by [`StartingPod::static_key`].
    pub pods: BTreeMap<String, bool>,
}

/// What the agent says of a pod that is being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It does not belong to the mesh.
    Pass,
    /// It is captured and served.
    Enrolled,
    /// It belongs to the mesh, and will never be enrolled.
    Refuse(NotEnrolled),
    /// It belongs to the mesh and is not enrolled yet.
    Wait,
    /// Discovery does not know the pod yet, and its namespace is not opted in: it belongs to the mesh
    /// only if its own label says so, which will be known in a moment.
    WaitBriefly,
}

/// What is to be said of a pod in this state, `None` if discovery does not know it, in a namespace of
/// this mode, `None` if discovery does not know that either. `here`: the state is that of the sandbox
/// that is asked about, not of the pod's last one.
#[must_use]
pub fn admit(pod: Option<&PodState>, here: bool, namespace: Option<MeshMode>) -> Admission {
    match (pod, namespace) {
        // What is left to do is for the time when the agent is away.
        (Some(PodState::Enrolled | PodState::Enrolling(Step::Hold)), _) if here => {
            Admission::Enrolled
        }
        (Some(PodState::NotEnrolled(why)), _) if why.is_refusal() => Admission::Refuse(*why),
        // The state is from before the namespace, or its label, was heard of.
        (
            Some(PodState::NotEnrolled(NotEnrolled::NamespaceNotLabelled)),
            None | Some(MeshMode::Ambient),
        ) => Admission::Wait,
        (Some(PodState::NotEnrolled(_)), _) => Admission::Pass,
        (Some(_), _) | (None, None | Some(MeshMode::Ambient)) => Admission::Wait,
        (None, Some(MeshMode::Unset | MeshMode::None)) => Admission::WaitBriefly,
    }
}

impl Remembered {
    /// Whether a pod must be enrolled before it starts, as far as is known.
    #[must_use]
    pub fn must_be_enrolled(&self, pod: &StartingPod) -> bool {
        let own = pod.uid.as_ref().and_then(|uid| self.pods.get(uid.as_str()));
        let own = own.or_else(|| self.pods.get(&pod.static_key()?));
        own.copied().unwrap_or_else(|| self.namespaces.contains(&pod.namespace))
    }
}

impl StartingPod {
    /// What a static pod is remembered by. With its UID alone, whoever may make pods could speak for a
    /// pod that is not theirs, for a mirror may claim any UID.
    #[must_use]
    pub fn static_key(&self) -> Option<String> {
        let Self { namespace, name, uid } = self;
        Some(format!("{namespace}/{name}/{}", uid.as_ref()?))
    }

    /// Reads `CNI_ARGS` (CNI specification 1.0, section 2) with the keys of Kubernetes' runtimes;
    /// `None` if they name no pod.
    ///
    /// # Errors
    /// Why they cannot be believed.
    pub fn from_args(args: &str) -> Result<Option<Self>, ArgsError> {
        const NAMESPACE: &str = "K8S_POD_NAMESPACE";
        const NAME: &str = "K8S_POD_NAME";
        const UID: &str = "K8S_POD_UID";
        if args.len() > LONGEST_ARGS {
            return Err(ArgsError::TooLong);
        }
        let (mut namespace, mut name, mut uid) = (None, None, None);
        for pair in args.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or(ArgsError::Syntax)?;
            let (place, key) = match key {
                NAMESPACE => (&mut namespace, NAMESPACE),
                NAME => (&mut name, NAME),
                UID => (&mut uid, UID),
                _ => continue,
            };
            if place.replace(value).is_some() {
                return Err(ArgsError::Twice(key));
            }
        }
        let (Some(namespace), Some(name)) = (namespace, name) else {
            return Ok(None);
        };
        if !is_name(namespace, 63) || namespace.contains('.') {
            return Err(ArgsError::Value(NAMESPACE));
        }
        if !is_name(name, 253) {
            return Err(ArgsError::Value(NAME));
        }
        let uid = uid.filter(|text| !text.is_empty());
        let uid = uid.map(|text| PodUid::parse(text).ok_or(ArgsError::Value(UID))).transpose()?;
        Ok(Some(Self { namespace: namespace.to_owned(), name: name.to_owned(), uid }))
    }
}

/// RFC 1123, as Kubernetes has it.
fn is_name(text: &str, longest: usize) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_label = |label: &str| {
        let ends = [label.bytes().next(), label.bytes().last()];
        ends.iter().all(|end| end.is_some_and(alphanumeric))
            && label.bytes().all(|b| alphanumeric(b) || b == b'-')
    };
    text.len() <= longest && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrolment::Step;

    fn pod(args: &str) -> StartingPod {
        StartingPod::from_args(args).unwrap().unwrap()
    }

    #[test]
    fn the_pod_is_read_whatever_the_order_of_the_arguments() {
        for args in [
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0;K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=u-1",
            "K8S_POD_UID=u-1;K8S_POD_NAME=cart-0;K8S_POD_NAMESPACE=shop;",
        ] {
            let read = pod(args);
            assert_eq!((&*read.namespace, &*read.name), ("shop", "cart-0"));
            assert_eq!(read.uid.unwrap().as_str(), "u-1");
        }
        assert_eq!(pod("K8S_POD_NAMESPACE=a;K8S_POD_NAME=b").uid, None);
        assert_eq!(pod("K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_UID=").uid, None);
    }

    #[test]
    fn arguments_without_a_pod_are_of_no_pod() {
        for args in ["", ";;", "IgnoreUnknown=1", "K8S_POD_NAME=b", "K8S_POD_NAMESPACE=a"] {
            assert_eq!(StartingPod::from_args(args), Ok(None), "{args}");
        }
    }

    #[test]
    fn hostile_arguments_are_refused() {
        let base = "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b";
        let long = "x=y;".repeat(LONGEST_ARGS);
        for (args, error) in [
            (format!("{base};nonsense"), ArgsError::Syntax),
            (long, ArgsError::TooLong),
            (format!("{base};K8S_POD_NAMESPACE=c"), ArgsError::Twice("K8S_POD_NAMESPACE")),
            ("K8S_POD_NAMESPACE=../a;K8S_POD_NAME=b".into(), ArgsError::Value("K8S_POD_NAMESPACE")),
            ("K8S_POD_NAMESPACE=;K8S_POD_NAME=b".into(), ArgsError::Value("K8S_POD_NAMESPACE")),
            ("K8S_POD_NAMESPACE=a;K8S_POD_NAME=\"".into(), ArgsError::Value("K8S_POD_NAME")),
            (format!("{base};K8S_POD_UID=/etc"), ArgsError::Value("K8S_POD_UID")),
        ] {
            assert_eq!(
                StartingPod::from_args(&args),
                Err(error),
                "{}",
                &args[..args.len().min(80)]
            );
        }
    }

    #[test]
    fn alone_the_plugin_holds_pods_of_opted_in_namespaces_and_lets_the_others_start() {
        let remembered = Remembered {
            namespaces: BTreeSet::from(["shop".to_owned()]),
            pods: BTreeMap::from([("out".to_owned(), false), ("in".to_owned(), true)]),
        };
        let must = |namespace: &str, uid: &str| {
            remembered.must_be_enrolled(&pod(&format!(
                "K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=p;K8S_POD_UID={uid}"
            )))
        };
        assert!(must("shop", "new") && must("bank", "in"));
        assert!(!must("bank", "new") && !must("shop", "out"));
        assert!(
            !Remembered::default().must_be_enrolled(&pod("K8S_POD_NAMESPACE=a;K8S_POD_NAME=b"))
        );
    }

    #[test]
    fn a_static_pod_is_remembered_by_all_that_the_runtime_says_of_it() {
        let pods = BTreeMap::from([("shop/proxy-n1/h-1".to_owned(), false)]);
        let remembered = Remembered { namespaces: BTreeSet::from(["shop".to_owned()]), pods };
        for (name, uid, must) in
            [("proxy-n1", "h-1", false), ("other", "h-1", true), ("proxy-n1", "h-2", true)]
        {
            let args = format!("K8S_POD_NAMESPACE=shop;K8S_POD_NAME={name};K8S_POD_UID={uid}");
            assert_eq!(remembered.must_be_enrolled(&pod(&args)), must, "{args}");
        }
    }

    #[test]
    fn a_pod_starts_once_it_is_enrolled_or_known_not_to_belong() {
        let out = PodState::NotEnrolled(NotEnrolled::PodOptedOut);
        let unlabelled = PodState::NotEnrolled(NotEnrolled::NamespaceNotLabelled);
        let of_a_file = PodState::NotEnrolled(NotEnrolled::StaticPod);
        let on_its_way = PodState::Enrolling(Step::Routes);
        let failed = PodState::Failed { step: None, error: "no".into() };
        for (state, namespace, expected) in [
            (Some(&PodState::Enrolled), Some(MeshMode::Ambient), Admission::Enrolled),
            (Some(&PodState::Enrolling(Step::Hold)), Some(MeshMode::Ambient), Admission::Enrolled),
            (Some(&PodState::Enrolling(Step::Capture)), Some(MeshMode::Ambient), Admission::Wait),
            (Some(&out), Some(MeshMode::Ambient), Admission::Pass),
            (Some(&out), None, Admission::Pass),
            (Some(&unlabelled), Some(MeshMode::Unset), Admission::Pass),
            (Some(&unlabelled), Some(MeshMode::None), Admission::Pass),
            (Some(&unlabelled), Some(MeshMode::Ambient), Admission::Wait),
            (Some(&unlabelled), None, Admission::Wait),
            (Some(&of_a_file), Some(MeshMode::Ambient), Admission::Refuse(NotEnrolled::StaticPod)),
            (Some(&on_its_way), Some(MeshMode::Unset), Admission::Wait),
            (Some(&failed), Some(MeshMode::Ambient), Admission::Wait),
            (Some(&PodState::AwaitingCertificate), Some(MeshMode::Ambient), Admission::Wait),
            (None, Some(MeshMode::Ambient), Admission::Wait),
            (None, None, Admission::Wait),
            (None, Some(MeshMode::Unset), Admission::WaitBriefly),
            (None, Some(MeshMode::None), Admission::WaitBriefly),
        ] {
            assert_eq!(admit(state, true, namespace), expected, "{state:?} {namespace:?}");
            // What it was in its last sandbox lets it start in no other.
            let starts = expected == Admission::Enrolled;
            let elsewhere = if starts { Admission::Wait } else { expected };
            assert_eq!(admit(state, false, namespace), elsewhere, "{state:?} {namespace:?}");
        }
    }
}
