//! `ctl store`: what a person does to a store, beside the processes that use it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::json;

use super::verify_attestation::print;
use crate::config::{self, Config, Engine, Postgres};
use crate::store;

/// Commands of `ctl store`.
#[derive(Subcommand)]
pub enum Command {
    /// Make the tables of a PostgreSQL store, or bring them to this program's version.
    Migrate(MigrateArgs),
}

/// Arguments of `ctl store migrate`.
#[derive(clap::Args)]
pub struct MigrateArgs {
    /// The configuration whose store.postgres is meant.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The role that owns the tables, instead of store.postgres.user; its password is PGPASSWORD.
    #[arg(long, value_name = "ROLE")]
    owner: Option<String>,
    /// A role that may read, insert and update rows from then on, and nothing else.
    #[arg(long, value_name = "ROLE")]
    grant_to: Option<String>,
}

/// Runs one command; its result is the exit status.
pub(super) fn run(command: &Command) -> ExitCode {
    let done = match command {
        Command::Migrate(args) => migrate(args),
    };
    match done {
        Ok(json) => print(&json, ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn migrate(args: &MigrateArgs) -> anyhow::Result<String> {
    let config = read(&args.config)?;
    let Engine::Postgres(settings) = config.store.engine() else {
        bail!("store.postgres.addresses: required; the embedded store needs no migration");
    };
    let mut settings = settings.clone();
    if let Some(owner) = &args.owner {
        settings = Postgres { user: owner.clone(), password_file: None, ..settings };
    }
    let work = store::migrate(&settings, args.grant_to.as_deref());
    let (before, after) = runtime()?.block_on(work)?;
    let done = json!({ "schema": settings.schema, "versionBefore": before, "version": after });
    Ok(format!("{done:#}\n"))
}

fn read(path: &std::path::Path) -> anyhow::Result<Config> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(config::load(&text, |name| std::env::var(name).ok())?)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
