//! Tests against a real etcd and kube-apiserver, which they start themselves on loopback.
//! One that cannot find them fails and says how to get them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

mod fixture;
mod lease;
mod pool;
mod refused;
mod server;
mod tolerance;
