//! The launcher holds an enclave for its pod: it starts it, claims it as the first caller after boot,
//! keeps the token in memory and hands it to `serve` over an abstract unix socket. When the enclave
//! ends, or somebody else claimed it first, it starts another one.

pub mod attach;
pub mod handoff;
pub mod process;
pub mod qemu;
pub mod socket;
pub mod supervisor;
