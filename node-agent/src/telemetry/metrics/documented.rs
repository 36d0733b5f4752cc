//! docs/metrics.md says what is exported: names, types and labels, neither more nor less.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Instant, SystemTime};

use adit_core::flow::{CloseReason, TlsFailure};

use super::{Limits, Metrics, Snapshot};
use crate::observer::samples;

const PAGE: &str = include_str!("../../../../docs/metrics.md");

/// Name → type and labels.
type Families = BTreeMap<String, (String, BTreeSet<String>)>;

#[test]
fn the_page_lists_exactly_what_is_exported() {
    assert_eq!(documented(), exported(&everything()), "docs/metrics.md on the left");
}

#[test]
fn every_metric_says_what_it_means() {
    let text = everything();
    for (name, _) in documented() {
        let family = name.trim_end_matches("_total");
        let help = text.lines().find_map(|line| line.strip_prefix(&format!("# HELP {family} ")));
        assert!(help.is_some_and(|help| help.len() > 10), "{name}");
    }
}

/// An exposition in which every family has a series.
fn everything() -> String {
    let limits = Limits { label_sets: 1, ..Limits::default() };
    let (metrics, mut meter) = Metrics::new("Kubernetes", SystemTime::UNIX_EPOCH, limits);
    let now = Instant::now();
    let refused = samples::refused(3, CloseReason::Tls(TlsFailure::Expired));
    let denied = samples::denied(5);
    for flow in [samples::open(1), samples::finished(2), samples::plaintext(4), refused, denied] {
        meter.count(&flow, now);
    }
    let snapshot = Snapshot {
        pods: [("enrolled", 1)].into(),
        certificate_states: [("valid".to_owned(), 1)].into(),
        certificates: vec![("spiffe://c/ns/a/sa/b".to_owned(), None)],
        certificates_failing: [("unreachable".to_owned(), 1)].into(),
        tunnels: [("inbound", 1)].into(),
        policies: [("valid", 1)].into(),
        ..Snapshot::default()
    };
    metrics.render(&snapshot).unwrap()
}

fn exported(text: &str) -> Families {
    let mut families = Families::new();
    let mut kinds = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
            kinds.insert(name.to_owned(), kind.to_owned());
        } else if !line.starts_with('#') {
            let end = line.find(['{', ' ']).unwrap();
            let name = &line[..end];
            let kind = kinds.get(name.trim_end_matches("_total")).unwrap();
            let labels =
                line[end..].strip_prefix('{').map_or("", |rest| rest.rsplit_once('}').unwrap().0);
            // A value ends with a quote; no value here has one within.
            let labels = labels.split("\",").filter_map(|pair| Some(pair.split_once('=')?.0));
            let family = families.entry(name.to_owned());
            let family = family.or_insert_with(|| (kind.clone(), BTreeSet::new()));
            family.1.extend(labels.map(str::to_owned));
        }
    }
    families
}

fn documented() -> Families {
    let rows = || PAGE.lines().filter_map(|line| line.strip_prefix('|')).map(cells);
    let traffic: BTreeSet<String> =
        rows().filter(|row| row.len() == 2).flat_map(|row| names(&row[0])).collect();
    let traffic: BTreeSet<String> =
        traffic.into_iter().filter(|name| !name.contains([' ', '('])).collect();
    let mut families = Families::new();
    for row in rows().filter(|row| row.len() == 4 && row[0].starts_with('`')) {
        let labels = match row[2].as_str() {
            "*traffic*" => traffic.clone(),
            labels => names(labels).collect(),
        };
        for name in names(&row[0]) {
            families.insert(name, (row[1].clone(), labels.clone()));
        }
    }
    families
}

fn cells(row: &str) -> Vec<String> {
    row.trim_end_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
}

/// What stands between backticks.
fn names(cell: &str) -> impl Iterator<Item = String> + use<> {
    let names: Vec<String> = cell.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    names.into_iter()
}
