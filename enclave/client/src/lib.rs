//! The callers' half of the contract with an enclave: where it listens, the handshake, and what the
//! launcher hands over. The enclave itself links none of it. Byte formats: `docs/formats.md`.

pub mod address;
pub mod connect;
pub mod handoff;
pub mod vhost;

pub use address::EnclaveAddress;
