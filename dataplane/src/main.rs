//! `sigil-dataplane`: `serve` is the sidecar, `ctl` the tool beside it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use sigil_dataplane::config::{self, Config};
use sigil_dataplane::ctl::Command as CtlCommand;
use sigil_dataplane::reload::Source;
use sigil_dataplane::serve::Server;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is logged unless `SIGIL_LOG` says otherwise. The credentials chain tells of every step at
/// `info`.
const LOG_FILTER: &str = "info,aws_config=warn,aws_smithy_runtime=warn";

/// Exit status of a process whose configuration or command line is wrong (`EX_USAGE` of sysexits.h).
const EXIT_CONFIG: u8 = 64;

#[derive(Parser)]
#[command(name = "sigil-dataplane", version, about = "Sigil's sidecar and its tools")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve applications: HTTP and gRPC to an attested enclave.
    Serve(ConfigArgs),
    /// Read a configuration, report every error at once, open nothing.
    CheckConfig(ConfigArgs),
    /// Print every setting as docs/configuration.md.
    #[command(hide = true)]
    ConfigReference,
    /// Create, sign, verify and pin from the command line.
    #[command(subcommand)]
    Ctl(CtlCommand),
}

#[derive(clap::Args)]
struct ConfigArgs {
    /// Settings; annotated defaults are in config/dataplane.yaml.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    if let Err(error) = forbid_dumps() {
        eprintln!("core dumps cannot be forbidden: {error}");
        return ExitCode::FAILURE;
    }
    allow_many_files();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            drop(error.print());
            return if error.use_stderr() { EXIT_CONFIG.into() } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Command::Serve(args) => with_config(&args, serve),
        Command::CheckConfig(args) => with_config(&args, |_, _| {
            println!("{}: no errors", args.config.display());
            ExitCode::SUCCESS
        }),
        Command::ConfigReference => {
            print!("{}", config::reference());
            ExitCode::SUCCESS
        }
        Command::Ctl(command) => sigil_dataplane::ctl::run(command),
    }
}

/// The process holds AWS credentials and the enclave's claim token: no core file may hold them, and no
/// other process of the same user may read its memory.
fn forbid_dumps() -> rustix::io::Result<()> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

/// Each connection is a file, and the soft limit that many systems give is 1,024 of them. The hard one
/// is what the administrator allows.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    // Without it there are fewer connections; accepting says so when it fails.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

fn with_config(args: &ConfigArgs, then: impl FnOnce(Config, Source) -> ExitCode) -> ExitCode {
    let text = match std::fs::read_to_string(&args.config) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{}: {error}", args.config.display());
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let environment = |name: &str| std::env::var(name).ok();
    match config::load(&text, environment) {
        Ok(config) => then(config, Source { path: args.config.clone(), text, environment }),
        Err(errors) => {
            eprint!("{}: {errors}", args.config.display());
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

/// A thread that panics would leave a process that answers and does nothing. Its supervisor starts
/// another one.
fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        std::process::abort();
    }));
}

fn serve(config: Config, source: Source) -> ExitCode {
    abort_on_panic();
    let filter =
        EnvFilter::try_from_env("SIGIL_LOG").unwrap_or_else(|_| EnvFilter::new(LOG_FILTER));
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_env_filter(filter)
        .init();
    let server = match Server::start(config) {
        Ok(server) => server,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "not started");
            eprintln!("not started: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    server.follow(source);
    server.block_on(sigil_dataplane::serve::stop_signal());
    tracing::info!("stopping");
    server.stop();
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use rustix::process::dumpable_behavior;

    use super::*;

    #[test]
    fn neither_a_core_file_nor_another_process_gets_the_memory() {
        forbid_dumps().unwrap();
        let core = getrlimit(Resource::Core);
        assert_eq!((core.current, core.maximum), (Some(0), Some(0)));
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }

    #[test]
    fn as_many_files_are_allowed_as_the_administrator_allows() {
        allow_many_files();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }

    #[test]
    fn the_default_filter_parses() {
        assert_eq!(LOG_FILTER.parse::<EnvFilter>().unwrap().to_string().matches("warn").count(), 2);
    }
}
