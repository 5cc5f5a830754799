//! `bench`: what a signature costs, measured so that it can be measured again. CPU time is stated
//! as a ratio to one raw libsecp256k1 signature of the same run, work besides signing as
//! instructions. What each figure means: `docs/bench/README.md`.
#![allow(clippy::cast_precision_loss, reason = "figures are printed with three digits")]

mod ab;
mod cache;
mod caller;
mod callgrind;
mod checks;
mod child;
mod clock;
mod enclave;
mod full;
mod generator;
mod handoffs;
mod instructions;
mod kms;
mod load;
mod machine;
mod measure;
mod reference;
mod sign;
mod signer_v1;
mod stack;
mod stats;
mod system_calls;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    version,
    about = "Measures signatures, end to end and in the enclave, and the key cache."
)]
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
    /// The whole way from an application to a signature: the report of `make bench`.
    Full(full::Arguments),
    /// Two builds of the dataplane, which take turns.
    Ab(ab::Arguments),
    /// Times that one thread of the dataplane woke another, a signature (strace).
    Handoffs(handoffs::Arguments),
    /// Instructions of the dataplane a signature, by path (valgrind); the gate of CI.
    Instructions(instructions::Arguments),
    /// The key cache: time and memory of a key.
    Cache(cache::Arguments),
    /// The enclave that the others measure, as a child process; commands on standard input.
    #[command(hide = true)]
    Enclave(child::Arguments),
    /// The load generator: a plan on standard input, an outcome on standard output.
    #[command(hide = true)]
    Generate,
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
        Command::Full(arguments) => full::run(&arguments),
        Command::Ab(arguments) => ab::run(&arguments),
        Command::Generate => generator::run(),
        Command::Handoffs(arguments) => handoffs::run(&arguments),
        Command::Instructions(arguments) => instructions::run(&arguments),
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
