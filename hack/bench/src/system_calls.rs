//! System calls of the signing thread for each signature at saturation, counted by strace. A run of
//! its own: strace makes each call slow, so no time of this run means anything.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result};
use clap::Args;
use sigil_enclave_image::pins::VerifyMode;

use crate::caller::Caller;
use crate::enclave::Enclave;
use crate::load::{Load, Shape};
use crate::machine;
use crate::stats::verdict;

/// System calls a signature.
const CALLS_MAX: f64 = 0.1;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    shape: Shape,
    /// Batches that are counted.
    #[arg(long, default_value_t = 1_000)]
    batches: usize,
}

/// Prints the calls by name.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    machine::print()?;
    let folder = tempfile::tempdir().context("make a temporary folder")?;
    let log = folder.path().join("calls");
    // `-D` keeps the enclave our own child; `-ff` gives each thread a file.
    let words = ["strace", "-D", "-f", "-ff", "-qq", "-o"].map(OsString::from);
    let wrapper: Vec<OsString> = words.into_iter().chain([log.clone().into_os_string()]).collect();
    let enclave = Enclave::start(&wrapper, VerifyMode::BatchSample)
        .context("is strace installed? hack/packages bench")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let calls = runtime.block_on(async {
        let mut caller = Caller::claim(&enclave).await?;
        let mut load = Load::open(&mut caller, arguments.shape).await?;
        let log = log.with_extension(enclave.worker()?.to_string());
        load.run(arguments.batches / 10).await?;
        let before = calls_by_name(&log)?;
        load.run(arguments.batches).await?;
        let mut calls = calls_by_name(&log)?;
        for (name, count) in before {
            *calls.entry(name).or_default() -= count;
        }
        anyhow::Ok(calls)
    })?;
    enclave.stop()?;
    let signatures = (arguments.batches * arguments.shape.items) as f64;
    let Shape { items, in_flight } = arguments.shape;
    println!("stream:  {items} digests a message, {in_flight} messages in flight");
    for (name, count) in calls.iter().filter(|(_, count)| **count > 0) {
        println!("{name:<24} {:.4} a signature", *count as f64 / signatures);
    }
    let all = calls.values().sum::<u64>() as f64 / signatures;
    println!(
        "all                      {all:.4}  target <= {CALLS_MAX}: {}",
        verdict(all, CALLS_MAX)
    );
    Ok(())
}

/// Counts the lines of strace's log by what stands before the bracket.
fn calls_by_name(log: &Path) -> Result<BTreeMap<String, u64>> {
    let text = std::fs::read_to_string(log).with_context(|| format!("read {}", log.display()))?;
    Ok(count_names(&text))
}

pub(crate) fn count_names(log: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for (name, _) in log.lines().filter_map(|line| line.split_once('(')) {
        *counts.entry(name.to_owned()).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_name() {
        let log = "recvfrom(9, \"a(b\", 1) = 1\nsendto(9, ...) = 1\nrecvfrom(9, 0) = -1 EAGAIN\n";
        let counts = count_names(log);
        assert_eq!((counts["recvfrom"], counts["sendto"], counts.len()), (2, 1, 2));
    }
}
