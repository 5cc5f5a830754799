//! The enclave: the only place where keys exist in plaintext.
//!
//! `boot` checks and starts everything; `control` is the thread that talks to the NSM and KMS;
//! `worker` threads serve `rpc`, which asks `keys`. The state that they share is `enclave`.

pub mod attest;
pub mod boot;
pub mod clock;
mod control;
pub mod dek;
pub mod enclave;
pub mod handshake;
pub mod init;
mod kdf;
pub mod key_cache;
pub mod keys;
pub mod kms_exchange;
pub mod names;
pub mod nsm;
mod residue;
pub mod rng;
pub mod rpc;
pub mod seal;
pub mod secret;
pub mod signer;
pub mod slab;
pub mod statements;
pub mod stats;
pub mod stream;
pub mod unlock;
pub mod vsock;
pub mod worker;
