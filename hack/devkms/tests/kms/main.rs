//! The test KMS over its sockets: as the enclave uses it, as an AWS client does, and by its command
//! line.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::await_holding_invalid_type, reason = "the DEKs of a test are no secrets")]

mod actions;
mod command_line;
mod exchange;
mod recipients;
mod support;
