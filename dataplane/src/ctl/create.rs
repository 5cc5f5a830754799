//! `ctl create`.

use std::process::ExitCode;

use serde_json::{Map, Value};

use super::client::{Target, post};

/// Arguments of `ctl create`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// Keyspace of the new key.
    #[arg(long)]
    keyspace: Option<String>,
    /// The same key gives the same signing key, however often it is sent.
    #[arg(long, value_name = "TEXT")]
    idempotency_key: Option<String>,
    /// Up to 64 bytes in hex that the birth statement repeats.
    #[arg(long, value_name = "HEX")]
    challenge: Option<String>,
}

/// Prints the answer as JSON.
pub(super) fn run(args: &Args) -> ExitCode {
    let fields = [
        ("keyspace", &args.keyspace),
        ("idempotencyKey", &args.idempotency_key),
        ("challenge", &args.challenge),
    ];
    let body: Map<String, Value> = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value.clone()?.into())))
        .collect();
    post(&args.target, "/create", &body.into())
}
