//! `sigil-dataplane ctl`: what a person or a script does beside the process.

use std::process::ExitCode;

use clap::Subcommand;

mod client;
mod create;
mod probe;
mod sign;

/// Commands of `ctl`.
#[derive(Subcommand)]
pub enum Command {
    /// Make a key and print the answer as JSON.
    Create(create::Args),
    /// Ask a running process whether it lives or is ready; for probes of the kubelet.
    Probe(probe::Args),
    /// Sign a 32-byte digest and print the answer as JSON.
    Sign(sign::Args),
}

/// Runs one command; its result is the exit status.
pub fn run(command: Command) -> ExitCode {
    match command {
        Command::Create(args) => create::run(&args),
        Command::Probe(args) => probe::run(&args),
        Command::Sign(args) => sign::run(&args),
    }
}
