//! `sigil-operator`: see `sigil-operator run --help`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sigil_operator::runtime;
use tracing_subscriber::EnvFilter;

/// Turns SignerPools into enclaves, pods, a ring and conditions.
#[derive(Parser)]
#[command(name = "sigil-operator", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run until SIGTERM. Exit code 0 after SIGTERM, 2 when the lease was lost, 1 otherwise.
    Run(runtime::Args),
}

fn main() -> ExitCode {
    let Command::Run(args) = Cli::parse().command;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_env_filter(filter)
        .init();
    let threads =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = match threads {
        Ok(threads) => threads.block_on(runtime::run(args)),
        Err(error) => Err(runtime::RunError::Runtime(error)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "ended");
            ExitCode::from(error.exit_code())
        }
    }
}
