//! The test KMS over its sockets: as the enclave uses it, as an AWS client does, and by its command
//! line.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod actions;
mod command_line;
mod exchange;
mod recipients;
mod support;
