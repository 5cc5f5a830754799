//! The sidecar: the only part that applications talk to. It holds no key and no DEK; it routes
//! requests to an attested enclave and keeps what the enclave sealed.
//!
//! Start at [`app`]: create and sign, one screen each.

mod access;
mod admin;
mod admission;
mod app;
pub mod attest;
mod audit;
pub mod auth;
pub mod config;
pub mod ctl;
mod error;
pub mod failpoint;
mod http2;
mod ingress;
pub mod kubernetes;
mod metrics;
mod pool;
pub mod reload;
mod reseal;
pub mod router;
mod seldom;
pub mod serve;
pub mod status;
pub mod store;
mod tls;
mod unlock;

#[doc(hidden)]
pub use ingress::trial;

/// Messages, client and server of `proto/sigil/hop/v1/hop.proto`.
#[allow(missing_docs, unreachable_pub, reason = "generated code")]
#[allow(clippy::all, clippy::pedantic, reason = "generated code")]
#[allow(clippy::allow_attributes_without_reason, reason = "generated code")]
mod hop_v1 {
    tonic::include_proto!("sigil.hop.v1");
}

/// Messages and server of `proto/signer/v1/signer.proto`.
#[allow(missing_docs, unreachable_pub, reason = "generated code")]
#[allow(clippy::all, clippy::pedantic, reason = "generated code")]
#[allow(clippy::allow_attributes_without_reason, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("signer.v1");

    /// The compiled contract as an encoded `FileDescriptorSet`.
    pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("signer.v1");
}
