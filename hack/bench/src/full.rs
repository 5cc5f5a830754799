//! `make bench`: what a signature costs from an application to the enclave and back, against the plain
//! stack in the same run. Writes `report.json`, `report.md` and plots.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use crate::generator::Path;
use crate::measure::{Load, Sample, measure};
use crate::stack::sigil::{KEYS, Settings};
use crate::stack::{Stack, plain, sigil};
use crate::{clock, machine};

mod human;
mod open_loop;
mod plot;
mod report;

use report::{Figures, Report, Yardstick};

/// Requests under way.
const CONCURRENCY: usize = 500;
const WARM_UP: Duration = Duration::from_millis(400);
/// What is measured by name, in the order of the report.
pub(crate) const PATHS: [(Path, &str); 5] = [
    (Path::Http1, "http1"),
    (Path::Grpc, "grpc"),
    (Path::Stream, "stream"),
    (Path::Batch, "batch"),
    (Path::Http2, "http2"),
];

#[derive(Args)]
pub(crate) struct Arguments {
    /// `sigil-dataplane`; the one beside this program unless given.
    #[arg(long, value_name = "PATH")]
    dataplane: Option<PathBuf>,
    /// `bench-baseline`; the one beside this program unless given.
    #[arg(long, value_name = "PATH")]
    baseline: Option<PathBuf>,
    /// Figures of a prototype, measured in the same minute; docs/bench/README.md says how.
    #[arg(long, value_name = "FILE")]
    yardstick: Option<PathBuf>,
    /// Where the report goes.
    #[arg(long, value_name = "FOLDER", default_value = "target/bench")]
    out: PathBuf,
    /// Shorter rounds, and fewer of them: under three minutes.
    #[arg(long)]
    quick: bool,
}

/// How long things take.
#[derive(Clone, Copy, Debug)]
struct Lengths {
    rounds: usize,
    window: Duration,
    open: Duration,
    open_runs: usize,
}

/// Serving threads, and signing workers: half of the machine each.
pub(crate) fn workers() -> usize {
    clock::cores().map_or(1, |cores| (cores.len() / 2).max(1))
}

/// Measures all and writes the report.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    machine::print()?;
    let lengths = if arguments.quick {
        let (window, open) = (Duration::from_secs(1), Duration::from_secs(3));
        Lengths { rounds: 3, window, open, open_runs: 1 }
    } else {
        let (window, open) = (Duration::from_secs(4), Duration::from_secs(15));
        Lengths { rounds: 7, window, open, open_runs: 5 }
    };
    let yardstick = arguments.yardstick.as_deref().map(Yardstick::read).transpose()?;
    let settings = Settings { workers: workers(), keys: KEYS, ..Settings::default() };
    let dataplane = beside(arguments.dataplane.as_ref(), "sigil-dataplane")?;
    let baseline = beside(arguments.baseline.as_ref(), "bench-baseline")?;
    let threads = 2 * workers();
    let mut stacks = vec![
        sigil::start("sigil", &dataplane, &settings)?,
        plain::start("baseline", &baseline, plain::Call::C, threads)?,
        plain::start("baseline, crate's call", &baseline, plain::Call::Crate, threads)?,
    ];
    let closed = closed_loop(&mut stacks, lengths)?;
    let figures = |at: usize| -> BTreeMap<&'static str, Figures> {
        let measured = closed.iter().filter(|(_, samples)| !samples[at].is_empty());
        measured.map(|(name, samples)| (*name, Figures::of(&samples[at]))).collect()
    };
    let a1_us = report::a1(closed.values().flatten().flatten());
    let report = Report {
        machine: machine::describe()?,
        a1_us,
        paths: figures(0),
        baseline: figures(1),
        baseline_crate_call: figures(2),
        open_loop: open_loop::run(&mut stacks[..2], lengths)?,
        yardstick,
    };
    report.write(&arguments.out)?;
    human::write(&report, &arguments.out)?;
    print!("{}", human::summary(&report));
    println!("report: {}", arguments.out.join("report.md").display());
    report.judge();
    Ok(())
}

/// Samples by path and stack, in rounds, so that a noisy minute falls on all.
fn closed_loop(
    stacks: &mut [Stack],
    lengths: Lengths,
) -> Result<BTreeMap<&'static str, Vec<Vec<Sample>>>> {
    let mut samples: BTreeMap<&'static str, Vec<Vec<Sample>>> =
        PATHS.iter().map(|(_, name)| (*name, vec![Vec::new(); stacks.len()])).collect();
    for round in 0..lengths.rounds {
        eprintln!("closed loop, round {} of {}", round + 1, lengths.rounds);
        for (path, name) in PATHS {
            let load = Load {
                path,
                concurrency: CONCURRENCY,
                connections: 0,
                rate: None,
                warm_up: WARM_UP,
                window: lengths.window,
            };
            let of_path = samples.get_mut(name).context("a path")?;
            for (stack, of_stack) in stacks.iter_mut().zip(of_path) {
                if !stack.takes(path) {
                    continue;
                }
                of_stack.push(measure(stack, &load, round as u64)?);
            }
        }
    }
    Ok(samples)
}

/// The program that was named, or the one beside this.
pub(crate) fn beside(given: Option<&PathBuf>, name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe().context("find the own executable")?;
    let folder = this.parent().context("the own executable has no folder")?;
    Ok(given.cloned().unwrap_or_else(|| folder.join(name)))
}
