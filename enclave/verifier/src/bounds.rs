//! Bounds of what a verifier takes. Each has a unit in its name and a reason.

/// Bytes of a statement's challenge.
pub const CHALLENGE_BYTES_MAX: usize = 64;
/// How far a verifier's clock may be behind the NSM's. Leaf certificates are issued without
/// backdating, so a verifier some seconds behind sees one that is not valid yet; hosts that keep
/// time at all are within this. It also bounds how far in the future a live document may be.
pub const CLOCK_LEEWAY_MS: u64 = 30_000;
/// A statement is at most this much younger than the document that binds its key: the five minutes
/// after which an enclave signs none, and 30 s for clocks.
pub const STATEMENT_WINDOW_MS: u64 = 330_000;
