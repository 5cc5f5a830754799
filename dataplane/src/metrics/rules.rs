//! The rules of `config/prometheus` against the metrics of this process.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_yaml_ng::Value;
use sigil_enclave_protocol::v1::{Histogram, KeyspaceStats, StatsReply, WorkerStats};

use super::{Method, Metrics, Phase, ReloadResult, by_keyspace};
use crate::config::Pool;
use crate::pool::Upstream;
use crate::status::KmsErrorClass;

/// Words of expressions that are no metrics.
const WORDS: &[&str] = &[
    "absent_over_time",
    "by",
    "histogram_quantile",
    "increase",
    "le",
    "max",
    "m",
    "or",
    "rate",
    "sum",
];

/// Every family with a sample.
fn scrape() -> String {
    let metrics = Metrics::new();
    metrics.answered(Method::Sign, 200);
    metrics.phase(Method::Sign, Phase::Total, Duration::from_millis(1));
    metrics.unlock_failed("k", KmsErrorClass::Denied);
    metrics.unlocked("k", Duration::from_millis(1));
    metrics.needs_person("k", true);
    metrics.unlock_required.get_or_create(&by_keyspace("k")).inc();
    metrics.unlock_retry.get_or_create(&by_keyspace("k")).inc();
    metrics.reloaded(ReloadResult::Refused, 0);
    metrics.rng_source("nsm-hwrng");
    metrics.upstreams.add(&Arc::new(Upstream::new("e", Pool::default())));
    let latency = Some(Histogram { upper_bounds: vec![1], counts: vec![1, 0], sum: 1 });
    let keyspace = KeyspaceStats { rehydrate_latency_us: latency, ..KeyspaceStats::default() };
    let worker = WorkerStats { sign_cpu_us: Some(Histogram::default()), ..WorkerStats::default() };
    metrics.enclave.observed(StatsReply {
        uptime_us: 1,
        workers: vec![worker],
        keyspaces: vec![keyspace],
        ..StatsReply::default()
    });
    metrics.encode()
}

/// Names of metrics in an expression: its words without labels, values, numbers and functions.
fn names(expression: &str) -> BTreeSet<String> {
    let mut plain = String::new();
    let mut depth = 0_u32;
    for part in expression.split_inclusive(['{', '}', '"', '[', ']']) {
        let (text, end) = part.split_at(part.len() - 1);
        if depth == 0 {
            plain.push_str(text);
        }
        match end {
            "{" | "[" => depth += 1,
            "}" | "]" => depth -= 1,
            end if depth == 0 => plain.push_str(end),
            _ => {}
        }
        plain.push(' ');
    }
    // Labels after `by` stand in brackets of their own.
    let without_labels = plain.split("by (").enumerate().map(|(index, part)| match index {
        0 => part,
        _ => part.split_once(')').map_or(part, |(_, rest)| rest),
    });
    let text = without_labels.collect::<Vec<_>>().join(" ");
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    let is_name =
        |word: &&str| word.starts_with(|c: char| c.is_alphabetic()) && !WORDS.contains(word);
    words.filter(is_name).map(ToOwned::to_owned).collect()
}

#[test]
fn rules_read_metrics_that_this_process_has() {
    let files = [
        include_str!("../../../config/prometheus/dataplane.rules.yaml"),
        include_str!("../../../config/prometheus/pool.rules.yaml"),
    ];
    let files = files.map(|text| serde_yaml_ng::from_str::<Value>(text).unwrap());
    let groups = files.iter().flat_map(|file| file["groups"].as_sequence().unwrap());
    let rules: Vec<_> = groups.flat_map(|group| group["rules"].as_sequence().unwrap()).collect();
    let recorded: BTreeSet<_> = rules.iter().filter_map(|rule| rule["record"].as_str()).collect();
    let scrape = scrape();
    let mut seen = BTreeSet::new();
    for rule in &rules {
        for name in names(rule["expr"].as_str().unwrap()) {
            let has = |line: &str| {
                line.strip_prefix(&name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            };
            let exists = recorded.contains(name.as_str()) || scrape.lines().any(has);
            assert!(exists, "{name} in {rule:?}\n{scrape}");
            seen.insert(name);
        }
    }
    assert!(seen.len() >= 16, "the expressions were read: {seen:?}");
}
