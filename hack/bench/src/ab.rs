//! Two builds of the dataplane in one run, in short rounds that take turns, each with an enclave of its
//! own: what the machine does to one it does to the other.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::full::workers;
use crate::generator::Path;
use crate::machine;
use crate::measure::{Load, Sample, measure};
use crate::stack::sigil::{KEYS, Settings, start};
use crate::stats::{median, quantile};

#[derive(Args)]
pub(crate) struct Arguments {
    /// One `sigil-dataplane`.
    #[arg(long, value_name = "PATH")]
    a: PathBuf,
    /// The other one.
    #[arg(long, value_name = "PATH")]
    b: PathBuf,
    /// What is asked for.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "http1,grpc,stream,batch")]
    paths: Vec<Path>,
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Requests under way.
    #[arg(long, default_value_t = 500)]
    concurrency: usize,
    /// Length of one round of one build on one path.
    #[arg(long, default_value_t = 1_000)]
    window_ms: u64,
    /// Settings of both, as YAML.
    #[arg(long, default_value = "")]
    settings: String,
}

/// Prints both, and B as a ratio to A.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    machine::print()?;
    let settings = Settings {
        workers: workers(),
        keys: KEYS,
        extra: arguments.settings.clone(),
        ..Settings::default()
    };
    let mut stacks = [start("a", &arguments.a, &settings)?, start("b", &arguments.b, &settings)?];
    for path in &arguments.paths {
        let load = Load {
            path: *path,
            concurrency: arguments.concurrency,
            connections: 0,
            rate: None,
            warm_up: Duration::from_millis(300),
            window: Duration::from_millis(arguments.window_ms),
        };
        let mut samples = [Vec::new(), Vec::new()];
        for round in 0..arguments.rounds {
            // Who goes first takes turns too.
            for at in [round % 2, (round + 1) % 2] {
                samples[at].push(measure(&mut stacks[at], &load, round as u64)?);
            }
        }
        print(*path, &samples);
    }
    Ok(())
}

fn print(path: Path, [a, b]: &[Vec<Sample>; 2]) {
    let total = |sample: &Sample| sample.dataplane + sample.enclave - sample.check.unwrap_or(0.0);
    for (name, samples) in [("a", a), ("b", b)] {
        let of =
            |figure: fn(&Sample) -> f64| median(&samples.iter().map(figure).collect::<Vec<_>>());
        println!(
            "{path:?} {name}: dataplane {:.2} us, enclave {:.2} us, of which check {:.2}; A1 {:.2}; {:.0}/s",
            of(|it| it.dataplane),
            of(|it| it.enclave),
            of(|it| it.check.unwrap_or(0.0)),
            of(|it| it.a1),
            of(|it| it.outcome.signatures as f64 / it.outcome.seconds),
        );
    }
    let ratios = |of: &dyn Fn(&Sample) -> f64| -> Vec<f64> {
        a.iter().zip(b).map(|(a, b)| of(b) / of(a)).collect()
    };
    for (name, ratios) in
        [("dataplane", ratios(&|it| it.dataplane)), ("without the check", ratios(&total))]
    {
        println!(
            "{path:?} b / a, {name}: {:.3} [{:.3}-{:.3}]",
            median(&ratios),
            quantile(&ratios, 0.1),
            quantile(&ratios, 0.9)
        );
    }
}
