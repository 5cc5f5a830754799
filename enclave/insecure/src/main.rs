//! `sigil-enclave-insecure`: the enclave as an ordinary process, or as the first process of a
//! machine in QEMU, for development and tests.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use sigil_enclave::boot::{abort_on_panic, forbid_core_dumps};
use sigil_enclave::init;
use sigil_enclave_client::EnclaveAddress;
use sigil_enclave_insecure::{MARKER, open_envelope, qemu, serve, sign_vectors};
use zeroize::Zeroizing;

/// Exit status of a command line that nobody can follow (`EX_USAGE` of sysexits.h).
const EXIT_USAGE: u8 = 64;

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
    /// Signs lines `secret digest` of standard input (hex) with the production engine and prints
    /// `r s recid` for each.
    SignVectors,
    /// Opens a CiphertextForRecipient of KMS with the production reader and prints the key in it in
    /// hex.
    OpenEnvelope {
        /// RSA private key, PKCS#1 or PKCS#8 DER.
        key: PathBuf,
        /// The envelope, binary.
        file: PathBuf,
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
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            drop(error.print());
            return if error.use_stderr() { EXIT_USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sigil-enclave-insecure: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    forbid_core_dumps()?;
    abort_on_panic();
    eprintln!("sigil-enclave-insecure: {MARKER}");
    match command {
        Command::Serve { pins, listen, workers } => serve::run(&pins, &listen, workers),
        Command::SignVectors => {
            let output = std::io::BufWriter::new(std::io::stdout().lock());
            Ok(sign_vectors::run(std::io::stdin().lock(), output)?)
        }
        Command::OpenEnvelope { key, file } => {
            let key = Zeroizing::new(read(&key)?);
            let opened = open_envelope::open(&key, &read(&file)?)?;
            let hex = Zeroizing::new(const_hex::encode(*opened));
            Ok(writeln!(std::io::stdout(), "{}", *hex)?)
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("file: {}", path.display()))
}
