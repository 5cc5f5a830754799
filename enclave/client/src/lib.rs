//! The callers' half of the contract with an enclave: where it listens, the handshake, what the
//! launcher hands over, and the text form of key ids. The enclave itself links none of it. Byte
//! formats: `docs/formats.md`.

pub mod address;
pub mod connect;
pub mod frames;
pub mod handoff;
pub mod key_id;
pub mod vhost;

pub use address::EnclaveAddress;
pub use key_id::KeyId;
