//! `sigil-dataplane ctl`: what a person or a script does beside the process.

use std::process::ExitCode;

use clap::Subcommand;

mod checks;
mod client;
mod create;
mod pin_image;
mod probe;
mod refresh;
mod report;
mod retry_unlocks;
mod sign;
mod store;
mod verify_attestation;
mod verify_key;

/// Commands of `ctl`.
#[derive(Subcommand)]
pub enum Command {
    /// Make a key and print the answer as JSON.
    Create(create::Args),
    /// Pin an enclave and measure it.
    PinImage(pin_image::Args),
    /// Ask a running process whether it lives or is ready; for probes of the kubelet.
    Probe(probe::Args),
    /// Have the enclave open a key again now, and print the answer as JSON.
    Refresh(refresh::Args),
    /// Have every unlock that backs off run now, and print the queue as JSON.
    RetryUnlocks(retry_unlocks::Args),
    /// Sign a 32-byte digest and print the answer as JSON.
    Sign(sign::Args),
    /// Look after the store.
    #[command(subcommand)]
    Store(store::Command),
    /// Verify an attestation document offline and print what was checked as JSON.
    VerifyAttestation(verify_attestation::Args),
    /// Verify offline that a key was made in, or is held by, an accepted enclave.
    VerifyKey(verify_key::Args),
}

/// Runs one command; its result is the exit status.
pub fn run(command: Command) -> ExitCode {
    match command {
        Command::Create(args) => create::run(&args),
        Command::PinImage(args) => pin_image::run(&args),
        Command::Probe(args) => probe::run(&args),
        Command::Refresh(args) => refresh::run(&args),
        Command::RetryUnlocks(args) => retry_unlocks::run(&args),
        Command::Sign(args) => sign::run(&args),
        Command::Store(command) => store::run(&command),
        Command::VerifyAttestation(args) => verify_attestation::run(&args),
        Command::VerifyKey(args) => verify_key::run(&args),
    }
}
