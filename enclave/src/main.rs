//! The production enclave: the NSM device, vsock, and nothing that can be configured at run time.

use std::process::ExitCode;
use std::sync::Arc;

use sigil_enclave::boot::{Parts, abort_on_panic, forbid_core_dumps, start};
use sigil_enclave::clock::boot_ms;
use sigil_enclave::init;
use sigil_enclave::nsm::device::NsmDevice;
use sigil_enclave::rng::RngSource;
use sigil_enclave::vsock;

/// Where the last ramdisk puts the pins.
const PINS_FILE: &str = "/pins.cbor";

fn main() -> ExitCode {
    // It returns with an error alone: an enclave runs until the machine ends.
    if let Err(error) = run() {
        eprintln!("sigil-enclave: {error}");
    }
    init::end();
    ExitCode::FAILURE
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    init::prepare()?;
    forbid_core_dumps()?;
    abort_on_panic();
    let running = start(Parts {
        pins: std::fs::read(PINS_FILE).map_err(|error| format!("{PINS_FILE}: {error}"))?,
        nsm: Arc::new(NsmDevice::open()?),
        listener: vsock::listener().map_err(|error| format!("listen on vsock: {error}"))?,
        rng_source: RngSource::of_kernel,
        insecure: false,
        workers: None,
        heartbeat: true,
    })?;
    eprintln!("sigil-enclave: listening, {} ms after the kernel's start", boot_ms());
    running.wait();
    Err("the control thread ended".into())
}
