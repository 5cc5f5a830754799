//! Attestation documents of the Nitro Secure Module, what Sigil puts in them, and the statements
//! that build on them: parsing, verification, and nothing else. Time and trust root are parameters,
//! so that the same code serves enclave, dataplane, test KMS and anybody who checks a key offline.
//!
//! Formats: `docs/formats.md`. Documents: AWS' specification, `docs/attestation_process.md` in
//! aws/aws-nitro-enclaves-nsm-api.

pub mod allow_list;
pub mod bounds;
mod certificate;
pub mod document;
pub mod frame;
pub mod statement;
pub mod user_data;
pub mod verify;

pub use allow_list::{Measurement, PcrAllowList};
pub use document::{Document, DocumentError, Pcr, Pcrs};
pub use statement::{
    Provenance, SignedStatement, Statement, StatementError, StatementKind, verify_statement,
};
pub use user_data::{UserData, UserDataError};
pub use verify::{
    Checked, TrustRoot, TrustRootError, VerifyError, VerifyTime, check_allowing_debug, verify,
    verify_live,
};
