//! PeerAuthentication and AuthorizationPolicy of `security.istio.io`, versions v1 and v1beta1 (they
//! have the same fields). What their fields may hold, and what comes of it, is [`adit_core::policy`]'s
//! business; this is where each field stands in a manifest.

mod fields;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adit_core::policy::spec::{
    AuthorizationPolicySpec, ConditionSpec, OperationSpec, PeerAuthenticationSpec, RuleSpec,
    SourceSpec,
};
use adit_core::policy::{self, AuthorizationPolicy, PeerAuthentication};
use adit_core::workload::ObjectName;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::discovery::translate::policy::fields::{Fields, Wrong};
use crate::discovery::translate::{Invalid, required_name};

/// The annotation that has an AuthorizationPolicy evaluated and not enforced, as in Istio.
const ISTIO_DRY_RUN: &str = "istio.io/dry-run";
/// The same for a PeerAuthentication, for which Istio has none.
const ADIT_DRY_RUN: &str = "adit.dev/dry-run";

/// A PeerAuthentication.
///
/// # Errors
/// All fields that are invalid.
pub fn peer_authentication(object: &Value) -> Result<PeerAuthentication, Vec<Invalid>> {
    match peer_spec(object) {
        (Some(spec), wrong) if wrong.is_empty() => {
            PeerAuthentication::try_new(spec).map_err(as_invalid)
        }
        (_, wrong) => Err(wrong),
    }
}

/// What holds in the place of a PeerAuthentication that is not valid and whose last good version is not
/// known; `None` if not even its name can be read.
#[must_use]
pub fn closed_peer_authentication(object: &Value) -> Option<PeerAuthentication> {
    peer_spec(object).0.map(PeerAuthentication::closed)
}

/// An AuthorizationPolicy.
///
/// # Errors
/// All fields that are invalid.
pub fn authorization_policy(object: &Value) -> Result<AuthorizationPolicy, Vec<Invalid>> {
    match authorization_spec(object) {
        (Some(spec), wrong) if wrong.is_empty() => {
            AuthorizationPolicy::try_new(spec).map_err(as_invalid)
        }
        (_, wrong) => Err(wrong),
    }
}

/// What holds in the place of an AuthorizationPolicy that is not valid and whose last good version is
/// not known; `None` if not even its name can be read.
#[must_use]
pub fn closed_authorization_policy(object: &Value) -> Option<AuthorizationPolicy> {
    let (spec, wrong) = authorization_spec(object);
    let unread: Vec<String> = wrong.into_iter().map(|wrong| wrong.field).collect();
    spec.map(|spec| AuthorizationPolicy::closed(spec, &unread))
}

/// What a PeerAuthentication says and what cannot be read; nothing if that is its name.
fn peer_spec(object: &Value) -> (Option<PeerAuthenticationSpec>, Wrong) {
    let mut wrong = Vec::new();
    let mut object = Fields::of("", Some(object), &mut wrong);
    let metadata = metadata(&mut object, ADIT_DRY_RUN, &mut wrong);
    let mut fields = object.object("spec", &mut wrong);
    let (selector, mut unsupported) = selector(&mut fields, &mut wrong);
    let mut mtls = fields.object("mtls", &mut wrong);
    let mode = mtls.text("mode", &mut wrong);
    unsupported.extend(mtls.rest_paths());
    let mut port_modes = BTreeMap::new();
    for (port, mut mtls) in fields.objects("portLevelMtls", &mut wrong) {
        port_modes.insert(port, mtls.text("mode", &mut wrong));
        unsupported.extend(mtls.rest_paths());
    }
    unsupported.extend(fields.rest_paths());
    unsupported.extend(object.rest_paths());
    let spec = metadata.map(|Metadata { name, created, dry_run }| PeerAuthenticationSpec {
        name,
        created,
        dry_run,
        selector,
        mode,
        port_modes,
        unsupported,
    });
    (spec, wrong)
}

/// What an AuthorizationPolicy says and what cannot be read; nothing if that is its name.
fn authorization_spec(object: &Value) -> (Option<AuthorizationPolicySpec>, Wrong) {
    let mut wrong = Vec::new();
    let mut object = Fields::of("", Some(object), &mut wrong);
    let metadata = metadata(&mut object, ISTIO_DRY_RUN, &mut wrong);
    let mut fields = object.object("spec", &mut wrong);
    let (selector, mut unsupported) = selector(&mut fields, &mut wrong);
    let targets = [fields.take("targetRef"), fields.take("targetRefs")];
    let targets = targets.into_iter().flatten().any(says_something);
    let action = fields.text("action", &mut wrong);
    // Whom a CUSTOM policy asks; that nobody can be asked is said of the action.
    let _provider = fields.take("provider");
    let rules = fields.list("rules", &mut wrong).unwrap_or_default();
    let rules = rules.into_iter().map(|(at, item)| rule(at, item, &mut wrong)).collect();
    unsupported.extend(fields.rest_paths());
    unsupported.extend(object.rest_paths());
    let spec = metadata.map(|Metadata { name, created, dry_run }| AuthorizationPolicySpec {
        name,
        created,
        dry_run,
        selector,
        targets,
        action,
        rules,
        unsupported,
    });
    (spec, wrong)
}

struct Metadata {
    name: ObjectName,
    created: Option<SystemTime>,
    dry_run: bool,
}

/// `None` only if something is wrong.
fn metadata(object: &mut Fields<'_>, dry_run: &str, wrong: &mut Wrong) -> Option<Metadata> {
    for known in ["kind", "status"] {
        let _read = object.take(known);
    }
    let version = object.text("apiVersion", wrong);
    if !["", "security.istio.io/v1", "security.istio.io/v1beta1"].contains(&&*version) {
        let why = "not security.istio.io/v1 or security.istio.io/v1beta1";
        wrong.push(Invalid::new("apiVersion", &version, why));
    }
    let mut fields = object.object("metadata", wrong);
    let mut name = |field: &str, wrong: &mut Wrong| {
        let path = fields.path(field);
        let text = fields.text(field, wrong);
        let given = (!text.is_empty()).then_some(&*text);
        if given.is_none() && field == "namespace" {
            return Some("default".to_owned());
        }
        required_name(&path, given).map(str::to_owned).map_err(|error| wrong.push(error)).ok()
    };
    let namespace = name("namespace", wrong);
    let name = name("name", wrong);
    let created = fields.text("creationTimestamp", wrong);
    let created = match created.as_str() {
        "" => None,
        text => point_in_time(text)
            .map_err(|why| {
                let field = fields.path("creationTimestamp");
                wrong.push(Invalid::new(field, text, why));
            })
            .ok(),
    };
    let mut annotations = fields.object("annotations", wrong);
    let field = format!("metadata.annotations[{dry_run:?}]");
    let dry_run = match annotations.take(dry_run) {
        None => false,
        Some(value) => value.as_str().and_then(parse_bool).unwrap_or_else(|| {
            let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            wrong.push(Invalid::new(field, &shown, "not \"true\" or \"false\""));
            false
        }),
    };
    Some(Metadata { name: ObjectName::new(&namespace?, &name?), created, dry_run })
}

/// `matchLabels` and what stands beside it.
fn selector(fields: &mut Fields<'_>, wrong: &mut Wrong) -> (BTreeMap<String, String>, Vec<String>) {
    let mut selector = fields.object("selector", wrong);
    let labels = selector.text_map("matchLabels", wrong);
    (labels, selector.rest_paths())
}

fn rule(at: String, value: &Value, wrong: &mut Wrong) -> RuleSpec {
    let mut fields = Fields::of(at, Some(value), wrong);
    let from = fields.list("from", wrong).map(|from| {
        let from = from.into_iter();
        from.map(|(at, item)| {
            let mut item = Fields::of(at, Some(item), wrong);
            let mut spec = source(item.object("source", wrong), wrong);
            spec.unsupported.extend(item.rest());
            spec
        })
        .collect()
    });
    let to = fields.list("to", wrong).map(|to| {
        let to = to.into_iter();
        to.map(|(at, item)| {
            let mut item = Fields::of(at, Some(item), wrong);
            let mut spec = operation(item.object("operation", wrong), wrong);
            spec.unsupported.extend(item.rest());
            spec
        })
        .collect()
    });
    let when = fields.list("when", wrong).unwrap_or_default();
    let mut unsupported = Vec::new();
    let when = when.into_iter().enumerate().map(|(i, (at, item))| {
        let mut fields = Fields::of(at, Some(item), wrong);
        let spec = ConditionSpec {
            key: fields.text("key", wrong),
            values: fields.texts("values", wrong),
            not_values: fields.texts("notValues", wrong),
        };
        unsupported.extend(fields.rest().into_iter().map(|name| format!("when[{i}].{name}")));
        spec
    });
    let when = when.collect();
    unsupported.extend(fields.rest());
    RuleSpec { from, to, when, unsupported }
}

fn source(mut fields: Fields<'_>, wrong: &mut Wrong) -> SourceSpec {
    let mut texts = |name| fields.texts(name, wrong);
    SourceSpec {
        principals: texts("principals"),
        not_principals: texts("notPrincipals"),
        namespaces: texts("namespaces"),
        not_namespaces: texts("notNamespaces"),
        service_accounts: texts("serviceAccounts"),
        not_service_accounts: texts("notServiceAccounts"),
        ip_blocks: texts("ipBlocks"),
        not_ip_blocks: texts("notIpBlocks"),
        trust_domains: texts("trustDomains"),
        not_trust_domains: texts("notTrustDomains"),
        unsupported: fields.rest(),
    }
}

fn operation(mut fields: Fields<'_>, wrong: &mut Wrong) -> OperationSpec {
    let mut texts = |name| fields.texts(name, wrong);
    OperationSpec {
        ports: texts("ports"),
        not_ports: texts("notPorts"),
        unsupported: fields.rest(),
    }
}

fn as_invalid(wrong: Vec<policy::Invalid>) -> Vec<Invalid> {
    let wrong = wrong.into_iter();
    wrong.map(|error| Invalid::new(error.field, &error.value, error.why.to_string())).collect()
}

fn says_something(value: &Value) -> bool {
    match value {
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Null => false,
        Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

/// A time as the API server writes it.
fn point_in_time(text: &str) -> Result<SystemTime, &'static str> {
    let why = "not an RFC 3339 time since 1970";
    let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_not: time::error::Parse| why)?;
    let since = u64::try_from(time.unix_timestamp()).map_err(|_not| why)?;
    Ok(UNIX_EPOCH + Duration::from_secs(since))
}

/// What Go's `strconv.ParseBool` takes, with which Istio reads the annotation.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
