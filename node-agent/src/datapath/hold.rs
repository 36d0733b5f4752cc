//! The program that holds connections back while the agent is away (`ebpf/src/hold.rs`), where packets
//! enter from a pod's interfaces: by a pinned link (tcx, since Linux 6.6), and on older kernels as a
//! filter of the interface's clsact qdisc, which stays when the agent goes like a pin does.

use adit_shared::names;
use aya::Ebpf;
use aya::programs::links::{FdLink, Link as _};
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use aya::sys::SyscallError;

use crate::datapath::DatapathError;
use crate::datapath::maps::{self, failed};
use crate::sys::errno::{EEXIST, EINVAL, ENODEV, ENOENT};
use crate::sys::interfaces::Device;
use crate::sys::netns::Netns;

const LOOPBACK: &str = "lo";
/// The place of the filter among those of a clsact qdisc, by which it is found again.
const PRIORITY: u16 = 0xad;
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// The interfaces that a new connection can come in by. What the pod sends out comes in by lo.
pub(super) fn entrances(devices: &[Device]) -> impl Iterator<Item = &str> {
    [LOOPBACK].into_iter().chain(devices.iter().map(|device| device.name.as_str()))
}

/// Loads the program and attaches it to each interface. `keep` takes each link there is, with the
/// interface's place among them.
pub(super) fn attach<'a>(
    object: &mut Ebpf,
    netns: &Netns,
    interfaces: impl Iterator<Item = &'a str>,
    mut keep: impl FnMut(FdLink, usize) -> Result<(), DatapathError>,
) -> Result<(), DatapathError> {
    let what = "load the program that holds connections back";
    let program = object.program_mut(names::HOLD);
    let program = program.ok_or_else(|| failed(what, maps::missing(names::HOLD)))?;
    let program: &mut SchedClassifier =
        program.try_into().map_err(|source| failed(what, source))?;
    program.load().map_err(|source| failed(what, source))?;
    for (place, interface) in interfaces.enumerate() {
        let what = || format!("attach the program that holds connections back to {interface}");
        let link = netns.within(|| attach_to(program, interface));
        let link = link.map_err(|source| failed(what(), source))?;
        if let Some(link) = link.map_err(|source| failed(what(), source))? {
            keep(link, place)?;
        }
    }
    Ok(())
}

/// Attaches the program to an interface of the namespace the calling thread is in.
pub(super) fn attach_to(
    program: &mut SchedClassifier,
    interface: &str,
) -> Result<Option<FdLink>, ProgramError> {
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    match program.attach_with_options(interface, TcAttachType::Ingress, first) {
        Ok(id) => {
            let link = FdLink::try_from(program.take_link(id)?);
            link.map(Some).map_err(|_link| ProgramError::NotAttached)
        }
        // A kernel that does not know the attach type (`link_create`, kernel/bpf/syscall.c).
        Err(ProgramError::SyscallError(SyscallError { io_error, .. }))
            if io_error.raw_os_error() == Some(EINVAL) =>
        {
            add_filter(program, interface)?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// One that is there is replaced. The moment between does no harm: it has nothing to hold while the
/// slots are filled.
fn add_filter(program: &mut SchedClassifier, interface: &str) -> Result<(), ProgramError> {
    match tc::qdisc_add_clsact(interface) {
        Err(tc::TcError::NetlinkError(error)) if error.raw_os_error() == Some(EEXIST) => {}
        added => added?,
    }
    remove_filter(interface)?;
    let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
    let options = TcAttachOptions::Netlink(options);
    let id = program.attach_with_options(interface, TcAttachType::Ingress, options)?;
    // Dropped, it would remove the filter.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

/// Removes the filters from a namespace; those that are not there are removed already. The clsact
/// qdiscs stay: empty, they do nothing, and others may count on them.
pub(super) fn remove_filters<'a>(
    netns: &Netns,
    interfaces: impl Iterator<Item = &'a str>,
) -> Result<(), DatapathError> {
    let what = "remove the filter that holds connections back";
    let removed = netns.within(|| {
        for interface in interfaces {
            remove_filter(interface)?;
        }
        Ok::<(), ProgramError>(())
    });
    removed.map_err(|source| failed(what, source))?.map_err(|source| failed(what, source))
}

fn remove_filter(interface: &str) -> Result<(), ProgramError> {
    let filter =
        SchedClassifierLink::attached(interface, TcAttachType::Ingress, PRIORITY, HANDLE, None);
    let filter = match filter {
        Err(error) if error.raw_os_error() == Some(ENODEV) => return Ok(()),
        filter => filter?,
    };
    match filter.detach() {
        Err(ProgramError::NetlinkError(error))
            // No such filter, or no such qdisc (`tc_del_tfilter`, net/sched/cls_api.c).
            if matches!(error.raw_os_error(), Some(ENOENT | EINVAL)) =>
        {
            Ok(())
        }
        detached => detached,
    }
}
