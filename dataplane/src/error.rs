//! The one error table: every failure that a caller can see, with its HTTP status, gRPC code,
//! retryability and metric label. Both faces build their answers from it.

use std::borrow::Cow;

use sigil_enclave_protocol::v1::ErrorCode;
use tokio::time::Instant;
use tonic::Code as GrpcCode;

use crate::store::StoreError;

/// Closed list, part of the public contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Code {
    /// The request breaks the contract; `field` names where.
    InvalidArgument,
    /// Nobody is authenticated.
    Unauthenticated,
    /// The caller may not do this.
    PermissionDenied,
    /// The key's policy asks for an authorization.
    AuthorizationRequired,
    /// No key has this id.
    KeyNotFound,
    /// The id or idempotency key is taken with other parameters.
    KeyConflict,
    /// The sealed key does not open.
    InvalidKey,
    /// A bound was reached.
    Overloaded,
    /// The DEK is locked; an unlock is queued.
    UnlockRequired,
    /// A transient fault or a wait budget ran out.
    RetryLater,
    /// No attested enclave answers.
    EnclaveUnavailable,
    /// The request's deadline passed.
    DeadlineExceeded,
    /// A defect.
    Internal,
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// The error.
    pub(crate) code: Code,
    /// Its name in both faces and its metric label.
    pub(crate) name: &'static str,
    /// Last part of the problem type's URI.
    pub(crate) slug: &'static str,
    /// Title of the problem.
    pub(crate) title: &'static str,
    /// HTTP status, unless the request never reached the contract.
    pub(crate) http_status: u16,
    /// gRPC code.
    pub(crate) grpc: GrpcCode,
    /// The same request may work later.
    pub(crate) retryable: bool,
}

/// What problem types begin with. They are described in `docs/api/README.md`.
pub(crate) const TYPE_PREFIX: &str = "https://sigil.dev/errors/";

/// Hint where waiting helps and nothing better is known, ms.
const RETRY_HINT_MS: u32 = 100;

/// A failure on its way to the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Error {
    /// Which line of the table.
    pub(crate) code: Code,
    /// One sentence for the caller. Never holds a secret.
    pub(crate) detail: Cow<'static, str>,
    /// The field at fault.
    pub(crate) field: Option<Cow<'static, str>>,
    /// How long to wait, ms.
    pub(crate) retry_after_ms: Option<u32>,
    /// The unlock that was queued.
    pub(crate) unlock_request_id: Option<String>,
    /// A breaker refuses requests to the enclave (row G3).
    pub(crate) circuit_open: bool,
    /// HTTP status in place of the table's: 404, 405, 413, 415 of the HTTP face.
    pub(crate) http_status: Option<u16>,
    /// gRPC code in place of the table's: `UNIMPLEMENTED` for a method or an encoding that there is not.
    pub(crate) grpc: Option<GrpcCode>,
    /// For the log only.
    pub(crate) internal: Option<String>,
    /// How long an enclave was asked before this came of it, microseconds; 0: none was. For the log only.
    pub(crate) upstream_us: u32,
}

const fn row(code: Code, names: [&'static str; 3], http_status: u16, grpc: GrpcCode) -> Row {
    let retryable = matches!(grpc, GrpcCode::Unavailable | GrpcCode::ResourceExhausted);
    Row { code, name: names[0], slug: names[1], title: names[2], http_status, grpc, retryable }
}

/// The table.
pub(crate) const TABLE: [Row; 13] = [
    row(
        Code::InvalidArgument,
        ["INVALID_ARGUMENT", "invalid-argument", "The request is not valid"],
        400,
        GrpcCode::InvalidArgument,
    ),
    row(
        Code::Unauthenticated,
        ["UNAUTHENTICATED", "unauthenticated", "The caller is not authenticated"],
        401,
        GrpcCode::Unauthenticated,
    ),
    row(
        Code::PermissionDenied,
        ["PERMISSION_DENIED", "permission-denied", "The caller may not do this"],
        403,
        GrpcCode::PermissionDenied,
    ),
    row(
        Code::AuthorizationRequired,
        ["AUTHORIZATION_REQUIRED", "authorization-required", "The key asks for an authorization"],
        403,
        GrpcCode::PermissionDenied,
    ),
    row(
        Code::KeyNotFound,
        ["KEY_NOT_FOUND", "key-not-found", "No key has this id"],
        404,
        GrpcCode::NotFound,
    ),
    row(
        Code::KeyConflict,
        ["KEY_CONFLICT", "key-conflict", "The key exists with other parameters"],
        409,
        GrpcCode::AlreadyExists,
    ),
    row(
        Code::InvalidKey,
        ["INVALID_KEY", "invalid-key", "The sealed key cannot be used"],
        422,
        GrpcCode::FailedPrecondition,
    ),
    row(
        Code::Overloaded,
        ["OVERLOADED", "overloaded", "Too many requests"],
        429,
        GrpcCode::ResourceExhausted,
    ),
    row(
        Code::UnlockRequired,
        ["UNLOCK_REQUIRED", "unlock-required", "The keyspace is being unlocked"],
        503,
        GrpcCode::Unavailable,
    ),
    row(
        Code::RetryLater,
        ["RETRY_LATER", "retry-later", "A transient fault"],
        503,
        GrpcCode::Unavailable,
    ),
    row(
        Code::EnclaveUnavailable,
        ["ENCLAVE_UNAVAILABLE", "enclave-unavailable", "No attested enclave answers"],
        503,
        GrpcCode::Unavailable,
    ),
    row(
        Code::DeadlineExceeded,
        ["DEADLINE_EXCEEDED", "deadline-exceeded", "The deadline passed"],
        504,
        GrpcCode::DeadlineExceeded,
    ),
    INTERNAL,
];

const INTERNAL: Row =
    row(Code::Internal, ["INTERNAL", "internal", "A defect"], 500, GrpcCode::Internal);

// === impl Code ===

impl Code {
    /// The code with this name, as it travels between members.
    pub(crate) fn named(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.name == name).map(|row| row.code)
    }

    /// The code's line of the table.
    pub(crate) fn row(self) -> &'static Row {
        // Every code has its line (a test holds this); the fallback only keeps this total.
        TABLE.iter().find(|row| row.code == self).unwrap_or(&INTERNAL)
    }
}

// === impl Error ===

impl Error {
    /// An error with the table's hint.
    pub(crate) fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        let hint = code.row().retryable.then_some(RETRY_HINT_MS);
        Self {
            code,
            detail: detail.into(),
            field: None,
            retry_after_ms: hint,
            unlock_request_id: None,
            circuit_open: false,
            http_status: None,
            grpc: None,
            internal: None,
            upstream_us: 0,
        }
    }

    /// The request is wrong at `field`.
    pub(crate) fn invalid(
        field: impl Into<Cow<'static, str>>,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { field: Some(field.into()), ..Self::new(Code::InvalidArgument, detail) }
    }

    /// A defect; `internal` goes to the log only.
    pub(crate) fn internal(internal: impl Into<String>) -> Self {
        Self::new(Code::Internal, "the request failed for an internal reason").because(internal)
    }

    /// No enclave to ask.
    pub(crate) fn enclave_unavailable() -> Self {
        Self::new(
            Code::EnclaveUnavailable,
            "no attested enclave answers at the moment; the connection is being restored",
        )
    }

    /// No time left.
    pub(crate) fn deadline() -> Self {
        Self::new(Code::DeadlineExceeded, "the request's deadline passed before it was done")
    }

    /// It came of asking an enclave at that time.
    pub(crate) fn after(self, asked: Instant) -> Self {
        let us = u32::try_from(asked.elapsed().as_micros()).unwrap_or(u32::MAX);
        Self { upstream_us: us, ..self }
    }

    /// Adds what the log should say.
    #[must_use]
    pub(crate) fn because(self, internal: impl Into<String>) -> Self {
        Self { internal: Some(internal.into()), ..self }
    }

    /// Replaces the HTTP status.
    #[must_use]
    pub(crate) fn with_http_status(self, http_status: u16) -> Self {
        Self { http_status: Some(http_status), ..self }
    }

    /// Replaces the gRPC code.
    #[must_use]
    pub(crate) fn with_grpc(self, code: GrpcCode) -> Self {
        Self { grpc: Some(code), ..self }
    }

    /// The gRPC code of this error.
    pub(crate) fn grpc(&self) -> GrpcCode {
        self.grpc.unwrap_or(self.code.row().grpc)
    }

    /// The HTTP status of this error.
    pub(crate) fn status(&self) -> u16 {
        self.http_status.unwrap_or(self.code.row().http_status)
    }

    /// What an enclave's error means to a caller. `UNLOCK_REQUIRED` and `BLOB_REQUIRED` are
    /// handled before they come here.
    pub(crate) fn from_enclave(code: i32) -> Self {
        let code = ErrorCode::try_from(code).unwrap_or(ErrorCode::Internal);
        let said = format!("the enclave answered {}", code.as_str_name());
        let error = match code {
            ErrorCode::KeyConflict => {
                Self::new(Code::KeyConflict, "this key id is in use with another public key")
            }
            ErrorCode::InvalidKey => Self::new(
                Code::InvalidKey,
                "the sealed key does not open; restore its record from a backup",
            ),
            ErrorCode::AuthorizationRequired => Self::new(
                Code::AuthorizationRequired,
                "the key's policy asks for an authorization that this version does not know",
            ),
            ErrorCode::KeyspaceNotPinned => {
                Self::invalid("keyspace", "the enclave image has no KMS key for this keyspace")
            }
            ErrorCode::Overloaded => Self::new(Code::Overloaded, "the enclave is at its bound"),
            ErrorCode::RngUnhealthy | ErrorCode::Draining => Self::enclave_unavailable(),
            ErrorCode::RetryLater | ErrorCode::AttestationFailed | ErrorCode::UnlockRequired => {
                Self::new(Code::RetryLater, "the enclave could not answer in time")
            }
            _ => Self::new(Code::Internal, "the request failed for an internal reason"),
        };
        error.because(said)
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let internal = error.to_string();
        match error {
            StoreError::Denied(_) | StoreError::Unavailable(_) => {
                Self::new(Code::RetryLater, "the store cannot be used at the moment")
            }
            StoreError::Corrupt(_) => Self::new(
                Code::InvalidKey,
                "the stored record is damaged; restore it from a backup",
            ),
        }
        .because(internal)
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code.row().name, self.detail)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_the_contract_says() {
        use GrpcCode as G;
        let contract = [
            ("INVALID_ARGUMENT", 400, G::InvalidArgument, false),
            ("UNAUTHENTICATED", 401, G::Unauthenticated, false),
            ("PERMISSION_DENIED", 403, G::PermissionDenied, false),
            ("AUTHORIZATION_REQUIRED", 403, G::PermissionDenied, false),
            ("KEY_NOT_FOUND", 404, G::NotFound, false),
            ("KEY_CONFLICT", 409, G::AlreadyExists, false),
            ("INVALID_KEY", 422, G::FailedPrecondition, false),
            ("OVERLOADED", 429, G::ResourceExhausted, true),
            ("UNLOCK_REQUIRED", 503, G::Unavailable, true),
            ("RETRY_LATER", 503, G::Unavailable, true),
            ("ENCLAVE_UNAVAILABLE", 503, G::Unavailable, true),
            ("DEADLINE_EXCEEDED", 504, G::DeadlineExceeded, false),
            ("INTERNAL", 500, G::Internal, false),
        ];
        assert_eq!(TABLE.len(), contract.len());
        for (row, (name, http, grpc, retryable)) in TABLE.iter().zip(contract) {
            assert_eq!((row.name, row.http_status, row.grpc), (name, http, grpc));
            assert_eq!(row.retryable, retryable, "{name}");
            assert_eq!(row.code.row().name, name, "the line is the code's own");
            assert_eq!(Code::named(name), Some(row.code));
            assert_eq!(row.slug.replace('-', "_").to_uppercase(), name);
            let hint = Error::new(row.code, "x").retry_after_ms;
            assert_eq!(hint.is_some(), retryable, "{name}");
        }
    }

    #[test]
    fn every_error_of_the_enclave_has_an_answer() {
        let table = [
            (ErrorCode::InvalidArgument, Code::Internal),
            (ErrorCode::BlobRequired, Code::Internal),
            (ErrorCode::UnlockRequired, Code::RetryLater),
            (ErrorCode::RetryLater, Code::RetryLater),
            (ErrorCode::InvalidKey, Code::InvalidKey),
            (ErrorCode::KeyConflict, Code::KeyConflict),
            (ErrorCode::AuthorizationRequired, Code::AuthorizationRequired),
            (ErrorCode::Overloaded, Code::Overloaded),
            (ErrorCode::KeyspaceNotPinned, Code::InvalidArgument),
            (ErrorCode::AttestationFailed, Code::RetryLater),
            (ErrorCode::RngUnhealthy, Code::EnclaveUnavailable),
            (ErrorCode::Draining, Code::EnclaveUnavailable),
            (ErrorCode::Internal, Code::Internal),
        ];
        for (enclave, code) in table {
            let error = Error::from_enclave(enclave.into());
            assert_eq!(error.code, code, "{enclave:?}");
            assert!(error.internal.unwrap().contains(enclave.as_str_name()));
        }
        assert_eq!(Error::from_enclave(9_999).code, Code::Internal);
    }

    #[test]
    fn a_store_that_denies_is_retryable_and_a_corrupt_one_is_not() {
        let denied = Error::from(StoreError::Denied("path".to_owned()));
        assert_eq!(denied.code, Code::RetryLater);
        assert!(!denied.detail.contains("path"), "internals stay in the log");
        assert_eq!(Error::from(StoreError::Corrupt(String::new())).code, Code::InvalidKey);
    }
}
