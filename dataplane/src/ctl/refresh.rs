//! `ctl refresh`.

use std::process::ExitCode;

use serde_json::json;

use super::client::{Target, post};

/// Arguments of `ctl refresh`.
#[derive(clap::Args)]
pub struct Args {
    /// The key's keyspace.
    keyspace: String,
    /// The key, as `ctl create` printed it.
    key_id: String,
    /// The admin listener of the process: `http://HOST:PORT` or `unix:/path`.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9090")]
    admin: String,
    /// Seconds to go on while the answer asks to retry, 0 for one attempt.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u64,
}

/// Prints the answer as JSON.
pub(super) fn run(args: &Args) -> ExitCode {
    let body = json!({ "keyspace": args.keyspace, "keyId": args.key_id });
    post(&Target::new(&args.admin, args.wait), "/debug/refresh", &body)
}
