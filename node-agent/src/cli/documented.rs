//! docs/cli.md says what is printed: every field of every view, every reason, every command, filter
//! and exit code.

use std::collections::BTreeMap;

use clap::CommandFactory;
use serde::de::value::Error;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde_json::Value;

use crate::admin::view;
use crate::cli::{AFTER_HELP, Cli};

const PAGE: &str = include_str!("../../../docs/cli.md");

/// What gives a flow its reasons: the labels of core.
const REASONS: [&str; 5] = [
    include_str!("../../core/src/flow.rs"),
    include_str!("../../core/src/policy/verdict.rs"),
    include_str!("../../core/src/hbone.rs"),
    include_str!("../../core/src/route/mod.rs"),
    include_str!("../../core/src/term.rs"),
];

#[test]
fn the_page_lists_exactly_the_fields_of_every_view() {
    let views = [
        ("Status", fields::<view::StatusView>()),
        ("Problem", fields::<view::Problem>()),
        ("Draining", fields::<view::DrainingView>()),
        ("Node", fields::<view::NodeView>()),
        ("Readiness", fields::<view::ReadinessView>()),
        ("Discovery", fields::<view::DiscoveryView>()),
        ("Denied", fields::<view::DeniedView>()),
        ("Denial", fields::<view::DenialView>()),
        ("PolicyCounts", fields::<view::PolicyCounts>()),
        ("Policy", fields::<view::PolicyView>()),
        ("Explanation", fields::<view::ExplainView>()),
        ("Blocked", fields::<view::BlockedView>()),
        ("End", fields::<view::ExplainedParty>()),
        ("Route", fields::<view::RouteView>()),
        ("Records", fields::<view::RecordsView>()),
        ("Fact", fields::<view::Fact>()),
        ("Workload", fields::<view::WorkloadView>()),
        ("Enrolment", fields::<view::PodStateView>()),
        ("Service", fields::<view::ServiceView>()),
        ("ServicePort", fields::<view::ServicePortView>()),
        ("Endpoint", fields::<view::EndpointView>()),
        ("ObjectName", fields::<view::ObjectRef>()),
        ("Certificate", fields::<view::CertificateView>()),
        ("Tunnel", fields::<view::TunnelView>()),
        ("Flow", fields::<view::FlowView>()),
        ("Party", fields::<view::PartyView>()),
        ("Pod", fields::<view::PodRef>()),
        ("Tls", fields::<view::TlsView>()),
        ("Event", fields::<view::FollowEvent>()),
        ("LogLevel", fields::<view::LogLevelView>()),
        ("Drain", fields::<view::DrainView>()),
        ("Finding", keys(&golden("doctor.json")[0])),
        ("Versions", keys(&golden("version.json"))),
        ("File", keys(&golden("ca-init.json")[0])),
        ("Rotation", keys(&golden("ca-rotate-distributing.json"))),
        ("Root", keys(&golden("ca-rotate-distributing.json")["roots"][0])),
    ];
    let section = PAGE.split("\n## Fields\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut documented = BTreeMap::new();
    for part in section.split("\n### ").skip(1) {
        let (heading, table) = part.split_once('\n').unwrap();
        documented.insert(heading, names_of_rows(table));
    }
    let views: BTreeMap<&str, Vec<String>> = views.into();
    for (name, mut fields) in views.clone() {
        let mut rows = documented.get(name).cloned().unwrap_or_default();
        fields.sort();
        rows.sort();
        assert_eq!(rows, fields, "docs/cli.md, section {name}, on the left");
    }
    assert!(documented.keys().eq(views.keys()), "{:?}", documented.keys());
}

#[test]
fn the_page_lists_every_reason_of_a_flow_and_no_other() {
    let section = PAGE.split("\n## Reasons\n").nth(1).unwrap();
    let mut documented = names_of_rows(section);
    documented.retain(|name| !["end", "plaintextReason"].contains(&name.as_str()));
    let mut labels: Vec<String> = Vec::new();
    for source in REASONS {
        let code = source.split("#[cfg(test)]").next().unwrap();
        let parts = code.split("=> \"").skip(1);
        labels.extend(parts.filter_map(|part| Some(part.split_once('"')?.0.to_owned())));
    }
    let other = ["outbound", "inbound", "hbone", "plaintext", "undecided"];
    labels.retain(|label| !other.contains(&label.as_str()));
    labels.sort();
    documented.sort();
    assert_eq!(documented, labels, "docs/cli.md, Reasons, on the left");
}

#[test]
fn the_page_lists_every_command_filter_and_exit_code() {
    let command = Cli::command();
    for subcommand in command.get_subcommands() {
        let name = subcommand.get_name();
        let told = [format!("`adit {name}"), format!("`{name}`")];
        assert!(told.iter().any(|text| PAGE.contains(text.as_str())), "{name}");
    }
    let flows = command.find_subcommand("flows").unwrap();
    for argument in flows.get_arguments().filter_map(clap::Arg::get_long) {
        assert!(PAGE.contains(&format!("--{argument}")), "--{argument}");
    }
    let codes = AFTER_HELP.lines().filter_map(|line| line.strip_prefix("  "));
    let codes: Vec<&str> = codes.filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(codes, ["0", "1", "2", "3", "4", "5", "141"]);
    for code in codes {
        assert!(PAGE.contains(&format!("\n| {code} | ")), "exit code {code}");
    }
}

#[test]
fn every_command_that_people_type_has_examples() {
    fn visit(command: &clap::Command, path: &str) {
        let path = format!("{path} {}", command.get_name());
        let subcommands: Vec<_> = command.get_subcommands().collect();
        if subcommands.is_empty() && !path.ends_with("version") {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.starts_with("Examples:\n  "), "{path}: {help:?}");
        }
        for subcommand in subcommands {
            visit(subcommand, &path);
        }
    }
    visit(&Cli::command(), "");
}

/// What stands between backticks in the first column.
fn names_of_rows(table: &str) -> Vec<String> {
    let rows = table.lines().filter_map(|line| line.strip_prefix("| "));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

fn golden(name: &str) -> Value {
    let path = format!("{}/tests/golden/cli/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn keys(value: &Value) -> Vec<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

/// The fields of a struct, or the variants of an enum, as they are read.
fn fields<T: for<'de> Deserialize<'de>>() -> Vec<String> {
    let mut seen = Vec::new();
    assert!(T::deserialize(Names(&mut seen)).is_err());
    assert!(!seen.is_empty());
    seen.into_iter().map(str::to_owned).collect()
}

/// Notes what is asked for, and has nothing.
struct Names<'a>(&'a mut Vec<&'static str>);

impl<'de> Deserializer<'de> for Names<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(Error::custom("neither struct nor enum"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.extend(fields);
        Err(Error::custom("noted"))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.extend(variants);
        Err(Error::custom("noted"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map identifier ignored_any
    }
}
