//! The rules, the routes and the sysctls that bring marked connections to the agent, in a pod's
//! namespace, by rtnetlink.
//!
//! Rule 100 sends the mark to table 100, whose default route is local: the packet goes to the
//! loopback interface, where the look-up program sees it. A second route for each interface serves
//! sockets bound to that interface. Rule 101 refuses what table 100 did not take (an interface that
//! came later, IPv6 switched on later), so that a marked packet never leaves the pod.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use adit_shared::key::{MARK, MARK_MASK};
use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion, LinkUnspec};
use tokio::task::JoinHandle;

use crate::datapath::DatapathError;
use crate::sys::errno::{EACCES, EAFNOSUPPORT, ENODEV, ENOENT, EOPNOTSUPP, ESRCH};
use crate::sys::interfaces::{Device, Interfaces};
use crate::sys::netns::Netns;

const TABLE: u8 = 100;
const LOOKUP_PRIORITY: u32 = 100;
const REFUSE_PRIORITY: u32 = 101;
/// Who made a rule or a route (`rtm_protocol`): a number that no routing daemon uses (linux/rtnetlink.h,
/// iproute2's rt_protos), so that only adit's own are ever removed.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(0xad);
const LOOPBACK_INDEX: u32 = 1;
/// Accepted sockets take over the mark of the connection, so that what an application answers to a
/// client's address goes back to the agent; and so does a refusal, which no socket sends.
const SYSCTLS: [&str; 3] = [
    "/proc/sys/net/ipv4/tcp_fwmark_accept",
    "/proc/sys/net/ipv4/fwmark_reflect",
    "/proc/sys/net/ipv6/fwmark_reflect",
];

/// What to set up.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// The addresses that captured connections of each family come from, unless they are bound: a
    /// local route would pick the destination as source.
    pub v4: Option<IpAddr>,
    /// None for a pod that has no IPv6 but link-local addresses, which reach nothing that is captured
    /// and which the kernel accepts as the source of a route by their own device only
    /// (`ipv6_chk_addr`): then no IPv6 route stands, and the refusing rule answers at once, as
    /// without adit.
    pub v6: Option<IpAddr>,
    pub devices: Vec<Device>,
}

impl Plan {
    /// `preferred` are the pod's addresses as Kubernetes knows them.
    pub(super) fn new(interfaces: &Interfaces, preferred: &[IpAddr]) -> Self {
        let found = &interfaces.addresses;
        let source = |wanted: fn(&IpAddr) -> bool| {
            let known = preferred.iter().find(|ip| wanted(ip) && found.contains(ip));
            let global = || found.iter().find(|ip| wanted(ip) && !is_link_local(ip));
            known.or_else(global).copied()
        };
        let any_v4 = || found.iter().find(|ip| ip.is_ipv4()).copied();
        Self {
            v4: source(IpAddr::is_ipv4).or_else(any_v4),
            v6: source(IpAddr::is_ipv6),
            devices: interfaces.devices.clone(),
        }
    }
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// rtnetlink inside a namespace. Its task ends with it.
#[derive(Debug)]
pub(super) struct Routes {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Drop for Routes {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Routes {
    /// Opens a connection in a pod's namespace.
    pub(super) fn of(netns: &Netns) -> Result<Self, DatapathError> {
        within(netns, Self::here)
    }

    /// Opens a connection in the namespace the calling thread is in.
    pub(super) fn here() -> Result<Self, DatapathError> {
        let (connection, handle, _messages) = rtnetlink::new_connection()
            .map_err(|source| failed("open a netlink socket", source))?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// Makes everything of the plan that is not there. The routes come first: a rule without them
    /// would refuse connections.
    pub(super) async fn add(&self, plan: &Plan) -> Result<(), DatapathError> {
        self.add_v4(plan).await?;
        // A kernel without IPv6 has nothing to route.
        if Path::new("/proc/sys/net/ipv6").exists() {
            self.add_v6(plan).await?;
        }
        Ok(())
    }

    pub(super) async fn add_v4(&self, plan: &Plan) -> Result<(), DatapathError> {
        self.add_family(IpVersion::V4, plan).await
    }

    pub(super) async fn add_v6(&self, plan: &Plan) -> Result<(), DatapathError> {
        self.add_family(IpVersion::V6, plan).await
    }

    /// Brings the loopback interface up.
    pub(super) async fn set_loopback_up(&self) -> Result<(), DatapathError> {
        let up = LinkUnspec::new_with_index(LOOPBACK_INDEX).up().build();
        let set = self.handle.link().set(up).execute().await;
        set.map_err(|source| failed("bring the loopback interface up", kernel(source)))
    }

    async fn add_family(&self, family: IpVersion, plan: &Plan) -> Result<(), DatapathError> {
        let loopback = Device { name: "lo".to_owned(), index: LOOPBACK_INDEX };
        // Metrics differ, because NLM_F_REPLACE replaces the route with the same one.
        let routed = family != IpVersion::V6 || plan.v6.is_some();
        let devices = [&loopback].into_iter().chain(&plan.devices).filter(|_| routed);
        for (metric, device) in (9..).zip(devices) {
            let route = route(&family, device, metric, plan);
            let added = self.handle.route().add(route).replace().execute().await;
            let added = added.map_err(kernel);
            match added {
                Err(error) if family == IpVersion::V6 && is_disabled(&error) => {
                    // disable_ipv6=1: nothing can leave by it; rule 101 stands for later.
                    tracing::debug!(device = device.name, "IPv6 is off: no route for it");
                }
                added => added.map_err(|source| failed("add a route to table 100", source))?,
            }
        }
        let lookup = self.add_rule(&family, LOOKUP_PRIORITY, RuleAction::ToTable);
        already_is_fine(lookup.await)
            .map_err(|source| failed("add the rule for the mark (preference 100)", source))?;
        let refuse = self.add_rule(&family, REFUSE_PRIORITY, RuleAction::Unreachable);
        already_is_fine(refuse.await)
            .map_err(|source| failed("add the refusing rule (preference 101)", source))
    }

    /// Whether adit's rules are there.
    pub(super) async fn exist(&self) -> Result<bool, DatapathError> {
        let rules: Result<Vec<RuleMessage>, _> =
            self.handle.rule().get(IpVersion::V4).execute().try_collect().await;
        let rules = rules.map_err(|source| failed("list the rules", kernel(source)))?;
        let ours = RuleAttribute::Protocol(PROTOCOL);
        Ok(rules.iter().any(|rule| rule.attributes.contains(&ours)))
    }

    fn add_rule(
        &self,
        family: &IpVersion,
        priority: u32,
        action: RuleAction,
    ) -> impl Future<Output = io::Result<()>> + use<> {
        let mut request = self.handle.rule().add();
        *request.message_mut() = rule(family, priority, action);
        async move { request.execute().await.map_err(kernel) }
    }

    /// Removes adit's rules and routes; those that are not there are removed already.
    pub(super) async fn remove(&self) -> Result<(), DatapathError> {
        for family in [IpVersion::V4, IpVersion::V6] {
            self.remove_rules(family.clone())
                .await
                .map_err(|source| failed("remove the rules for the mark", source))?;
            self.remove_routes(&family)
                .await
                .map_err(|source| failed("remove the routes of table 100", source))?;
        }
        Ok(())
    }

    async fn remove_rules(&self, family: IpVersion) -> io::Result<()> {
        let rules: Vec<RuleMessage> =
            self.handle.rule().get(family).execute().try_collect().await.map_err(kernel)?;
        let ours = RuleAttribute::Protocol(PROTOCOL);
        for rule in rules.into_iter().filter(|rule| rule.attributes.contains(&ours)) {
            gone_is_fine(self.handle.rule().del(rule).execute().await.map_err(kernel))?;
        }
        Ok(())
    }

    async fn remove_routes(&self, family: &IpVersion) -> io::Result<()> {
        let mut all = RouteMessage::default();
        all.header.address_family = address_family(family);
        let routes: Vec<RouteMessage> =
            self.handle.route().get(all).execute().try_collect().await.map_err(kernel)?;
        let ours =
            |route: &RouteMessage| route.header.table == TABLE && route.header.protocol == PROTOCOL;
        for route in routes.into_iter().filter(ours) {
            gone_is_fine(self.handle.route().del(route).execute().await.map_err(kernel))?;
        }
        Ok(())
    }
}

/// What the sysctls were before adit set them. The default is the kernel's.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Before([bool; SYSCTLS.len()]);

/// Switches the sysctls on, and says what they were.
pub(super) fn set_sysctls(netns: &Netns) -> Result<Before, DatapathError> {
    within(netns, set_sysctls_here)
}

/// The same for the namespace the calling thread is in: /proc/sys/net shows that of whoever opens it.
pub(super) fn set_sysctls_here() -> Result<Before, DatapathError> {
    write_sysctls([true; SYSCTLS.len()])
}

fn within<T>(
    netns: &Netns,
    f: impl FnOnce() -> Result<T, DatapathError>,
) -> Result<T, DatapathError> {
    let entered = netns.within(f);
    entered.unwrap_or_else(|source| Err(failed("enter the pod's network namespace", source)))
}

/// Sets the sysctls to what they were.
pub(super) fn restore_sysctls(netns: &Netns, before: Before) -> Result<(), DatapathError> {
    within(netns, || write_sysctls(before.0))?;
    Ok(())
}

fn write_sysctls(to: [bool; SYSCTLS.len()]) -> Result<Before, DatapathError> {
    let mut before = Before::default();
    for ((path, on), was) in SYSCTLS.into_iter().zip(to).zip(&mut before.0) {
        *was = write_sysctl(path, on).map_err(|error| {
            let source = io::Error::new(error.kind(), format!("{path}: {error}"));
            failed("set a sysctl of the pod's network namespace", source)
        })?;
    }
    Ok(before)
}

fn write_sysctl(path: &str, on: bool) -> io::Result<bool> {
    match std::fs::read_to_string(path) {
        Ok(value) => {
            let was = value.trim() != "0";
            if was != on {
                std::fs::write(path, if on { "1" } else { "0" })?;
            }
            Ok(was)
        }
        // A kernel without IPv6.
        Err(error) if path.contains("ipv6") && error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn route(family: &IpVersion, device: &Device, metric: u32, plan: &Plan) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = address_family(family);
    route.header.table = TABLE;
    route.header.protocol = PROTOCOL;
    route.header.kind = RouteType::Local;
    route.header.scope = match family {
        IpVersion::V4 => RouteScope::Host,
        IpVersion::V6 => RouteScope::Universe,
    };
    route.attributes.push(RouteAttribute::Oif(device.index));
    route.attributes.push(RouteAttribute::Priority(metric));
    let source = match family {
        IpVersion::V4 => plan.v4,
        IpVersion::V6 => plan.v6,
    };
    if let Some(source) = source {
        route.attributes.push(RouteAttribute::PrefSource(source.into()));
    }
    route
}

fn rule(family: &IpVersion, priority: u32, action: RuleAction) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = address_family(family);
    rule.header.table =
        if action == RuleAction::ToTable { TABLE } else { RouteHeader::RT_TABLE_UNSPEC };
    rule.header.action = action;
    rule.attributes = vec![
        RuleAttribute::Priority(priority),
        RuleAttribute::FwMark(MARK),
        RuleAttribute::FwMask(MARK_MASK),
        RuleAttribute::Protocol(PROTOCOL),
    ];
    rule
}

const fn address_family(family: &IpVersion) -> AddressFamily {
    match family {
        IpVersion::V4 => AddressFamily::Inet,
        IpVersion::V6 => AddressFamily::Inet6,
    }
}

/// The kernel's answer, as an error number where it gave one.
fn kernel(error: rtnetlink::Error) -> io::Error {
    if let rtnetlink::Error::NetlinkError(answer) = &error {
        return answer.to_io();
    }
    io::Error::other(error)
}

/// `fib6_nh_init` (net/ipv6/route.c) answers EACCES for a device with disable_ipv6=1; the others
/// stand for IPv6 that is not there at all.
fn is_disabled(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EACCES | EAFNOSUPPORT | ENODEV | EOPNOTSUPP))
}

fn already_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(ENOENT | ESRCH)) => Ok(()),
        other => other,
    }
}

fn failed(
    what: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> DatapathError {
    DatapathError::Netlink { what, source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(addresses: &[&str], preferred: &[&str]) -> [Option<String>; 2] {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let interfaces = Interfaces { devices: Vec::new(), addresses: parse(addresses) };
        let preferred: Vec<IpAddr> = parse(preferred);
        let plan = Plan::new(&interfaces, &preferred);
        [plan.v4, plan.v6].map(|source| source.map(|ip| ip.to_string()))
    }

    #[test]
    fn captured_connections_come_from_the_address_that_kubernetes_knows() {
        let both = ["10.1.0.9", "10.1.0.2", "fe80::2", "fd00::9", "fd00::2"];
        let [v4, v6] = plan(&both, &["10.1.0.2", "fd00::2"]);
        assert_eq!((v4.as_deref(), v6.as_deref()), (Some("10.1.0.2"), Some("fd00::2")));
        let [v4, v6] = plan(&both, &[]);
        assert_eq!((v4.as_deref(), v6.as_deref()), (Some("10.1.0.9"), Some("fd00::9")));
    }

    #[test]
    fn a_pod_with_nothing_but_a_link_local_ipv6_address_has_no_ipv6_to_route() {
        let [v4, v6] = plan(&["10.1.0.2", "fe80::2"], &["10.1.0.2"]);
        assert_eq!((v4.as_deref(), v6), (Some("10.1.0.2"), None));
    }
}
