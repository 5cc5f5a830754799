//! `sigil-enclave-insecure`: the enclave as an ordinary process, or as the first process of a
//! machine in QEMU, for development and tests.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sigil_enclave::boot::{abort_on_panic, forbid_core_dumps};
use sigil_enclave::init;
use sigil_enclave_client::EnclaveAddress;
use sigil_enclave_insecure::{MARKER, qemu, serve};

#[derive(Parser)]
#[command(version, about = "An enclave without hardware. For development only: keys are not safe.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs an enclave in this process.
    Serve {
        /// pins.cbor, with `insecure: true`.
        #[arg(long)]
        pins: PathBuf,
        /// Where to listen: unix:PATH or unix:@NAME.
        #[arg(long)]
        listen: EnclaveAddress,
        /// Signing workers; one a core unless given.
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
        workers: Option<u16>,
    },
}

fn main() -> ExitCode {
    if init::is_init() {
        // What the kernel passes on from its command line is nothing to us.
        if let Err(error) = qemu::run() {
            eprintln!("sigil-enclave-insecure: {error:#}");
        }
        init::end();
        return ExitCode::FAILURE;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sigil-enclave-insecure: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    forbid_core_dumps()?;
    abort_on_panic();
    eprintln!("sigil-enclave-insecure: {MARKER}");
    let Command::Serve { pins, listen, workers } = Arguments::parse().command;
    serve::run(&pins, &listen, workers)
}
