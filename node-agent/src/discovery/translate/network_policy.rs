//! NetworkPolicies of the cluster, as far as TCP is concerned.

use std::collections::BTreeSet;
use std::sync::Arc;

use adit_core::network_policy::{
    LabelSelector, NetworkPolicy, Operator, Peer, Ports, Requirement, Rule,
};
use adit_core::policy::IpBlock;
use k8s_openapi::api::networking::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Selector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::discovery::translate::{Invalid, is_tcp, object_name, port_name, port_number};

/// A NetworkPolicy.
///
/// # Errors
/// The field that is invalid.
pub fn network_policy(object: &v1::NetworkPolicy) -> Result<NetworkPolicy, Invalid> {
    let no_spec = v1::NetworkPolicySpec::default();
    let spec = object.spec.as_ref().unwrap_or(&no_spec);
    let ingress = spec.ingress.as_deref().unwrap_or_default();
    let egress = spec.egress.as_deref().unwrap_or_default();
    let (says_ingress, says_egress) = directions(spec)?;
    let into = || rules("spec.ingress", ingress, |rule| ("from", &rule.from, &rule.ports));
    let out = || rules("spec.egress", egress, |rule| ("to", &rule.to, &rule.ports));
    Ok(NetworkPolicy {
        name: object_name(&object.metadata)?,
        pods: selector("spec.podSelector", spec.pod_selector.as_ref())?,
        ingress: says_ingress.then(into).transpose()?,
        egress: says_egress.then(out).transpose()?,
    })
}

/// Of which directions the policy speaks. Where it does not say, of what comes in, and of what goes out
/// if it has a rule for that, as the API server would fill it in.
fn directions(spec: &v1::NetworkPolicySpec) -> Result<(bool, bool), Invalid> {
    let types = spec.policy_types.as_deref().unwrap_or_default();
    for (i, text) in types.iter().enumerate() {
        if text != "Ingress" && text != "Egress" {
            let field = format!("spec.policyTypes[{i}]");
            return Err(Invalid::new(field, text, "not Ingress or Egress"));
        }
    }
    if types.is_empty() {
        return Ok((true, spec.egress.as_ref().is_some_and(|rules| !rules.is_empty())));
    }
    let says = |name: &str| types.iter().any(|text| text == name);
    Ok((says("Ingress"), says("Egress")))
}

type Parts<'a> =
    (&'static str, &'a Option<Vec<v1::NetworkPolicyPeer>>, &'a Option<Vec<v1::NetworkPolicyPort>>);

fn rules<R>(
    field: &str,
    rules: &[R],
    parts: impl Fn(&R) -> Parts<'_>,
) -> Result<Vec<Rule>, Invalid> {
    let read = |(i, rule)| {
        let (name, peers, ports) = parts(rule);
        let peers = peers.iter().flatten().enumerate();
        let peers = peers.map(|(j, peer)| self::peer(&format!("{field}[{i}].{name}[{j}]"), peer));
        let peers = peers.collect::<Result<_, _>>()?;
        Ok(Rule { peers, ports: self::ports(&format!("{field}[{i}].ports"), ports.as_deref())? })
    };
    rules.iter().enumerate().map(read).collect()
}

fn peer(field: &str, peer: &v1::NetworkPolicyPeer) -> Result<Peer, Invalid> {
    let pods = peer.pod_selector.as_ref();
    let namespaces = peer.namespace_selector.as_ref();
    match (&peer.ip_block, pods, namespaces) {
        (Some(block), None, None) => {
            let field = format!("{field}.ipBlock");
            let except = block.except.iter().flatten().enumerate();
            let except = except.map(|(i, text)| range(format!("{field}.except[{i}]"), text));
            Ok(Peer::Addresses {
                block: range(format!("{field}.cidr"), &block.cidr)?,
                except: except.collect::<Result<_, _>>()?,
            })
        }
        (None, None, None) => Err(Invalid::missing(format!("{field}.podSelector"))),
        (None, pods, namespaces) => {
            let of =
                |selector| self::selector(&format!("{field}.namespaceSelector"), Some(selector));
            Ok(Peer::Pods {
                namespaces: namespaces.map(of).transpose()?,
                pods: selector(&format!("{field}.podSelector"), pods)?,
            })
        }
        (Some(block), _, _) => {
            let why = "cannot be set together with podSelector or namespaceSelector";
            Err(Invalid::new(format!("{field}.ipBlock"), &block.cidr, why))
        }
    }
}

fn range(field: String, text: &str) -> Result<IpBlock, Invalid> {
    if !text.contains('/') {
        return Err(Invalid::new(field, text, "not a range such as 10.0.0.0/8"));
    }
    IpBlock::parse(text).map_err(|why| Invalid::new(field, text, why.to_string()))
}

/// `None` for no list and for an empty one, which both mean every port of every protocol.
fn ports(
    field: &str,
    ports: Option<&[v1::NetworkPolicyPort]>,
) -> Result<Option<Vec<Ports>>, Invalid> {
    let listed = ports.unwrap_or_default();
    let mut read = Vec::new();
    for (i, port) in listed.iter().enumerate() {
        let field = format!("{field}[{i}]");
        if is_tcp(format!("{field}.protocol"), port.protocol.as_deref())? {
            read.push(self::port(&field, port)?);
        }
    }
    Ok((!listed.is_empty()).then_some(read))
}

fn port(field: &str, port: &v1::NetworkPolicyPort) -> Result<Ports, Invalid> {
    let end = |why| {
        let end = port.end_port.map_or_else(String::new, |end| end.to_string());
        Invalid::new(format!("{field}.endPort"), &end, why)
    };
    match (&port.port, port.end_port) {
        (None, None) => Ok(Ports::All),
        (Some(IntOrString::Int(first)), last) => {
            let first = port_number(format!("{field}.port"), *first)?;
            let last =
                last.map(|last| port_number(format!("{field}.endPort"), last)).transpose()?;
            let last = last.unwrap_or(first);
            if last < first {
                return Err(end("less than port"));
            }
            Ok(Ports::Range(first, last))
        }
        (Some(IntOrString::String(name)), None) => {
            Ok(Ports::Named(port_name(format!("{field}.port"), Some(name))?))
        }
        (None | Some(IntOrString::String(_)), Some(_)) => Err(end("needs a port that is a number")),
    }
}

fn selector(field: &str, selector: Option<&Selector>) -> Result<LabelSelector, Invalid> {
    let Some(selector) = selector else {
        return Ok(LabelSelector::default());
    };
    let is = |(key, value): (&String, &String)| Requirement {
        key: Arc::from(key.as_str()),
        operator: Operator::In([Arc::from(value.as_str())].into()),
    };
    let mut requirements: Vec<_> = selector.match_labels.iter().flatten().map(is).collect();
    for (i, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let values: BTreeSet<Arc<str>> =
            expression.values.iter().flatten().map(|value| Arc::from(value.as_str())).collect();
        let operator = match (expression.operator.as_str(), values.is_empty()) {
            ("In", false) => Operator::In(values),
            ("NotIn", false) => Operator::NotIn(values),
            ("Exists", true) => Operator::Exists,
            ("DoesNotExist", true) => Operator::DoesNotExist,
            (other, _) => {
                let why = "not In or NotIn with values, nor Exists or DoesNotExist without";
                let field = format!("{field}.matchExpressions[{i}].operator");
                return Err(Invalid::new(field, other, why));
            }
        };
        requirements.push(Requirement { key: Arc::from(expression.key.as_str()), operator });
    }
    Ok(LabelSelector(requirements))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(spec: &Value) -> Result<NetworkPolicy, String> {
        let object = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec});
        network_policy(&serde_json::from_value(object).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_policy_speaks_of_the_directions_that_the_api_server_would_give_it() {
        let empty = json!([{}]);
        for (spec, ingress, egress) in [
            (json!({}), true, false),
            (json!({"egress": []}), true, false),
            (json!({"egress": empty}), true, true),
            (json!({"policyTypes": [], "egress": empty}), true, true),
            (json!({"policyTypes": ["Ingress"], "egress": empty}), true, false),
            (json!({"policyTypes": ["Egress"], "ingress": empty}), false, true),
            (json!({"policyTypes": ["Egress", "Ingress"]}), true, true),
        ] {
            let policy = read(&spec).unwrap();
            let said = (policy.ingress.is_some(), policy.egress.is_some());
            assert_eq!(said, (ingress, egress), "{spec}");
        }
        let deny_all = read(&json!({"podSelector": {}, "policyTypes": ["Ingress"]})).unwrap();
        assert_eq!((deny_all.pods, deny_all.ingress), (LabelSelector::default(), Some(vec![])));
    }

    #[test]
    fn rules_are_read_whole() {
        let policy = read(&json!({
            "podSelector": {
                "matchLabels": {"app": "web"},
                "matchExpressions": [
                    {"key": "tier", "operator": "NotIn", "values": ["a", "b"]},
                    {"key": "x", "operator": "Exists"},
                ],
            },
            "ingress": [
                {},
                {"from": [], "ports": []},
                {
                    "from": [
                        {"podSelector": {}},
                        {"namespaceSelector": {"matchLabels": {"team": "a"}}},
                        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                    ],
                    "ports": [
                        {"port": 80}, {"port": 8000, "endPort": 8010, "protocol": "TCP"},
                        {"port": "http"}, {"protocol": "TCP"}, {"port": 53, "protocol": "UDP"},
                    ],
                },
                {"ports": [{"port": 53, "protocol": "UDP"}]},
            ],
        }))
        .unwrap();
        let values = |values: &[&str]| values.iter().map(|&value| Arc::from(value)).collect();
        let one = |key: &str, operator| Requirement { key: Arc::from(key), operator };
        assert_eq!(
            policy.pods.0,
            [
                one("app", Operator::In(values(&["web"]))),
                one("tier", Operator::NotIn(values(&["a", "b"]))),
                one("x", Operator::Exists),
            ]
        );
        let everything = Rule { peers: Vec::new(), ports: None };
        let range = |text| IpBlock::parse(text).unwrap();
        let third = Rule {
            peers: vec![
                Peer::Pods { namespaces: None, pods: LabelSelector::default() },
                Peer::Pods {
                    namespaces: Some(LabelSelector(vec![one(
                        "team",
                        Operator::In(values(&["a"])),
                    )])),
                    pods: LabelSelector::default(),
                },
                Peer::Addresses { block: range("10.0.0.0/8"), except: vec![range("10.1.0.0/16")] },
            ],
            ports: Some(vec![
                Ports::Range(80, 80),
                Ports::Range(8000, 8010),
                Ports::Named(Arc::from("http")),
                Ports::All,
            ]),
        };
        let udp = Rule { peers: Vec::new(), ports: Some(Vec::new()) };
        assert_eq!(policy.ingress.unwrap(), [everything.clone(), everything, third, udp]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let from = |peer: Value| json!({"ingress": [{"from": [peer]}]});
        let port = |port: Value| json!({"egress": [{"ports": [port]}]});
        let expression = |text: &str, values: Value| {
            let one = json!({"key": "a", "operator": text, "values": values});
            json!({"podSelector": {"matchExpressions": [one]}})
        };
        for (spec, error) in [
            (json!({"policyTypes": ["Both"]}), "spec.policyTypes[0]: \"Both\""),
            (from(json!({})), "spec.ingress[0].from[0].podSelector: missing"),
            (
                from(json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}})),
                "spec.ingress[0].from[0].ipBlock",
            ),
            (
                from(json!({"ipBlock": {"cidr": "10.0.0.1"}})),
                "spec.ingress[0].from[0].ipBlock.cidr",
            ),
            (from(json!({"ipBlock": {"cidr": "x/8"}})), "spec.ingress[0].from[0].ipBlock.cidr"),
            (port(json!({"port": 0})), "spec.egress[0].ports[0].port: \"0\""),
            (port(json!({"port": 9, "endPort": 8})), "spec.egress[0].ports[0].endPort: \"8\""),
            (port(json!({"port": "a", "endPort": 8})), "spec.egress[0].ports[0].endPort"),
            (port(json!({"endPort": 8})), "spec.egress[0].ports[0].endPort"),
            (port(json!({"port": 1, "protocol": "ICMP"})), "spec.egress[0].ports[0].protocol"),
            (expression("In", json!([])), "spec.podSelector.matchExpressions[0].operator"),
            (expression("Exists", json!(["a"])), "spec.podSelector.matchExpressions[0].operator"),
            (expression("Like", json!(["a"])), "spec.podSelector.matchExpressions[0].operator"),
        ] {
            let said = read(&spec).unwrap_err();
            assert!(said.starts_with(error), "{spec}: {said}");
        }
    }
}
