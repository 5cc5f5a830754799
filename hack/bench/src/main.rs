//! `bench`: what a signature costs, measured so that it can be measured again. CPU time is stated
//! as a ratio to one raw libsecp256k1 signature of the same run, work besides signing as
//! instructions. What each figure means: `docs/bench/README.md`.
#![allow(clippy::cast_precision_loss, reason = "figures are printed with three digits")]

mod cache;
mod caller;
mod callgrind;
mod checks;
mod child;
mod clock;
mod enclave;
mod kms;
mod load;
mod machine;
mod reference;
mod sign;
mod stats;
mod system_calls;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about = "Measures the enclave's signing path and key cache.")]
struct Arguments {
    /// Fails if a target is not met. Means something on an idle machine only.
    #[arg(long)]
    strict: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One raw signature, with the library's defaults and with SHA instructions.
    Reference(reference::Arguments),
    /// What each way to check a signature costs.
    Checks(checks::Arguments),
    /// CPU of a signature on the enclave's stream at saturation, as a ratio to the raw one.
    Sign(sign::Arguments),
    /// System calls of a signature on the stream at saturation (strace, a run of its own).
    SystemCalls(system_calls::Arguments),
    /// Instructions of a signature on the stream at saturation (valgrind); the gate of CI.
    Callgrind(callgrind::Arguments),
    /// The key cache: time and memory of a key.
    Cache(cache::Arguments),
    /// The enclave that the others measure, as a child process; commands on standard input.
    #[command(hide = true)]
    Enclave(child::Arguments),
    /// Becomes a program under valgrind that does not learn of the vDSO.
    #[command(hide = true)]
    HideAuxv(callgrind::hide_auxv::Arguments),
}

fn main() -> ExitCode {
    let Arguments { strict, command } = Arguments::parse();
    let done = match command {
        Command::Reference(arguments) => reference::run(&arguments),
        Command::Checks(arguments) => checks::run(&arguments),
        Command::Sign(arguments) => sign::run(&arguments),
        Command::SystemCalls(arguments) => system_calls::run(&arguments),
        Command::Callgrind(arguments) => callgrind::run(&arguments),
        Command::Cache(arguments) => cache::run(&arguments),
        Command::Enclave(arguments) => child::run(&arguments),
        Command::HideAuxv(arguments) => callgrind::hide_auxv::run(&arguments),
    };
    match done {
        Ok(()) if strict && stats::missed() => {
            eprintln!("bench: a target is not met");
            ExitCode::FAILURE
        }
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
