//! The places where something depends on a secret and may: each decides something that everybody
//! sees anyway. All of them must be reported: one that is not says that no secret came by.

/// Where a report points to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// A line of ours: the file from the repository's root, and what stands there.
    Line(String, String),
    /// A function of libsecp256k1 or AWS-LC.
    Library(String),
    /// Nothing that has a name.
    Unknown,
}

/// What depends on the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Use {
    /// The way that the program takes.
    Branch,
    /// An address.
    Address,
    /// Bytes that are given to the kernel, a size, a freed pointer.
    Other,
}

/// A report and why it may be.
pub(crate) struct Expected {
    pub(crate) usage: Use,
    pub(crate) place: Place,
    pub(crate) why: &'static str,
}

/// A branch of ours.
fn ours(file: &str, line: &str, why: &'static str) -> Expected {
    Expected { usage: Use::Branch, place: Place::Line(file.into(), line.into()), why }
}

/// A branch of a library.
fn library(function: &str, why: &'static str) -> Expected {
    Expected { usage: Use::Branch, place: Place::Library(function.into()), why }
}

/// What may be.
pub(crate) fn expected() -> Vec<Expected> {
    vec![
        ours(
            "enclave/src/kms_exchange/recipient.rs",
            "self.decrypt(envelope, &mut dek).ok_or(EnvelopeError::Closed)?;",
            "whether the padding in an envelope of KMS is right, compared as a whole and in constant \
             time: the answer says so",
        ),
        ours(
            "enclave/src/dek.rs",
            "&& !row.holds(&dek)",
            "whether two DEKs of one id are the same, compared in constant time: the answer says so",
        ),
        ours(
            "enclave/src/seal.rs",
            "if !bool::from(keys.commitment.ct_eq(self.commitment)) {",
            "whether a blob's commitment is the DEK's, compared in constant time: the answer says so",
        ),
        ours(
            "enclave/src/keys.rs",
            "Ok(opened) if opened.expose_secret().ct_eq(scalar.expose_secret()).into() => Ok(blob),",
            "whether a new blob opens to its key, compared in constant time: else there is no blob",
        ),
        ours(
            "enclave/src/signer.rs",
            "if !pairs.clone().all(|(item, made)| self.makes_again(item, made)) {",
            "whether a key's tag is right: always, but for a fault, which stops the batch",
        ),
        ours(
            "enclave/src/signer.rs",
            "let checked = self.makes_again(item, &made) && self.verifies(item, &made);",
            "the same for one signature",
        ),
        library(
            "rustsecp256k1_v0_14_ecdsa_sign_inner",
            "whether the nonce and the signature are in range: else it draws again, with a chance \
             of 2^-127. Built for valgrind, the library marks both as public there itself",
        ),
        library(
            "aead_aes_gcm_open_gather_impl",
            "whether the tag is right, compared in constant time (CRYPTO_memcmp): the answer says so",
        ),
    ]
}

/// What must be found in `leak`, and nothing else beside what may be.
pub(crate) fn leaks() -> Vec<(Use, Place)> {
    let at = |line: &str| Place::Line("hack/ctime/src/leak.rs".into(), line.into());
    vec![
        (Use::Branch, at("for _ in 0..secret & 1 {")),
        (Use::Address, at("black_box(black_box(&[7_u8; 16])[usize::from(secret & 15)]);")),
    ]
}
