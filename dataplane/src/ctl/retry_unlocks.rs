//! `ctl retry-unlocks`.

use std::process::ExitCode;

use serde_json::json;

use super::client::{Target, post};

/// Arguments of `ctl retry-unlocks`.
#[derive(clap::Args)]
pub struct Args {
    /// The admin listener of the process: `http://HOST:PORT` or `unix:/path`.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9090")]
    admin: String,
}

/// Prints the queue as JSON.
pub(super) fn run(args: &Args) -> ExitCode {
    post(&Target::new(&args.admin, 0), "/debug/unlock/retry", &json!({}))
}
