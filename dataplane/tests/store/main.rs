//! The store's engines. What both must do is stated once, in `conformance`; PostgreSQL is a real server
//! that each test starts for itself.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

mod conformance;
mod durability;
mod faults;
mod support;
