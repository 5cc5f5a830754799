//! `ctl sign`.

use std::process::ExitCode;

use serde_json::json;

use super::client::{Target, post};

/// Arguments of `ctl sign`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// The key, as `ctl create` printed it.
    #[arg(long)]
    key_id: String,
    /// 64 hex digits, with or without 0x.
    #[arg(long, value_name = "HEX")]
    digest: String,
    /// Also print the DER form.
    #[arg(long)]
    der: bool,
}

/// Prints the answer as JSON.
pub(super) fn run(args: &Args) -> ExitCode {
    let body = json!({ "keyId": args.key_id, "digest": args.digest, "der": args.der });
    post(&args.target, "/sign", &body)
}
