//! `sigil-launcher`: see the library.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sigil_launcher::process::{self, forbid_core_dumps};
use sigil_launcher::{attach, qemu, supervisor};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(name = "sigil-launcher", version, about = "Starts and claims an enclave")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Development: the enclave is a process on this machine. Its keys are NOT protected.
    Process(process::Settings),
    /// Claims an enclave that is started and ended elsewhere, as by nitro-cli.
    Attach(attach::Settings),
    /// Development: the enclave is an image in QEMU. Its keys are NOT protected from this machine.
    Qemu(qemu::Settings),
}

// One thread: the child's parent-death signal is bound to the thread that started it.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    if let Err(error) = forbid_core_dumps() {
        eprintln!("sigil-launcher: forbid core dumps: {error}");
        return ExitCode::FAILURE;
    }
    tracing_subscriber::fmt().json().flatten_event(true).with_writer(std::io::stderr).init();
    let stop = async {
        let (Ok(mut terminate), Ok(mut interrupt)) =
            (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let ended = match Cli::parse().command {
        Command::Process(settings) => supervisor::run(&settings, stop).await,
        Command::Attach(settings) => supervisor::run(&settings, stop).await,
        Command::Qemu(settings) => supervisor::run(&settings, stop).await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %error, "launcher cannot run");
            ExitCode::FAILURE
        }
    }
}
