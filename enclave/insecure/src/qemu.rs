//! The enclave as the first process of a machine in QEMU: the production code, pins from the image,
//! vsock, the kernel's random source. Only what signs the NSM's answers is the test root's.

use std::sync::Arc;

use anyhow::Context;
use sigil_enclave::boot::{Parts, abort_on_panic, forbid_core_dumps, start};
use sigil_enclave::clock::boot_ms;
use sigil_enclave::init;
use sigil_enclave::nsm::device::NsmDevice;
use sigil_enclave::rng::RngSource;
use sigil_enclave::vsock;

use crate::MARKER;
use crate::nsm::ResigningNsm;

/// Where the last ramdisk puts the pins.
const PINS_FILE: &str = "/pins.cbor";
/// The kernel's command line, which QEMU's `-append` adds to. That part is not measured, so no
/// production code reads it.
const COMMAND_LINE_FILE: &str = "/proc/cmdline";
/// An argument there: take the random source for another one than the NSM.
const OTHER_RNG: &str = "sigil.test_rng=other";

/// Runs until the machine ends.
///
/// # Errors
/// A part of the machine is missing, or the enclave refuses to boot.
pub fn run() -> anyhow::Result<()> {
    init::prepare()?;
    forbid_core_dumps()?;
    abort_on_panic();
    eprintln!("sigil-enclave-insecure: {MARKER}");
    init::mount_on("proc", "/proc")?;
    let running = start(Parts {
        pins: std::fs::read(PINS_FILE).context(PINS_FILE)?,
        nsm: Arc::new(ResigningNsm::new(NsmDevice::open()?)?),
        listener: vsock::listener().context("listen on vsock")?,
        rng_source,
        insecure: true,
        workers: None,
        heartbeat: true,
    })
    .context("start the enclave")?;
    eprintln!("sigil-enclave-insecure: listening, {} ms after the kernel's start", boot_ms());
    running.wait();
    anyhow::bail!("the control thread ended")
}

fn rng_source() -> RngSource {
    let command_line = std::fs::read_to_string(COMMAND_LINE_FILE).unwrap_or_default();
    if command_line.split_whitespace().any(|argument| argument == OTHER_RNG) {
        return RngSource::Other;
    }
    RngSource::of_kernel()
}
