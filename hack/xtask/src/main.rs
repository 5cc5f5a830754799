//! `cargo xtask`: the project's own checks and image writers.

mod eif;
mod images;
mod repo;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Checks of the house, enclave images, and container images"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check what lints cannot see: layout, dependency direction, file sizes, docs/faults.md.
    Tidy,
    /// Build the enclave's image file (EIF), reproducibly.
    Eif(eif::Args),
    /// Build OCI archives from static binaries, without a container engine.
    Images(images::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Tidy => tidy::run(),
        Command::Eif(args) => eif::run(&args),
        Command::Images(args) => images::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
