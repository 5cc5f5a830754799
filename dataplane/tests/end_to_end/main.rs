//! The dataplane as a process, with the real launcher, the real enclave (process mode) and the test
//! KMS. Nothing is replaced; faults are made by killing, by failpoints and by the KMS's fault modes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

mod access;
mod cache;
mod config;
mod contract;
mod crash;
mod exhaustion;
mod faults;
mod pool;
mod reseal;
mod ring;
mod several;
mod shared;
mod support;
mod tls;
