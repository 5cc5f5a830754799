//! `ctime`: shows that no branch of the enclave's code but those listed, and no address, depends on
//! a secret. The enclave's own code runs under valgrind's memcheck with secrets marked as undefined, as in
//! libsecp256k1's `ctime_tests`. What it shows and what not: decision 19.

mod boundary;
mod check;
mod expected;
#[path = "../../bench/src/callgrind/hide_auxv.rs"]
mod hide_auxv;
mod leak;
mod memcheck;
mod paths;
mod reports;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    version,
    about = "Shows that no branch but those listed, and no address, depends on a secret."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the paths under memcheck and judges what it reports.
    Check,
    /// What is checked; runs under memcheck.
    #[command(hide = true)]
    Paths(paths::Arguments),
    /// Becomes a program under valgrind that does not learn of the vDSO.
    #[command(hide = true)]
    HideAuxv(hide_auxv::Arguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Check => check::run(),
        Command::Paths(arguments) => paths::run(&arguments),
        Command::HideAuxv(arguments) => hide_auxv::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ctime: {error:#}");
            ExitCode::FAILURE
        }
    }
}
