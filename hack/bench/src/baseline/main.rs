//! The plain stack: axum and tonic on multi-threaded runtimes and a unary call for each signature to a
//! second process over a unix socket. It has no authentication, audit, metrics, store or limits.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod front;
mod signer;

/// Messages of the public contract; the hop speaks it too.
#[allow(unreachable_pub, dead_code, reason = "generated code")]
#[allow(clippy::all, clippy::pedantic, reason = "generated code")]
#[allow(clippy::allow_attributes_without_reason, reason = "generated code")]
mod v1 {
    tonic::include_proto!("signer.v1");
}

#[derive(Parser)]
#[command(version, about = "The plain stack that the dataplane is compared with.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// HTTP and gRPC for callers.
    Front {
        #[arg(long)]
        socket: PathBuf,
        #[arg(long)]
        threads: usize,
    },
    /// The process that signs.
    Signer {
        #[arg(long)]
        socket: PathBuf,
        #[arg(long)]
        threads: usize,
        #[arg(long)]
        call: signer::Call,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-baseline: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let threads = match &command {
        Command::Front { threads, .. } | Command::Signer { threads, .. } => *threads,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.max(1))
        .enable_all()
        .build()?;
    match command {
        Command::Front { socket, .. } => runtime.block_on(front::serve(socket)),
        Command::Signer { socket, call, .. } => runtime.block_on(signer::serve(socket, call)),
    }
}
