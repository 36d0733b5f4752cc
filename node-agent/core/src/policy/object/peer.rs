//! PeerAuthentication.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::{PolicyId, PolicyKind, Selector};
use crate::policy::invalid::{Gap, GapReason, Invalid, Why};
use crate::policy::matcher::port;
use crate::policy::spec::PeerAuthenticationSpec;

/// What a PeerAuthentication says of plaintext. Istio's `UNSET` is the absence of a mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Tunnels are not wanted. As in Istio's ambient mode, where a tunnel is not the application's
    /// business, this is the same as [`Mode::Permissive`].
    Disable,
    /// Tunnels and plaintext are accepted.
    Permissive,
    /// Only tunnels are accepted.
    Strict,
}

/// Whether plaintext is accepted, for a mesh, a namespace or the pods that a selector names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAuthentication {
    id: Arc<PolicyId>,
    created: Option<SystemTime>,
    dry_run: bool,
    selector: Selector,
    mode: Option<Mode>,
    port_modes: BTreeMap<u16, Option<Mode>>,
    gaps: Vec<Gap>,
    closed: bool,
}

impl PeerAuthentication {
    /// Checks a manifest.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn try_new(spec: PeerAuthenticationSpec) -> Result<Self, Vec<Invalid>> {
        let (policy, wrong) = Self::check(spec);
        if wrong.is_empty() { Ok(policy) } else { Err(wrong) }
    }

    /// The narrowest reading of a manifest that is not valid, for one whose last good version is not
    /// known: STRICT on every port. A label of the selector that is invalid counts as absent.
    #[must_use]
    pub fn closed(spec: PeerAuthenticationSpec) -> Self {
        let (policy, _wrong) = Self::check(spec);
        Self { mode: Some(Mode::Strict), port_modes: BTreeMap::new(), closed: true, ..policy }
    }

    /// The policy without what is wrong with it, and that.
    fn check(spec: PeerAuthenticationSpec) -> (Self, Vec<Invalid>) {
        let mut wrong = Vec::new();
        let mut gaps = Vec::new();
        let mut mode = |field: &str, text: &str, wrong: &mut Vec<Invalid>| match Mode::parse(text) {
            Ok(mode) => {
                if mode == Some(Mode::Disable) {
                    gaps.push(GapReason::Disable.at(field));
                }
                mode
            }
            Err(why) => {
                wrong.push(why.at(field, text));
                None
            }
        };
        let whole = mode("spec.mtls.mode", &spec.mode, &mut wrong);
        let mut port_modes = BTreeMap::new();
        for (number, text) in &spec.port_modes {
            let field = format!("spec.portLevelMtls[{number}]");
            let mode = mode(&format!("{field}.mode"), text, &mut wrong);
            match port(number) {
                Ok(0) | Err(_) => wrong.push(Why::Port.at(field, number)),
                Ok(number) => {
                    port_modes.insert(number, mode);
                }
            }
        }
        if spec.selector.is_empty() && !spec.port_modes.is_empty() {
            wrong.push(Why::PortsWithoutSelector.at("spec.portLevelMtls", ""));
        }
        let selector = Selector::check(&spec.selector, &mut wrong);
        for field in spec.unsupported {
            gaps.push(Gap { field, why: GapReason::NoEffect });
        }
        let id = PolicyId { kind: PolicyKind::PeerAuthentication, name: spec.name };
        let policy = Self {
            id: Arc::new(id),
            created: spec.created,
            dry_run: spec.dry_run,
            selector,
            mode: whole,
            port_modes,
            gaps,
            closed: false,
        };
        (policy, wrong)
    }

    /// Its kind and name.
    #[must_use]
    pub const fn id(&self) -> &Arc<PolicyId> {
        &self.id
    }

    /// When it was created; the oldest of several at the same place is in force.
    #[must_use]
    pub const fn created(&self) -> Option<SystemTime> {
        self.created
    }

    /// Whether it is only evaluated.
    #[must_use]
    pub const fn dry_run(&self) -> bool {
        self.dry_run
    }

    /// Whether it is [the narrowest reading](Self::closed) of a manifest that is not valid.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// The pods it is for.
    #[must_use]
    pub const fn selector(&self) -> &Selector {
        &self.selector
    }

    /// Its mode; `None` inherits.
    #[must_use]
    pub const fn mode(&self) -> Option<Mode> {
        self.mode
    }

    /// The modes of single ports; `None` takes the policy's.
    #[must_use]
    pub const fn port_modes(&self) -> &BTreeMap<u16, Option<Mode>> {
        &self.port_modes
    }

    /// What of it is not enforced as it is written. Where it stands may add to that: see
    /// [`PolicySet::gaps`](crate::policy::PolicySet::gaps).
    #[must_use]
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }
}

impl Mode {
    fn parse(text: &str) -> Result<Option<Self>, Why> {
        match text {
            "" | "UNSET" => Ok(None),
            "DISABLE" => Ok(Some(Self::Disable)),
            "PERMISSIVE" => Ok(Some(Self::Permissive)),
            "STRICT" => Ok(Some(Self::Strict)),
            _ => Err(Why::Mode),
        }
    }

    /// Istio's spelling.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Disable => "DISABLE",
            Self::Permissive => "PERMISSIVE",
            Self::Strict => "STRICT",
        }
    }
}
