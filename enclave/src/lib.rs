//! The enclave: the only place where keys exist in plaintext.

pub mod nsm;
