//! CPU of the enclave's signing thread for each signature at saturation, divided by the raw
//! signature of the same seconds: both take turns in short rounds, on the same core.

use anyhow::{Context, Result};
use clap::Args;
use sigil_enclave_image::pins::VerifyMode;

use crate::caller::Caller;
use crate::enclave::Enclave;
use crate::load::{Load, Shape};
use crate::measure::check_us;
use crate::reference::Reference;
use crate::stats::{median, quantile, verdict};
use crate::{clock, machine};

/// Ratio to A1 of everything but the check, where the processor has SHA instructions.
const WITHOUT_CHECK_MAX: f64 = 1.0;
/// Ratio to A1 of everything, the check included.
const WITH_CHECK_MAX: f64 = 2.1;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    shape: Shape,
    /// Rounds of reference and load.
    #[arg(long, default_value_t = 40)]
    rounds: usize,
    /// Batches of a round.
    #[arg(long, default_value_t = 100)]
    batches: usize,
    /// Signatures of each reference in a round.
    #[arg(long, default_value_t = 400)]
    reference: u32,
}

/// What one round came to, in microseconds of CPU a signature.
#[derive(Clone, Copy, Debug)]
struct Round {
    a1: f64,
    accelerated: f64,
    enclave: f64,
    /// The part of it that the check takes, from the batches in which it was timed.
    check: f64,
}

/// Prints the ratios.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    machine::print()?;
    let mut enclave = Enclave::start(&[], VerifyMode::BatchSample)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let rounds = runtime.block_on(measure(&mut enclave, arguments))?;
    enclave.stop()?;
    report(arguments, &rounds);
    Ok(())
}

async fn measure(enclave: &mut Enclave, arguments: &Arguments) -> Result<Vec<Round>> {
    let cores = clock::cores()?;
    let (workers, ours) = (*cores.first().context("no core")?, *cores.last().context("no core")?);
    let mut load = {
        let mut caller = Caller::claim(enclave).await?;
        Load::open(&mut caller, arguments.shape).await?
    };
    let worker = enclave.worker()?;
    let (mut plain, mut fast) = (Reference::library_defaults()?, Reference::accelerated()?);
    let signatures = (arguments.batches * arguments.shape.items) as f64;
    let mut rounds = Vec::new();
    for _ in 0..arguments.rounds {
        clock::pin_to(workers)?;
        let (a1, accelerated) =
            (plain.sample_us(arguments.reference)?, fast.sample_us(arguments.reference)?);
        clock::pin_to(ours)?;
        load.check().await?;
        let checks = enclave.checks()?;
        let before = clock::other_thread_cpu_ns(enclave.id(), worker)?;
        load.run(arguments.batches).await?;
        let spent = clock::other_thread_cpu_ns(enclave.id(), worker)? - before;
        let enclave_us = spent as f64 / 1e3 / signatures;
        let check = check_us(checks, enclave.checks()?, arguments.shape.items as f64)?;
        rounds.push(Round { a1, accelerated, enclave: enclave_us, check });
    }
    Ok(rounds)
}

fn report(arguments: &Arguments, rounds: &[Round]) {
    let Shape { items, in_flight } = arguments.shape;
    let count = arguments.rounds * arguments.batches * items;
    println!(
        "stream:  {items} digests a message, {in_flight} messages in flight, {count} signatures"
    );
    let column = |of: fn(&Round) -> f64| rounds.iter().map(of).collect::<Vec<_>>();
    println!("A1:      {:.2} us CPU, the raw signature", median(&column(|round| round.a1)));
    print_ratio("S / A1", &column(|round| round.accelerated / round.a1), None);
    let without = column(|round| (round.enclave - round.check) / round.a1);
    print_ratio("the check / A1", &column(|round| round.check / round.a1), None);
    print_ratio("enclave / A1, without the check", &without, Some(WITHOUT_CHECK_MAX));
    let with_check = column(|round| round.enclave / round.a1);
    print_ratio("enclave / A1, with the check", &with_check, Some(WITH_CHECK_MAX));
}

fn print_ratio(name: &str, ratios: &[f64], target: Option<f64>) {
    let middle = median(ratios);
    let judged = target.map_or_else(String::new, |target| {
        format!("  target <= {target}: {}", verdict(middle, target))
    });
    println!(
        "{name:<32} {middle:.3} [{:.3}-{:.3}]{judged}",
        quantile(ratios, 0.1),
        quantile(ratios, 0.9),
    );
}
