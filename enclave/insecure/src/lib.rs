//! Development substitutes for the parts of an enclave that only hardware has. No production
//! binary depends on this crate, and its marker may be in none: `xtask` checks both.

pub mod nsm;
pub mod open_envelope;
pub mod qemu;
pub mod serve;
pub mod sign_vectors;

/// Stands in every binary that holds this crate, and in no production artefact.
pub const MARKER: &str = "SIGIL-INSECURE-DO-NOT-USE";
