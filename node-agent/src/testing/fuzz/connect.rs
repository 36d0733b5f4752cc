//! The texts of a CONNECT request, read from a hostile peer and written for any workload.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use adit_core::hbone;
use adit_core::identity::{SpiffeId, TrustDomain};
use adit_core::workload::{MeshMode, ObjectName, Owner, Phase, PodUid, Workload};

use super::choices::Choices;

/// Reads the bytes as authority and as `forwarded`, and writes headers of what they describe.
///
/// # Panics
/// If a text is read as something else than it says, or a header is written that is none.
pub fn connect(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    authority(&text);
    forwarded(&text);
    let mut choices = Choices::new(bytes);
    if let Some(workload) = workload(&mut choices) {
        let cluster = choices.text();
        let baggage = hbone::baggage(&cluster, &workload);
        assert!(is_header(&baggage), "{baggage:?}");
        assert_eq!(baggage.split(',').count(), 5, "{baggage:?}");
        assert!(baggage.split(',').all(|pair| pair.split('=').count() == 2), "{baggage:?}");
    }
    let (trace, parent) = (u128::from(choices.u32()) << 64, u64::from(choices.u32()));
    let traceparent = hbone::traceparent(trace, parent);
    assert_eq!(traceparent.is_none(), trace == 0 || parent == 0);
    assert!(traceparent.is_none_or(|text| text.len() == 55 && is_header(&text)));
}

/// The standard library reads the same, and besides scopes of IPv6 addresses and the port 0.
fn authority(text: &str) {
    let read = hbone::parse_authority(text);
    let reference = text.parse::<SocketAddr>().ok().filter(|address| {
        address.port() != 0 && !text.contains('%') && text.len() <= hbone::MAX_VALUE_LEN
    });
    let canonical = |address: SocketAddr| (address.ip().to_canonical(), address.port());
    assert_eq!(read.ok().map(|at| (at.ip(), at.port())), reference.map(canonical), "{text:?}");
    if let Ok(address) = read {
        let written = hbone::authority(address);
        assert!(is_header(&written), "{written:?}");
        assert_eq!(hbone::parse_authority(&written), Ok(address));
    }
}

/// What is read can be written, and is then read as the same.
fn forwarded(text: &str) {
    let Some(service) = hbone::parse_forwarded_host(text) else {
        return;
    };
    for source in [IpAddr::from([10, 0, 0, 1]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1])] {
        let written = hbone::forwarded(source, Some(&service));
        assert!(is_header(&written), "{written:?}");
        assert_eq!(hbone::parse_forwarded_host(&written).as_ref(), Some(&service));
    }
}

fn workload(choices: &mut Choices<'_>) -> Option<Workload> {
    let identity = SpiffeId::try_new(TrustDomain::parse("mesh").ok()?, "shop", "cart").ok()?;
    Some(Workload {
        uid: PodUid::parse("1")?,
        name: ObjectName::new(&choices.text(), &choices.text()),
        node: None,
        identity,
        addresses: Vec::new(),
        mode: MeshMode::Unset,
        host_network: false,
        phase: Phase::Active,
        owner: Owner { kind: choices.text().into(), name: choices.text().into() },
        labels: BTreeMap::from([
            ("app".into(), choices.text().into()),
            ("version".into(), choices.text().into()),
        ]),
        probed: Vec::new(),
        tunnel_ports: Vec::new(),
        mirror_of: None,
        announced: None,
        netns: None,
    })
}

/// Visible ASCII: nothing that ends a header or starts another.
fn is_header(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}
