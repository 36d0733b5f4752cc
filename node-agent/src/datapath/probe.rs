//! What `adit doctor` asks the kernel: by loading, attaching and connecting, in a namespace and a
//! cgroup that are thrown away. Version numbers say little, as distributions carry features back.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use adit_shared::key::{INWARD_MARK, Role};
use adit_shared::names;
use adit_shared::value::PodConfig;
use aya::programs::{ProgramError, SchedClassifier};
use socket2::{Domain, Protocol, Socket, Type};

use crate::datapath::kernel;
use crate::datapath::loader::Loader;
use crate::datapath::maps::{self, Maps};
use crate::datapath::routes::{self, Plan, Routes};
use crate::datapath::sockets::listener;
use crate::datapath::{DatapathError, Settings, hold, marked};
use crate::sys::interfaces::Device;
use crate::sys::{mount, netns, process, sockopt};

const PATIENCE: Duration = Duration::from_secs(3);

/// One thing the agent needs of the kernel, or would like to have.
#[derive(Debug, Clone)]
pub struct Probe {
    /// What it is.
    pub feature: &'static str,
    /// What the agent does with it.
    pub needed_for: &'static str,
    /// What was found, or why it is not there.
    pub found: Result<String, String>,
    /// What it means where it is not there.
    pub consequence: &'static str,
    /// Whether the agent cannot run without it.
    pub required: bool,
}

/// Asks everything. Changes nothing that stays, but for a bpffs that is mounted where there is none.
/// Takes a moment: call it off a runtime's threads.
#[must_use]
pub fn probe(settings: &Settings) -> Vec<Probe> {
    // What that lacks, the probe of the sysctls tells.
    let _writable = mount::make_sysctls_writable();
    let mut probes = node(settings);
    probes.extend(programs(settings));
    // A thread of its own, which takes its namespace with it when it ends.
    let inside = std::thread::spawn(in_a_namespace).join();
    probes.extend(inside.unwrap_or_default());
    probes
}

fn node(settings: &Settings) -> Vec<Probe> {
    let release =
        fs::read_to_string("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned());
    let btf =
        fs::metadata("/sys/kernel/btf/vmlinux").map(|file| format!("{} KiB", file.len() / 1024));
    vec![
        Probe {
            feature: "kernel",
            needed_for: "information",
            found: text(release),
            consequence: "adit is tested from 6.1 on",
            required: false,
        },
        Probe {
            feature: "root",
            needed_for: "eBPF, namespaces, routes",
            found: if process::is_root() {
                Ok("uid 0".to_owned())
            } else {
                Err("another user".to_owned())
            },
            consequence: "run adit as root, with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN",
            required: true,
        },
        Probe {
            feature: "BTF",
            needed_for: "socket storage, the guard",
            found: text(btf),
            consequence: "needs CONFIG_DEBUG_INFO_BTF",
            required: false,
        },
        Probe {
            feature: "cgroup2",
            needed_for: "seeing every connect and bind of the node",
            found: text(settings.attach_point().map(|root| root.display().to_string())),
            consequence: "pods cannot be captured",
            required: true,
        },
        Probe {
            feature: "bpffs",
            needed_for: "captured pods staying captured while adit restarts",
            found: text(bpffs(settings)),
            consequence: "pods cannot be captured",
            required: true,
        },
    ]
}

fn bpffs(settings: &Settings) -> io::Result<String> {
    let existed = settings.pins.exists();
    mount::make_pin_directory(&settings.pins)?;
    if !existed {
        fs::remove_dir(&settings.pins)?;
    }
    Ok(settings.pins.display().to_string())
}

/// Loads each program and attaches it to a cgroup nobody is in.
fn programs(settings: &Settings) -> Vec<Probe> {
    let attached = settings.attach_point().map_err(|error| error.to_string()).and_then(|root| {
        let place = root.join(format!("adit-doctor-{}", std::process::id()));
        fs::create_dir(&place).map_err(|error| format!("{}: {error}", place.display()))?;
        let attached = attach_each(&place);
        let removed = fs::remove_dir(&place);
        removed.map_err(|error| format!("{}: {error}", place.display()))?;
        attached.map_err(|error| whole(&error))
    });
    let found = |name: &str| match &attached {
        Ok(()) => Ok("loads and attaches".to_owned()),
        Err(error) => Err(format!("{name}: {error}")),
    };
    let probe = |feature, needed_for, name| Probe {
        feature,
        needed_for,
        found: found(name),
        consequence: "pods cannot be captured",
        required: true,
    };
    vec![
        probe(
            "cgroup connect hook",
            "capturing connections (IPv4, IPv6; namespace cookie, SO_MARK, socket storage)",
            names::CONNECT4,
        ),
        probe(
            "cgroup bind hook",
            "applications binding ports in use by adit's connections",
            names::BIND4,
        ),
        probe("sockops hook", "telling applications' connections from adit's own", names::ACCEPT),
    ]
}

fn attach_each(place: &Path) -> Result<(), DatapathError> {
    let mut object = Loader::start(None)?.load(PodConfig::EMPTY)?;
    kernel::attach_to_cgroup(&mut object, place, |link, _name, _id| {
        drop(link); // detaches it
        Ok(())
    })
}

/// A probe that is yet to be made.
struct Question {
    feature: &'static str,
    needed_for: &'static str,
    ask: fn() -> Result<String, String>,
    consequence: &'static str,
    required: bool,
}

/// What is asked inside a pod-like namespace, in this order: the steering uses the routes.
const IN_A_NAMESPACE: [Question; 10] = [
    Question {
        feature: "namespace cookie",
        needed_for: "knowing a pod by its network namespace",
        ask: cookie,
        consequence: "needs Linux 5.14",
        required: true,
    },
    Question {
        feature: "socket storage",
        needed_for: "telling adit's sockets in a pod from the application's",
        ask: storage,
        consequence: "needs Linux 5.4 and BTF",
        required: true,
    },
    Question {
        feature: "transparent sockets",
        needed_for: "serving connections to any address; the client's address upstream",
        ask: transparent,
        consequence: "needs CAP_NET_ADMIN",
        required: true,
    },
    Question {
        feature: "sysctls",
        needed_for: "answers of applications finding their way back",
        ask: sysctls,
        consequence: "/proc/sys must be writable",
        required: true,
    },
    Question {
        feature: "policy routing, IPv4",
        needed_for: "bringing captured connections to adit",
        ask: rules4,
        consequence: "needs CONFIG_IP_MULTIPLE_TABLES",
        required: true,
    },
    Question {
        feature: "policy routing, IPv6",
        needed_for: "the same for IPv6",
        ask: rules6,
        consequence: "IPv6 connections of enrolled pods fail",
        required: false,
    },
    Question {
        feature: "steering, IPv4",
        needed_for: "connections to any address reaching adit's listener",
        ask: steer4,
        consequence: "pods cannot be captured",
        required: true,
    },
    Question {
        feature: "steering, IPv6",
        needed_for: "the same for IPv6",
        ask: steer6,
        consequence: "IPv6 connections of enrolled pods fail",
        required: false,
    },
    Question {
        feature: "socket diagnosis",
        needed_for: "seeing when the last captured connection of a pod that opts out has ended",
        ask: diagnosis,
        consequence: "such pods keep adit's routes, which do no harm; load the kernel module tcp_diag",
        required: false,
    },
    Question {
        feature: "traffic control hook",
        needed_for: "connections waiting, and not being refused, while adit restarts",
        ask: holds,
        consequence: "pods are captured but never wholly enrolled: needs CONFIG_NET_CLS_ACT, and before Linux 6.6 CONFIG_NET_CLS_BPF",
        required: true,
    },
];

fn in_a_namespace() -> Vec<Probe> {
    let prepared = prepare_namespace();
    let answer = |question: Question| Probe {
        feature: question.feature,
        needed_for: question.needed_for,
        found: match &prepared {
            Ok(()) => (question.ask)(),
            Err(error) => Err(format!("no throw-away network namespace: {error}")),
        },
        consequence: question.consequence,
        required: question.required,
    };
    IN_A_NAMESPACE.into_iter().map(answer).collect()
}

fn prepare_namespace() -> Result<(), String> {
    netns::leave_for_a_new_one().map_err(|error| error.to_string())?;
    run(async {
        let routes = Routes::here()?;
        routes.set_loopback_up().await
    })
}

fn cookie() -> Result<String, String> {
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None);
    text(socket.and_then(|socket| sockopt::netns_cookie(&socket)).map(|cookie| cookie.to_string()))
}

fn storage() -> Result<String, String> {
    let maps = own_maps().map_err(|error| whole(&error))?.1;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None);
    text(
        socket
            .and_then(|socket| maps.tag(&socket))
            .map(|()| "inherited by accepted sockets".to_owned()),
    )
}

fn transparent() -> Result<String, String> {
    let socket = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        sockopt::set_transparent(&socket, false)?;
        sockopt::set_bind_address_no_port(&socket)?;
        socket.set_mark(INWARD_MARK)?;
        socket.bind(&SocketAddr::new(Ipv4Addr::new(192, 0, 2, 1).into(), 0).into())
    };
    text(socket().map(|()| "IP_TRANSPARENT, IP_BIND_ADDRESS_NO_PORT, SO_MARK".to_owned()))
}

fn sysctls() -> Result<String, String> {
    let set = routes::set_sysctls_here();
    set.map(|_before| "tcp_fwmark_accept, fwmark_reflect".to_owned()).map_err(|error| whole(&error))
}

fn rules4() -> Result<String, String> {
    rules(Some(Ipv4Addr::LOCALHOST.into()), None)
}

fn rules6() -> Result<String, String> {
    rules(None, Some(Ipv6Addr::LOCALHOST.into()))
}

/// Puts the routes there; [`steer4`] and [`steer6`] use them.
fn rules(v4: Option<IpAddr>, v6: Option<IpAddr>) -> Result<String, String> {
    run(async move {
        let plan = Plan { v4, v6, devices: Vec::<Device>::new() };
        let routes = Routes::here()?;
        if v4.is_some() { routes.add_v4(&plan).await } else { routes.add_v6(&plan).await }
    })?;
    Ok("rules and local routes".to_owned())
}

fn steer4() -> Result<String, String> {
    steer(SocketAddr::new(Ipv4Addr::new(192, 0, 2, 1).into(), 80))
}

fn steer6() -> Result<String, String> {
    steer(SocketAddr::new(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(), 80))
}

/// A marked connection to an address that does not exist, through rule, look-up program and map, to
/// a listener like the agent's.
fn steer(to: SocketAddr) -> Result<String, String> {
    let (mut object, maps) = own_maps().map_err(|error| whole(&error))?;
    let listener = listener(&maps, None).map_err(|error| format!("listen: {error}"))?;
    maps.fill(0, Role::Outbound, &[&listener]).map_err(|error| whole(&error))?;
    let program = maps::load_lookup(&mut object).map_err(|error| whole(&error))?;
    let here = File::open("/proc/thread-self/ns/net").map_err(|error| error.to_string())?;
    program.attach(here).map_err(|error| format!("attach the look-up program: {error}"))?;

    let connect = || {
        let domain = Domain::for_address(to);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_mark(INWARD_MARK)?;
        socket.connect_timeout(&to.into(), PATIENCE)?;
        Ok(socket)
    };
    let _client = connect().map_err(|error: io::Error| format!("connect: {error}"))?;
    let begun = Instant::now();
    let accepted = loop {
        match listener.accept() {
            Ok((accepted, _from)) => break accepted,
            Err(error) if error.kind() == ErrorKind::WouldBlock && begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(format!("accept: {error}")),
        }
    };
    let seen = accepted.local_addr().map_err(|error| error.to_string())?;
    if seen.ip().to_canonical() != to.ip() {
        return Err(format!("the original destination {to} arrives as {seen}"));
    }
    Ok("sk_lookup, SOCKMAP, original destination".to_owned())
}

fn diagnosis() -> Result<String, String> {
    text(marked::any_here().map(|_open| "sock_diag by mark".to_owned()))
}

/// A program at the entrance of lo, by whatever means this kernel has.
fn holds() -> Result<String, String> {
    let (mut object, _maps) = own_maps().map_err(|error| whole(&error))?;
    let missing = || format!("the eBPF object has no {}", names::HOLD);
    let program = object.program_mut(names::HOLD).ok_or_else(missing)?;
    let program: &mut SchedClassifier =
        program.try_into().map_err(|error: ProgramError| error.to_string())?;
    program.load().map_err(|error| error.to_string())?;
    let link = hold::attach_to(program, "lo").map_err(|error| error.to_string())?;
    Ok(if link.is_some() { "tcx link" } else { "clsact filter" }.to_owned())
}

/// The object with maps of its own, for a pod with index 0 and one worker.
fn own_maps() -> Result<(aya::Ebpf, Maps), DatapathError> {
    let pod = PodConfig { index: 0, ..PodConfig::EMPTY };
    let mut object = Loader::start(None)?.load(pod)?;
    let maps = Maps::take(&mut object)?;
    Ok((object, maps))
}

fn run<T>(ask: impl Future<Output = Result<T, DatapathError>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(ask).map_err(|error| whole(&error))
}

fn text<T: ToString>(found: io::Result<T>) -> Result<String, String> {
    found.map(|found| found.to_string()).map_err(|error| error.to_string())
}

/// An error with its causes. The verifier's log is for developers: its last line says it.
fn whole(error: &DatapathError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
