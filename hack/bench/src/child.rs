//! The measured enclave as a process of its own: the production code with the development NSM and a
//! unix socket. Answers each line on standard input with what it has sampled; ends when that does.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use sigil_enclave::boot::start;
use sigil_enclave::signer::CHECK_CPU;
use sigil_enclave_client::EnclaveAddress;
use sigil_enclave_insecure::nsm::SoftwareNsm;
use sigil_enclave_insecure::serve::process_parts;

/// What stands for the executable in the measurements.
pub(crate) const EXECUTABLE: &[u8] = b"bench";

#[derive(Args)]
pub(crate) struct Arguments {
    /// pins.cbor, with `insecure: true`.
    #[arg(long)]
    pins: PathBuf,
    /// Socket to listen on.
    #[arg(long)]
    socket: PathBuf,
    /// Signing workers.
    #[arg(long)]
    workers: u16,
}

/// Serves until standard input ends.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let pins = std::fs::read(&arguments.pins).context("read the pins")?;
    let nsm = Arc::new(SoftwareNsm::new(EXECUTABLE, &pins)?);
    let address = EnclaveAddress::UnixPath(arguments.socket.clone());
    let parts = process_parts(pins, nsm, &address, Some(arguments.workers))?;
    let running = start(parts).context("start the enclave")?;
    println!("ready");
    for line in std::io::stdin().lines() {
        line.context("read from the parent")?;
        let (signatures, ns) = CHECK_CPU.sampled();
        println!("{signatures} {ns}");
    }
    running.stop();
    Ok(())
}
