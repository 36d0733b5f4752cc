//! The texts of HBONE: what stands in a CONNECT request, parsed and formatted. Peers are hostile:
//! every parser here takes arbitrary bytes and never panics.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::workload::{ObjectName, Workload};

/// The port of the tunnel listener in every enrolled pod, as Istio has it.
pub const TUNNEL_PORT: u16 = 15008;

/// The error code with which the destination's agent resets a stream (RFC 9113, section 6.4) whose flow
/// policy no longer permits: the status 401, come later. Whoever does not know it sees a reset like any
/// other (section 7).
pub const NO_LONGER_PERMITTED: u32 = 401;

/// The longest `:authority`, `baggage` or `forwarded` value that is looked at, in bytes.
pub const MAX_VALUE_LEN: usize = 8192;

/// Why a CONNECT request is refused with status 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The method is not CONNECT.
    #[error("the method is not CONNECT")]
    Method,
    /// The authority is not `ip:port`, IPv6 in brackets.
    #[error("the authority is not ip:port")]
    Authority,
    /// The port is 0.
    #[error("the port is 0")]
    Port,
}

impl Malformed {
    /// The spelling used by metrics, log lines and the command line.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Method => "malformed_method",
            Self::Authority => "malformed_authority",
            Self::Port => "malformed_port",
        }
    }
}

/// Reads the `:authority` of a CONNECT request (RFC 9113, section 8.5): an address and a port.
/// Names are not addresses. An IPv4-mapped IPv6 address is the IPv4 address.
///
/// # Errors
/// What is wrong with it.
pub fn parse_authority(text: &str) -> Result<SocketAddr, Malformed> {
    if text.len() > MAX_VALUE_LEN {
        return Err(Malformed::Authority);
    }
    let (host, port) = text.rsplit_once(':').ok_or(Malformed::Authority)?;
    let ip = match host.strip_prefix('[') {
        Some(rest) => {
            let inside = rest.strip_suffix(']').ok_or(Malformed::Authority)?;
            IpAddr::V6(inside.parse::<Ipv6Addr>().map_err(|_text| Malformed::Authority)?)
        }
        None => IpAddr::V4(host.parse().map_err(|_text| Malformed::Authority)?),
    };
    if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Malformed::Authority);
    }
    match port.parse() {
        Ok(0) => Err(Malformed::Port),
        Ok(port) => Ok(SocketAddr::new(ip.to_canonical(), port)),
        Err(_) => Err(Malformed::Authority),
    }
}

/// The `:authority` of a CONNECT request to this address.
#[must_use]
pub fn authority(destination: SocketAddr) -> String {
    // SocketAddr prints IPv6 in brackets, and a scope id (`%2`), which an authority has not.
    SocketAddr::new(destination.ip(), destination.port()).to_string()
}

/// The `baggage` header for flows of this workload.
#[must_use]
pub fn baggage(cluster: &str, workload: &Workload) -> String {
    let kind = &workload.owner.kind;
    format!(
        "k8s.cluster.name={},k8s.namespace.name={},k8s.{}.name={},service.name={},service.version={}",
        Token(cluster),
        Token(&workload.name.namespace),
        Token(kind),
        Token(&workload.owner.name),
        Token(workload.canonical_name()),
        Token(workload.canonical_revision()),
    )
}

/// The `forwarded` header (RFC 7239, section 4): the calling pod's address, and the service that it
/// dialled, if it dialled one.
#[must_use]
pub fn forwarded(source: IpAddr, service: Option<&ObjectName>) -> String {
    let source = match source {
        IpAddr::V4(v4) => v4.to_string(),
        // An IPv6 address has colons, so that it must be quoted (RFC 7239, section 6).
        IpAddr::V6(v6) => format!("\"[{v6}]\""),
    };
    match service {
        Some(ObjectName { namespace, name }) => {
            format!("for={source};host={}.{}.svc", Token(name), Token(namespace))
        }
        None => format!("for={source}"),
    }
}

/// Reads the `host` of a `forwarded` header, the service that the caller dialled. A claim.
#[must_use]
pub fn parse_forwarded_host(text: &str) -> Option<ObjectName> {
    let first = text.get(..MAX_VALUE_LEN).unwrap_or(text).split(',').next()?;
    let host = first.split(';').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        key.trim().eq_ignore_ascii_case("host").then(|| value.trim().trim_matches('"'))
    })?;
    let mut labels = host.split('.');
    let (name, namespace) = (labels.next()?, labels.next()?);
    let is_service = labels.next() == Some("svc");
    let plain = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    (is_service && plain(name) && plain(namespace)).then(|| ObjectName::new(namespace, name))
}

/// The `traceparent` header of a new trace (W3C Trace Context, section 3.2): version 0, these ids,
/// not sampled. `None` for ids that the format forbids (all zero).
#[must_use]
pub fn traceparent(trace_id: u128, parent_id: u64) -> Option<String> {
    (trace_id != 0 && parent_id != 0).then(|| format!("00-{trace_id:032x}-{parent_id:016x}-00"))
}

/// Prints a text with everything percent-encoded that a baggage value or a `forwarded` token
/// may not hold.
struct Token<'a>(&'a str);

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                write!(f, "{}", char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{SpiffeId, TrustDomain};
    use crate::workload::{MeshMode, Owner, Phase, PodUid};
    use std::collections::BTreeMap;

    #[test]
    fn an_authority_is_an_address_and_a_port() {
        let cases = [
            ("10.1.2.3:80", Ok("10.1.2.3:80")),
            ("[fd00::1]:8080", Ok("[fd00::1]:8080")),
            ("[::ffff:10.1.2.3]:80", Ok("10.1.2.3:80")),
            ("", Err(Malformed::Authority)),
            ("10.1.2.3", Err(Malformed::Authority)),
            ("10.1.2.3:", Err(Malformed::Authority)),
            ("10.1.2.3:+80", Err(Malformed::Authority)),
            ("10.1.2.3:65536", Err(Malformed::Authority)),
            ("10.1.2.3:0", Err(Malformed::Port)),
            ("fd00::1:80", Err(Malformed::Authority)),
            ("[fd00::1]", Err(Malformed::Authority)),
            ("[fd00::1:80", Err(Malformed::Authority)),
            ("[10.1.2.3]:80", Err(Malformed::Authority)),
            ("web.shop:80", Err(Malformed::Authority)),
            ("user@10.1.2.3:80", Err(Malformed::Authority)),
            ("[fe80::1%2]:80", Err(Malformed::Authority)),
        ];
        for (text, expected) in cases {
            let expected = expected.map(|text| text.parse::<SocketAddr>().unwrap());
            assert_eq!(parse_authority(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_written_as_authority_is_read_back() {
        for text in ["10.1.2.3:80", "[fd00::1]:65535"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(parse_authority(&authority(address)), Ok(address));
        }
    }

    #[test]
    fn baggage_names_the_workload_as_istio_does() {
        let text = baggage("Kubernetes", &cart());
        assert_eq!(
            text,
            "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=cart,\
             service.name=cart,service.version=v2"
        );
    }

    #[test]
    fn forwarded_quotes_ipv6_and_names_the_service() {
        let service = ObjectName::new("shop", "cart");
        let v6 = forwarded("fd00::1".parse().unwrap(), Some(&service));
        assert_eq!(v6, "for=\"[fd00::1]\";host=cart.shop.svc");
        assert_eq!(parse_forwarded_host(&v6), Some(service));
        assert_eq!(forwarded("10.0.0.1".parse().unwrap(), None), "for=10.0.0.1");
    }

    #[test]
    fn a_forwarded_host_that_is_no_service_is_none() {
        for text in ["", "for=1", "host=", "host=a", "host=a.b", "host=a.b.com", "host=a b.c.svc"] {
            assert_eq!(parse_forwarded_host(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_trace_has_no_zero_ids() {
        assert_eq!(
            traceparent(1, 2).as_deref(),
            Some("00-00000000000000000000000000000001-0000000000000002-00")
        );
        assert_eq!(traceparent(0, 2), None);
        assert_eq!(traceparent(1, 0), None);
    }

    fn cart() -> Workload {
        let domain = TrustDomain::parse("cluster.local").unwrap();
        Workload {
            uid: PodUid::parse("1").unwrap(),
            name: ObjectName::new("shop", "cart-5d-x"),
            node: None,
            identity: SpiffeId::try_new(domain, "shop", "cart").unwrap(),
            addresses: Vec::new(),
            mode: MeshMode::Unset,
            host_network: false,
            phase: Phase::Active,
            owner: Owner { kind: "deployment".into(), name: "cart".into() },
            labels: BTreeMap::from([("version".into(), "v2".into())]),
            probed: Vec::new(),
            tunnel_ports: Vec::new(),
            mirror_of: None,
            announced: None,
            netns: None,
        }
    }
}
