//! What everybody would build: axum and tonic on a multi-threaded runtime, a unary call for each
//! signature to a second process over a unix socket. Its source is beside this one, in `baseline/`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Process, Rest, Signer, Stack};
use crate::generator::PublicKey;

/// Which call of libsecp256k1 the signer makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// The C interface, as A1.
    C,
    /// The crate's own, which draws new blinding after every signature.
    Crate,
}

/// Starts both processes; `threads` of each runtime.
pub(crate) fn start(name: &str, program: &Path, call: Call, threads: usize) -> Result<Stack> {
    ensure!(
        program.is_file(),
        "{} is not there: cargo build --release --package bench --features baseline",
        program.display()
    );
    let folder = tempfile::tempdir().context("make a temporary folder")?;
    let socket = folder.path().join("signer.sock");
    let call = if call == Call::C { "c" } else { "crate" };
    let threads = threads.to_string();
    let mut signer = Process::start(
        Command::new(program)
            .args(["signer", "--call", call, "--threads", &threads, "--socket"])
            .arg(&socket),
        &folder.path().join("signer.log"),
    )?;
    let key = signer.wait_for(|line| line.strip_prefix("key ").map(str::to_owned))?;
    let mut front = Process::start(
        Command::new(program).args(["front", "--threads", &threads, "--socket"]).arg(&socket),
        &folder.path().join("front.log"),
    )?;
    let address = |word: &'static str| {
        move |line: &str| line.strip_prefix(word).and_then(|rest| rest.parse::<SocketAddr>().ok())
    };
    let (http, grpc) = (front.wait_for(address("http "))?, front.wait_for(address("grpc "))?);
    Ok(Stack {
        name: name.to_owned(),
        keys: vec![PublicKey { id: format!("k1{}", "a".repeat(26)), hex: key }],
        front,
        signer: Signer::Plain(signer),
        http,
        grpc,
        admin: None,
        _rest: Rest { _launcher: None, _folder: folder },
    })
}
