//! A test KMS: AWS JSON 1.1 over TLS, honest by default, able to lie on demand.
//!
//! It does what the enclave relies on AWS KMS for, and really does it: requests are authenticated
//! with Signature Version 4, attestation documents are verified by the production verifier, the key
//! policy is evaluated with its conditions on PCRs, and answers are encrypted to the enclave in the
//! same CMS structure as AWS's. Then [`FaultMode`] makes it wrong in one way at a time.
//!
//! It is for tests and development. Its keys lie in a file, and its credentials are published.

mod attested;
mod blob;
mod body;
mod cms;
mod counters;
mod error;
mod fault;
pub mod keys;
mod pki;
pub mod policy;
mod reply;
mod server;
mod service;
mod sigv4;
mod store;
mod test_kms;

pub use counters::Counters;
pub use fault::FaultMode;
pub use pki::Pki;
pub use server::Server;
pub use store::{Credential, Store};
pub use test_kms::{TestKms, TestKmsOptions};

/// The host name that the server's certificate names.
pub const HOST: &str = "kms.us-east-1.amazonaws.com";
/// The region of keys and signatures.
pub const REGION: &str = "us-east-1";
/// The account of keys and roles, one of those that AWS reserves for documentation.
pub const ACCOUNT: &str = "111122223333";
/// Who may change the key policy and nothing else.
pub const BREAK_GLASS_ROLE: &str = "arn:aws:iam::111122223333:role/sigil-break-glass";
/// Whose credentials sign the enclave's requests.
pub const DATAPLANE_ROLE: &str = "arn:aws:iam::111122223333:role/sigil-dataplane";
/// The DEK that [`FaultMode::KnownDek`] and [`FaultMode::ForgedEnvelope`] hand out: what an attacker
/// would know.
pub const KNOWN_DEK: [u8; 32] = *b"test-only: the attacker knows it";
