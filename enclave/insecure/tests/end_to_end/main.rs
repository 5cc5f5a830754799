//! The enclave in this process, over unix sockets, with the test KMS: what it does, and everything
//! that it refuses. The names of the refusals say which rule of the design they hold.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod bench;
mod boot;
mod cache;
mod connections;
mod drain;
mod gates;
mod hostility;
mod keys;
mod kms;
mod life;
mod outages;
mod sidecar;
mod stats;
mod unlocks;
