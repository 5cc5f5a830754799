//! One load against one stack: CPU of the server's processes for each signature, and the raw signature
//! of the same seconds, so that a ratio means something on a machine whose speed changes.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::clock;
use crate::enclave::Checks;
use crate::generator::{Outcome, Path, Plan};
use crate::reference::Reference;
use crate::stack::Stack;
use crate::stats::median;

/// Raw signatures of one sample, and the pause after it: some 5 % of one core.
const REFERENCE_SIGNATURES: u32 = 64;
const REFERENCE_PAUSE: Duration = Duration::from_millis(25);
/// HTTP/2 connections that gRPC callers share.
const GRPC_CONNECTIONS: usize = 16;
/// Digests of a `SignBatch`.
pub(crate) const BATCH_ITEMS: usize = 32;

/// A load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) path: Path,
    /// Requests under way in a closed loop; callers in an open one.
    pub(crate) concurrency: usize,
    /// Connections; those that the path is measured with if 0.
    pub(crate) connections: usize,
    /// Requests a second; a closed loop if there is none.
    pub(crate) rate: Option<f64>,
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
}

/// What one load came to, in microseconds of CPU a signature.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) a1: f64,
    pub(crate) dataplane: f64,
    pub(crate) enclave: f64,
    /// The part of the enclave's that its checks take; nothing for a signer without.
    pub(crate) check: Option<f64>,
    pub(crate) outcome: Outcome,
}

// === impl Load ===

impl Load {
    fn plan(&self, stack: &Stack, seed: u64) -> Plan {
        let (connections, callers, items) = match self.path {
            Path::Http1 => (self.concurrency, self.concurrency, 1),
            Path::Http2 | Path::Grpc => {
                (GRPC_CONNECTIONS.min(self.concurrency), self.concurrency, 1)
            }
            Path::Stream => {
                let streams = GRPC_CONNECTIONS.min(self.concurrency);
                (streams, streams, self.concurrency.div_ceil(streams))
            }
            Path::Batch => {
                let callers = self.concurrency.div_ceil(BATCH_ITEMS);
                (callers.div_ceil(2), callers, BATCH_ITEMS)
            }
        };
        Plan {
            path: self.path,
            address: stack.address(self.path),
            keys: stack.keys.clone(),
            connections: if self.connections == 0 { connections } else { self.connections },
            callers,
            items,
            rate: self.rate,
            each: None,
            warm_up_ms: u64::try_from(self.warm_up.as_millis()).unwrap_or(u64::MAX),
            window_ms: u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX),
            processes: stack.processes().to_vec(),
            seed,
        }
    }
}

/// Puts the load on the stack.
pub(crate) fn measure(stack: &mut Stack, load: &Load, seed: u64) -> Result<Sample> {
    let (checks, crossings) = (stack.checks()?, stack.crossings()?);
    let (outcome, a1) = generate(&load.plan(stack, seed))
        .with_context(|| format!("{:?} against {}", load.path, stack.name))?;
    // The plain stack may fail under its load, and an open loop says what was dropped.
    if load.rate.is_none() {
        let good = checks.is_none() || outcome.failures.is_empty();
        ensure!(good, "{:?} against {}: {:?}", load.path, stack.name, outcome.failures);
        ensure!(outcome.signatures > 0, "{:?} against {}: no signature", load.path, stack.name);
    }
    let each = |at: usize| -> f64 {
        let ns = outcome.cpu_ns.get(at).copied().unwrap_or_default();
        ns as f64 / 1e3 / outcome.signatures as f64
    };
    let check = match (checks, stack.checks()?) {
        (Some(before), Some(after)) => {
            let (digests, messages) = stack.crossings()?.since(crossings);
            Some(check_us(before, after, digests / messages)?)
        }
        _ => None,
    };
    Ok(Sample { a1, dataplane: each(0), enclave: each(1), check, outcome })
}

/// Has so many signatures made, with so many requests under way.
pub(crate) fn sign(
    stack: &Stack,
    path: Path,
    (concurrency, signatures): (usize, u64),
) -> Result<()> {
    let (warm_up, window) = (Duration::ZERO, Duration::ZERO);
    let load = Load { path, concurrency, connections: 0, rate: None, warm_up, window };
    let plan = load.plan(stack, 1);
    let of_call = if path == Path::Batch { plan.items as u64 } else { 1 };
    let each = signatures / of_call / plan.callers as u64;
    let (outcome, _) = generate(&Plan { each: Some(each), ..plan })?;
    ensure!(outcome.failures.is_empty(), "{path:?}: {:?}", outcome.failures);
    ensure!(outcome.signatures == signatures, "{path:?}: {} signed", outcome.signatures);
    Ok(())
}

/// The check of one signature between two looks, without what reading the clock cost.
pub(crate) fn check_us(before: Checks, after: Checks, items: f64) -> Result<f64> {
    let signatures = after.signatures - before.signatures;
    ensure!(signatures > 0, "no check was timed: a longer window");
    let ns = (after.ns - before.ns) as f64 / signatures as f64;
    Ok((ns / 1e3) - clock::READING_US.with(|cost| *cost) / items)
}

/// Runs a generator; gives its outcome and the raw signature of its window.
fn generate(plan: &Plan) -> Result<(Outcome, f64)> {
    let this = std::env::current_exe().context("find the own executable")?;
    let mut child = Command::new(this)
        .arg("generate")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start the generator")?;
    let mut input = child.stdin.take().context("no standard input")?;
    input.write_all(&serde_json::to_vec(plan)?)?;
    drop(input);
    let mut output = BufReader::new(child.stdout.take().context("no standard output")?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    let a1 = if line.trim() == "measuring" && plan.each.is_none() {
        reference(Duration::from_millis(plan.window_ms))
    } else {
        Ok(f64::NAN)
    };
    line.clear();
    output.read_line(&mut line)?;
    ensure!(child.wait()?.success(), "the generator failed");
    Ok((serde_json::from_str(&line).context("the generator's answer")?, a1?))
}

/// The raw signature meanwhile, in microseconds.
fn reference(window: Duration) -> Result<f64> {
    let mut reference = Reference::library_defaults()?;
    let until = Instant::now() + window;
    let mut samples = Vec::new();
    while Instant::now() < until {
        samples.push(reference.sample_us(REFERENCE_SIGNATURES)?);
        clock::sleep(REFERENCE_PAUSE);
    }
    Ok(median(&samples))
}
