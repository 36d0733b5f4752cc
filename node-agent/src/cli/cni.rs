//! `adit cni`: the chained CNI plugin (CNI specification 1.1). A container runtime starts it with
//! variables and a configuration on standard input, and reads a result or an error from its output.
//!
//! It asks the agent whether a pod may start. While no agent answers it decides by what the agent
//! wrote down last, so that only pods that must be enrolled wait for the agent.

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_core::admission::StartingPod;
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::client::{Client, ClientError};
use crate::cni::{Answer, Request, cache};

/// The longest configuration that is read, in bytes; it holds the results of all plugins before.
const LARGEST: u64 = 1 << 20;

/// What it speaks.
const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// How much longer than the agent may wait its answer may take.
const MARGIN: Duration = Duration::from_secs(2);

/// The configuration, as far as it matters.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Network {
    cni_version: String,
    #[serde(default)]
    prev_result: Option<Value>,
    #[serde(default)]
    socket: Option<PathBuf>,
    #[serde(default)]
    cache: Option<PathBuf>,
    #[serde(default)]
    exempt_namespaces: Vec<String>,
    #[serde(default)]
    wait_ms: u64,
}

/// An error as the specification has it (section 5).
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    code: u32,
    msg: String,
    details: String,
}

const INCOMPATIBLE_VERSION: u32 = 1;
const INVALID_ENVIRONMENT: u32 = 4;
const IO_FAILURE: u32 = 5;
const NOT_DECODED: u32 = 6;
const INVALID_CONFIGURATION: u32 = 7;
const TRY_AGAIN_LATER: u32 = 11;
const NOT_AVAILABLE: u32 = 50;
/// The first code that is a plugin's own: asking again later does not help.
const REFUSED: u32 = 100;

impl Refusal {
    fn new(code: u32, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: details.into() }
    }
}

/// Does what the variables say; whether it went well.
pub(super) fn run(
    variable: &dyn Fn(&str) -> Option<String>,
    input: &mut dyn Read,
    out: &mut dyn Write,
) -> io::Result<bool> {
    let mut version = "1.0.0".to_owned();
    match answer(variable, input, &mut version) {
        Ok(None) => Ok(true),
        Ok(Some(result)) => writeln!(out, "{result}").map(|()| true),
        Err(Refusal { code, msg, details }) => {
            let error = json!({
                "cniVersion": version, "code": code, "msg": msg, "details": details,
            });
            writeln!(out, "{error}").map(|()| false)
        }
    }
}

fn answer(
    variable: &dyn Fn(&str) -> Option<String>,
    input: &mut dyn Read,
    version: &mut String,
) -> Result<Option<Value>, Refusal> {
    let command = variable("CNI_COMMAND").unwrap_or_default();
    if command == "VERSION" {
        return Ok(Some(json!({ "cniVersion": "1.1.0", "supportedVersions": VERSIONS })));
    }
    let network = read(input)?;
    if !VERSIONS.contains(&&*network.cni_version) {
        let details = format!("adit's plugin speaks {}", VERSIONS.join(", "));
        let msg = format!("cniVersion {:?} is not supported", network.cni_version);
        return Err(Refusal::new(INCOMPATIBLE_VERSION, msg, details));
    }
    version.clone_from(&network.cni_version);
    match &*command {
        "ADD" => add(variable, &network).map(Some),
        "CHECK" => check(variable, &network).map(|()| None),
        "STATUS" => status(&network).map(|()| None),
        // Nothing of a pod is kept here: the agent sees pods come and go.
        "DEL" | "GC" => Ok(None),
        other => {
            let msg = format!("CNI_COMMAND {other:?} is not known");
            Err(Refusal::new(INVALID_ENVIRONMENT, msg, "a container runtime sets it"))
        }
    }
}

fn read(input: &mut dyn Read) -> Result<Network, Refusal> {
    let mut text = Vec::new();
    let read = input.take(LARGEST + 1).read_to_end(&mut text);
    read.map_err(|e| Refusal::new(IO_FAILURE, "the configuration cannot be read", e.to_string()))?;
    if u64::try_from(text.len()).is_ok_and(|length| length > LARGEST) {
        let msg = format!("the configuration is longer than {LARGEST} bytes");
        return Err(Refusal::new(NOT_DECODED, msg, ""));
    }
    serde_json::from_slice(&text).map_err(|error| {
        Refusal::new(NOT_DECODED, "the configuration is not understood", error.to_string())
    })
}

/// Holds the pod until it may start.
fn add(variable: &dyn Fn(&str) -> Option<String>, network: &Network) -> Result<Value, Refusal> {
    let Some(result) = network.prev_result.clone() else {
        let msg = "there is no prevResult: adit's plugin must follow one that makes the network";
        return Err(Refusal::new(INVALID_CONFIGURATION, msg, ""));
    };
    let Some(pod) = held_pod(variable, network)? else {
        return Ok(result);
    };
    let netns = variable("CNI_NETNS").filter(|path| path.starts_with('/'));
    let Some(netns) = netns else {
        let msg = "CNI_NETNS is not an absolute path";
        return Err(Refusal::new(INVALID_ENVIRONMENT, msg, "a container runtime sets it"));
    };
    // The agent, in its container, has /run but not /var/run.
    let real = std::fs::canonicalize(&netns).ok().and_then(|path| path.to_str().map(str::to_owned));
    let netns = real.unwrap_or(netns);
    let wait = Duration::from_millis(network.wait_ms);
    let request = request(&pod, netns, addresses(&result), network.wait_ms);
    judge(network, &pod, ask(network, &request, wait)).map(|()| result)
}

fn check(variable: &dyn Fn(&str) -> Option<String>, network: &Network) -> Result<(), Refusal> {
    let Some(pod) = held_pod(variable, network)? else {
        return Ok(());
    };
    let request = request(&pod, String::new(), Vec::new(), 0);
    judge(network, &pod, ask(network, &request, Duration::ZERO))
}

/// Pods of namespaces that are not opted in can always start: the plugin is out of order only if it
/// cannot tell which those are.
fn status(network: &Network) -> Result<(), Refusal> {
    let answers = network
        .socket
        .as_deref()
        .is_some_and(|socket| std::os::unix::net::UnixStream::connect(socket).is_ok());
    if answers {
        return Ok(());
    }
    match network.cache.as_deref().map_or(Ok(None), cache::read) {
        Ok(_) => Ok(()),
        Err(error) => {
            let msg = "no agent answers, and what it wrote down cannot be read";
            Err(Refusal::new(NOT_AVAILABLE, msg, error.to_string()))
        }
    }
}

/// The pod, unless it is none or one that is never held.
fn held_pod(
    variable: &dyn Fn(&str) -> Option<String>,
    network: &Network,
) -> Result<Option<StartingPod>, Refusal> {
    let args = variable("CNI_ARGS").unwrap_or_default();
    let pod = StartingPod::from_args(&args)
        .map_err(|error| Refusal::new(INVALID_ENVIRONMENT, format!("CNI_ARGS: {error}"), ""))?;
    Ok(pod.filter(|pod| !network.exempt_namespaces.contains(&pod.namespace)))
}

fn request(pod: &StartingPod, netns: String, addresses: Vec<IpAddr>, wait_ms: u64) -> Request {
    Request {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid: pod.uid.as_ref().map(ToString::to_string).unwrap_or_default(),
        netns,
        addresses,
        wait_ms,
    }
}

/// `ips[].address` of a result, each with a prefix length (specification, section 5).
fn addresses(result: &Value) -> Vec<IpAddr> {
    let listed = result.get("ips").and_then(Value::as_array).into_iter().flatten();
    let texts = listed.filter_map(|ip| ip.get("address")?.as_str());
    texts.filter_map(|text| text.split('/').next()?.parse().ok()).collect()
}

fn ask(network: &Network, request: &Request, wait: Duration) -> Result<Answer, ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let socket = network.socket.clone();
    let client = Client::new(socket.unwrap_or_else(|| crate::admin::DEFAULT_SOCKET.into()));
    let failed = |source| ClientError::Connect { socket: client.socket().to_owned(), source };
    runtime.map_err(failed)?.block_on(client.send(
        Method::POST,
        "/v1/cni",
        Some(request),
        wait + MARGIN,
    ))
}

/// What an answer, or none, means for the pod.
fn judge(
    network: &Network,
    pod: &StartingPod,
    answer: Result<Answer, ClientError>,
) -> Result<(), Refusal> {
    let why = match answer {
        Ok(Answer::Pass | Answer::Enrolled) => return Ok(()),
        Ok(Answer::NotEnrolled { why }) => {
            let StartingPod { namespace, name, .. } = pod;
            let msg = format!("pod {namespace}/{name} is not enrolled yet: {why}");
            return Err(Refusal::new(TRY_AGAIN_LATER, msg, "see `adit status` on this node"));
        }
        Ok(Answer::Refused { why }) => {
            let StartingPod { namespace, name, .. } = pod;
            let msg = format!("pod {namespace}/{name} cannot be enrolled: {why}");
            let details = "it belongs to the mesh by its labels, and is not started outside of it";
            return Err(Refusal::new(REFUSED, msg, details));
        }
        Ok(Answer::NotReady) => "adit's agent has not listed all pods yet".to_owned(),
        Err(error) => format!("{:#}", anyhow::Error::new(error)),
    };
    alone(network.cache.as_deref(), pod, &why)
}

/// The decision while no agent gives one.
fn alone(cache: Option<&Path>, pod: &StartingPod, why: &str) -> Result<(), Refusal> {
    let StartingPod { namespace, name, .. } = pod;
    match cache.map_or(Ok(None), cache::read) {
        Ok(Some(remembered)) if remembered.must_be_enrolled(pod) => {
            let msg =
                format!("pod {namespace}/{name} must be enrolled before it starts, and {why}");
            let details =
                "its namespace is opted in to adit; it starts as soon as the node's agent is well";
            Err(Refusal::new(TRY_AGAIN_LATER, msg, details))
        }
        Ok(_) => Ok(()),
        Err(error) => {
            let error = format!("{:#}", anyhow::Error::new(error));
            let msg =
                format!("whether pod {namespace}/{name} must be enrolled is not known: {why}");
            Err(Refusal::new(TRY_AGAIN_LATER, msg, error))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;

    use adit_core::admission::Remembered;

    use super::*;

    const ARGS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart;K8S_POD_UID=u-1";
    const RESULT: &str = r#"{"cniVersion":"1.0.0","ips":[{"address":"10.91.1.5/24"},{"address":"fd00::5/64"}],"dns":{}}"#;

    /// Runs the plugin as a runtime does, with no agent; what it says, and whether it went well.
    fn plugin(command: &str, args: &str, input: &str) -> (String, bool) {
        let variables =
            [("CNI_COMMAND", command), ("CNI_ARGS", args), ("CNI_NETNS", "/run/netns/a")];
        let variables: BTreeMap<&str, &str> = variables.into();
        let mut out = Vec::new();
        let well = run(
            &|name| variables.get(name).map(|value| (*value).to_owned()),
            &mut input.as_bytes(),
            &mut out,
        );
        (String::from_utf8(out).unwrap(), well.unwrap())
    }

    fn network(cache: &str) -> String {
        format!(
            r#"{{"cniVersion":"1.0.0","name":"lab","type":"adit-cni","socket":"/nonexistent/adit.sock",
                "cache":"{cache}","exemptNamespaces":["kube-system"],"waitMs":10,"prevResult":{RESULT}}}"#
        )
    }

    fn refused(answer: &(String, bool)) -> (u64, String) {
        assert!(!answer.1, "{answer:?}");
        let error: Value = serde_json::from_str(&answer.0).unwrap();
        (error["code"].as_u64().unwrap(), error["msg"].as_str().unwrap().to_owned())
    }

    #[test]
    fn it_says_which_versions_it_speaks() {
        let (text, well) = plugin("VERSION", "", "");
        assert!(well);
        let said: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(said["supportedVersions"], json!(VERSIONS));
    }

    #[test]
    fn without_an_agent_only_pods_that_must_be_enrolled_are_held() {
        let path = std::env::temp_dir().join(format!("adit-plugin-{}.json", std::process::id()));
        let shown = path.to_str().unwrap().to_owned();
        let passes = |answer: (String, bool)| {
            assert!(answer.1, "{answer:?}");
            let result: Value = serde_json::from_str(&answer.0).unwrap();
            assert_eq!(result, serde_json::from_str::<Value>(RESULT).unwrap());
        };
        // No agent ever wrote anything on this node.
        passes(plugin("ADD", ARGS, &network(&shown)));
        let namespaces = BTreeSet::from(["shop".to_owned()]);
        cache::write(&path, &Remembered { namespaces, ..Remembered::default() }).unwrap();
        let (code, msg) = refused(&plugin("ADD", ARGS, &network(&shown)));
        assert_eq!(code, 11);
        assert!(msg.contains("shop/cart") && msg.contains("/nonexistent/adit.sock"), "{msg}");
        passes(plugin("ADD", &ARGS.replace("shop", "bank"), &network(&shown)));
        passes(plugin("ADD", &ARGS.replace("shop", "kube-system"), &network(&shown)));
        passes(plugin("ADD", "", &network(&shown)));
        assert_eq!(refused(&plugin("CHECK", ARGS, &network(&shown))).0, 11);
        let elsewhere = ARGS.replace("shop", "bank");
        assert_eq!(plugin("CHECK", &elsewhere, &network(&shown)), (String::new(), true));
        assert_eq!(plugin("STATUS", "", &network(&shown)), (String::new(), true));
        // What cannot be read holds everybody but the exempt.
        fs::write(&path, "{").unwrap();
        assert_eq!(refused(&plugin("ADD", &ARGS.replace("shop", "bank"), &network(&shown))).0, 11);
        passes(plugin("ADD", &ARGS.replace("shop", "kube-system"), &network(&shown)));
        assert_eq!(refused(&plugin("STATUS", "", &network(&shown))).0, 50);
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_pod_can_always_be_deleted() {
        for command in ["DEL", "GC"] {
            assert_eq!(plugin(command, ARGS, &network("/none")), (String::new(), true));
            assert_eq!(plugin(command, "", r#"{"cniVersion":"0.4.0"}"#), (String::new(), true));
        }
    }

    #[test]
    fn hostile_input_gets_an_error_of_the_specification() {
        let long = format!("{{\"cniVersion\":\"{}\"}}", "x".repeat(2 << 20));
        for (command, args, input, code) in [
            ("ADD", ARGS, "", 6),
            ("ADD", ARGS, "[]", 6),
            ("ADD", ARGS, "{\"cniVersion\":1}", 6),
            ("ADD", ARGS, &*long, 6),
            ("ADD", ARGS, r#"{"cniVersion":"9.0.0"}"#, 1),
            ("ADD", ARGS, r#"{"cniVersion":"1.0.0"}"#, 7),
            ("ADD", "nonsense", &*network("/none"), 4),
            ("ADD", "K8S_POD_NAMESPACE=..;K8S_POD_NAME=a", &*network("/none"), 4),
            ("RUN", ARGS, &*network("/none"), 4),
            ("", "", &*network("/none"), 4),
        ] {
            let answer = plugin(command, args, input);
            assert_eq!(refused(&answer).0, code, "{command} {args} {answer:?}");
        }
    }

    #[test]
    fn the_addresses_are_those_of_the_plugin_before() {
        let result: Value = serde_json::from_str(RESULT).unwrap();
        let expected: [IpAddr; 2] = ["10.91.1.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        assert_eq!(addresses(&result), expected);
        assert_eq!(addresses(&json!({ "ips": [{ "address": 1 }, {}, 7] })), [] as [IpAddr; 0]);
        assert_eq!(addresses(&json!({ "ips": {} })), [] as [IpAddr; 0]);
    }
}
