//! The only contract between sidecar and enclave: handshake frames, the gRPC service
//! `sigil.enclave.v1.Enclave`, its bounds and its closed error codes. Byte formats: `docs/formats.md`.

pub mod bounds;
pub mod handshake;
pub mod wire;

/// Messages, client and server generated from `proto/sigil/enclave/v1/enclave.proto`.
#[allow(missing_docs, unreachable_pub, reason = "generated code")]
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("sigil.enclave.v1");
    // The server of the same contract. It leaves the messages of `Sign` as they are.
    include!(concat!(env!("OUT_DIR"), "/server/sigil.enclave.v1.rs"));
}
