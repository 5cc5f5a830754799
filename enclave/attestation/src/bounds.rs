//! Bounds of documents and statements. Each has a unit in its name and a reason.

/// Bytes of a document. Certificates of 1,024 bytes each, a chain of eight, 32 PCRs and three
/// fields of 1,024 bytes stay below it.
pub const DOCUMENT_BYTES_MAX: usize = 16 * 1024;
/// Bytes of the module id: an instance id, `-enc` and 16 hex digits; 40 seen.
pub const MODULE_ID_BYTES_MAX: usize = 128;
/// Index of the last PCR, from the specification.
pub const PCR_INDEX_MAX: u8 = 31;
/// Bytes of a certificate, from the specification.
pub const CERTIFICATE_BYTES_MAX: usize = 1_024;
/// Certificates of `cabundle`: the root, and the six intermediates that webpki follows. Four seen.
pub const CABUNDLE_CERTIFICATES_MAX: usize = 7;
/// Bytes of `public_key`, `user_data` and `nonce` when reading. The specification's prose says 512
/// for two of them, its grammar 1,024, and a genuine document with 746 exists.
pub const FIELD_BYTES_MAX: usize = 1_024;
/// Bytes of user data when writing: what every reader takes.
pub const USER_DATA_BYTES_MAX: usize = 512;
/// Bytes of an app or keyspace name: a DNS label.
pub const NAME_BYTES_MAX: usize = 63;
/// Bytes of a statement; the longest possible is 419.
pub const STATEMENT_BYTES_MAX: usize = 512;
