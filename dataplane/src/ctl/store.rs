//! `ctl store`: what a person does to a store, beside the processes that use it.

use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use clap::Subcommand;
use serde_json::{Value, json};

use super::verify_attestation::print;
use crate::config::{self, Config, Engine, Postgres};
use crate::store::{self, EmbeddedStore, PostgresStore, Store};

/// Commands of `ctl store`.
#[derive(Subcommand)]
pub enum Command {
    /// Make the tables of a PostgreSQL store, or bring them to this program's version.
    Migrate(MigrateArgs),
    /// Write every row of a store to a file, whatever its engine. The rows are sealed.
    Backup(BackupArgs),
    /// Check a backup to its end; no store is needed.
    VerifyBackup(FileArgs),
    /// Put the rows of a backup into a store, whatever its engine. Nothing that is there is changed.
    Restore(RestoreArgs),
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

/// Arguments of `ctl store backup`.
#[derive(clap::Args)]
pub struct BackupArgs {
    /// The configuration whose store is meant. An embedded one must not be in use.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The file to make; it must not be there.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Leave rows out that do not decode, and count them.
    #[arg(long)]
    skip_damaged: bool,
}

/// Arguments of `ctl store verify-backup`.
#[derive(clap::Args)]
pub struct FileArgs {
    /// The backup.
    file: PathBuf,
}

/// Arguments of `ctl store restore`.
#[derive(clap::Args)]
pub struct RestoreArgs {
    /// The configuration whose store is meant. An embedded one must not be in use.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The backup.
    #[arg(long = "in", value_name = "FILE")]
    file: PathBuf,
    /// Rows that are there with another value stay, and are counted; without it nothing is restored.
    #[arg(long)]
    keep_existing: bool,
}

/// Runs one command; its result is the exit status.
pub(super) fn run(command: &Command) -> ExitCode {
    let done = match command {
        Command::Migrate(args) => migrate(args),
        Command::Backup(args) => backup(args),
        Command::VerifyBackup(args) => verify(&args.file),
        Command::Restore(args) => restore(args),
    };
    match done {
        Ok(json) => print(&format!("{json:#}\n"), ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn migrate(args: &MigrateArgs) -> anyhow::Result<Value> {
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
    Ok(json!({ "schema": settings.schema, "versionBefore": before, "version": after }))
}

fn backup(args: &BackupArgs) -> anyhow::Result<Value> {
    let config = read(&args.config)?;
    if let Engine::Embedded(path) = config.store.engine() {
        ensure!(path.exists(), "store.embedded.path: there is no store at {}", path.display());
    }
    let store = open(&config)?;
    let file = File::options().write(true).create_new(true).mode(0o600).open(&args.out);
    let file = file.with_context(|| format!("--out {}", args.out.display()))?;
    let mut out = BufWriter::new(file);
    let written = runtime()?
        .block_on(store::backup(&*store, &mut out, args.skip_damaged))
        .map_err(anyhow::Error::from)
        .and_then(|outcome| Ok(out.get_ref().sync_all().map(|()| outcome)?));
    match written {
        Ok(outcome) => Ok(serde_json::to_value(outcome)?),
        Err(error) => {
            // Half a backup is none.
            std::fs::remove_file(&args.out)?;
            Err(error)
        }
    }
}

fn verify(file: &Path) -> anyhow::Result<Value> {
    Ok(serde_json::to_value(store::verify_backup(reader(file)?)?)?)
}

fn restore(args: &RestoreArgs) -> anyhow::Result<Value> {
    let config = read(&args.config)?;
    // Before a store is made for it.
    store::verify_backup(reader(&args.file)?)?;
    let store = open(&config)?;
    let work = store::restore(&*store, || reader(&args.file), args.keep_existing);
    Ok(serde_json::to_value(runtime()?.block_on(work)?)?)
}

fn reader(path: &Path) -> io::Result<BufReader<File>> {
    let named =
        |error| io::Error::new(io::Error::kind(&error), format!("{}: {error}", path.display()));
    File::open(path).map(BufReader::new).map_err(named)
}

fn open(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    Ok(match config.store.engine() {
        Engine::Embedded(path) => {
            let store = EmbeddedStore::open(path, |_| {});
            Arc::new(store.context("stop the dataplane that uses it")?)
        }
        Engine::Postgres(settings) => Arc::new(PostgresStore::open(settings, |_| {})?),
    })
}

fn read(path: &Path) -> anyhow::Result<Config> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(config::load(&text, |name| std::env::var(name).ok())?)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
