//! Command line of the test KMS.

mod commands;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use devkms::FaultMode;

/// A test KMS: honest by default, able to lie on demand. For tests and development only.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a folder with TLS certificates, one key that nobody may use yet, and credentials.
    Init {
        /// The folder; it must hold no test KMS yet.
        dir: PathBuf,
        /// Root of the attestation documents to accept, PEM or DER; copied into the folder.
        #[arg(long, value_name = "FILE")]
        attestation_root: Option<PathBuf>,
    },
    /// Serves a folder until it is told to stop (SIGTERM or SIGINT).
    Serve {
        /// The folder.
        dir: PathBuf,
        /// Address to listen on; port 0 lets the system choose.
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// Root of the attestation documents to accept, PEM or DER; without it, the folder's.
        #[arg(long, value_name = "FILE")]
        attestation_root: Option<PathBuf>,
        /// The port is written there as soon as connections are accepted.
        #[arg(long, value_name = "FILE")]
        port_file: Option<PathBuf>,
    },
    /// Puts the production-shaped key policy for measured images, and prints it.
    PutPolicy {
        /// The folder.
        dir: PathBuf,
        /// `measurements.json` of each image that may use the key.
        #[arg(required = true)]
        measurements: Vec<PathBuf>,
        /// ARN of the parent instance's role, which PCR3 measures. Needed for EIFs; in process mode
        /// the measurements name PCR3.
        #[arg(long, value_name = "ARN")]
        role: Option<String>,
    },
    /// Makes a folder's server wrong in one way, or honest again with "off".
    Fault {
        /// The folder.
        dir: PathBuf,
        /// What to do; see the list in an error message, or `FaultMode` in the documentation.
        mode: FaultMode,
    },
    /// Prints the requests so far as JSON: in all, and by action and result.
    Stats {
        /// The folder.
        dir: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Init { dir, attestation_root } => {
            commands::init(&dir, attestation_root.as_deref())
        }
        Command::Serve { dir, listen, attestation_root, port_file } => {
            commands::serve(&dir, listen, attestation_root.as_deref(), port_file.as_deref())
        }
        Command::PutPolicy { dir, measurements, role } => {
            commands::put_policy(&dir, &measurements, role.as_deref())
        }
        Command::Fault { dir, mode } => commands::fault(&dir, mode),
        Command::Stats { dir } => commands::stats(&dir),
    }
}
