//! The enclave as an image that boots in QEMU's `nitro-enclave` machine, with the test KMS: the
//! boundary is real, only the signature under the NSM's answers is not. `make test-enclave` builds
//! the parts and runs these; without them they fail and say how to get them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod bench;
mod boots;
mod boundary;
mod launching;
mod life;
mod memory;
mod refusals;

// What the sidecar does is the same whether the enclave is a process or a machine.
#[path = "../end_to_end/kms.rs"]
#[allow(dead_code, reason = "the tests of the process use more of it")]
mod kms;
#[path = "../end_to_end/sidecar.rs"]
#[allow(dead_code, reason = "the tests of the process use more of it")]
mod sidecar;

// And so is what a peer can send.
#[path = "../peers/raw.rs"]
#[allow(dead_code, reason = "the tests of hostile peers use more of it")]
mod raw;
