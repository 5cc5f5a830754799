//! Requests at given rates from 500 connections, at times that do not depend on the server, and
//! latencies from those times.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::Lengths;
use super::report::round;
use crate::clock;
use crate::generator::{Latency, Path};
use crate::measure::{Load, measure};
use crate::stack::Stack;
use crate::stats::{median, quantile};

/// Signatures a second.
const RATES: [u32; 3] = [1_000, 5_000, 10_000];
/// Connections, and callers.
const CONNECTIONS: usize = 500;
const WARM_UP: Duration = Duration::from_secs(1);

/// One rate against one stack; each figure is the median of its runs, but for the worst.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) stack: String,
    pub(super) path: &'static str,
    pub(super) rate: u32,
    pub(super) runs: usize,
    pub(super) p50_ms: f64,
    pub(super) p90_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) p999_ms: f64,
    pub(super) worst_p99_ms: f64,
    /// Of the server's processes, as a share of all cores.
    pub(super) cpu_percent: f64,
    pub(super) cpu_us: f64,
    /// Scheduled, and refused or not answered: of all runs.
    pub(super) scheduled: u64,
    pub(super) dropped: u64,
}

/// Every rate against every stack.
pub(super) fn run(stacks: &mut [Stack], lengths: Lengths) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (path, name) in [(Path::Http1, "http1"), (Path::Grpc, "grpc")] {
        for rate in RATES {
            for stack in stacks.iter_mut() {
                eprintln!("open loop, {name}, {rate} a second, {}", stack.name);
                rows.push(row(stack, (path, name), rate, lengths)?);
            }
        }
    }
    Ok(rows)
}

fn row(
    stack: &mut Stack,
    (path, name): (Path, &'static str),
    rate: u32,
    lengths: Lengths,
) -> Result<Row> {
    let load = Load {
        path,
        concurrency: CONNECTIONS,
        connections: CONNECTIONS,
        rate: Some(f64::from(rate)),
        warm_up: WARM_UP,
        window: lengths.open,
    };
    let mut samples = Vec::new();
    for run in 0..lengths.open_runs {
        samples.push(measure(stack, &load, run as u64 + 1)?);
    }
    let of = |figure: fn(&Latency) -> f64| -> Vec<f64> {
        samples.iter().map(|sample| figure(&sample.outcome.latency)).collect()
    };
    let cpu_us: Vec<f64> = samples.iter().map(|it| it.dataplane + it.enclave).collect();
    let cores = clock::cores()?.len() as f64;
    let busy = samples.iter().map(|sample| {
        let spent: u64 = sample.outcome.cpu_ns.iter().sum();
        spent as f64 / 1e9 / sample.outcome.seconds / cores * 100.0
    });
    let p99 = of(|it| it.p99_ms);
    Ok(Row {
        stack: stack.name.clone(),
        path: name,
        rate,
        runs: samples.len(),
        p50_ms: round(median(&of(|it| it.p50_ms))),
        p90_ms: round(median(&of(|it| it.p90_ms))),
        p99_ms: round(median(&p99)),
        p999_ms: round(median(&of(|it| it.p999_ms))),
        worst_p99_ms: round(quantile(&p99, 1.0)),
        cpu_percent: round(median(&busy.collect::<Vec<_>>())),
        cpu_us: round(median(&cpu_us)),
        scheduled: samples.iter().map(|it| it.outcome.scheduled).sum(),
        dropped: samples
            .iter()
            .map(|it| it.outcome.unanswered + it.outcome.failures.values().sum::<u64>())
            .sum(),
    })
}
