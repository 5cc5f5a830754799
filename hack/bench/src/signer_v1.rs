//! Messages and client of the public contract, compiled here so that the tool needs nothing of the
//! dataplane but its executable.
#![allow(unreachable_pub, dead_code, reason = "generated code")]
#![allow(clippy::all, clippy::pedantic, reason = "generated code")]
#![allow(clippy::allow_attributes_without_reason, reason = "generated code")]

tonic::include_proto!("signer.v1");
