//! Attestation documents of the Nitro Secure Module, what Sigil puts in them, and the statements
//! that build on them: parsed, and verified as far as an enclave does it. Time and trust root are
//! parameters, so that `sigil-verifier`, which is for everybody else, builds on the same code.
//!
//! Formats: `docs/formats.md`. Documents: AWS' specification, `docs/attestation_process.md` in
//! aws/aws-nitro-enclaves-nsm-api.

pub mod bounds;
mod certificate;
pub mod document;
pub mod frame;
pub mod statement;
pub mod user_data;
pub mod verify;

pub use document::{Document, DocumentError, Pcr, Pcrs};
pub use statement::{Provenance, Statement, StatementKind};
pub use user_data::{UserData, UserDataError};
pub use verify::{TrustRoot, TrustRootError, VerifyError, check_allowing_debug, verify};
