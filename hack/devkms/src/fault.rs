//! Ways to be wrong, one at a time.

use std::fmt;
use std::str::FromStr;

/// What the server does instead of being honest. The name on the command line is that of the
/// variant in kebab case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FaultMode {
    /// Honest.
    #[default]
    Off,
    /// Every signed request: HTTP 400 `ThrottlingException`.
    Throttle,
    /// Every signed request: HTTP 500 `KMSInternalException`.
    Http500,
    /// Every request is read and never answered.
    Hang,
    /// Honest, but every answer comes 1.5 s late: inside the enclave's limit of 2 s.
    Slow,
    /// The answer has the right envelope and `Plaintext` as well.
    PlaintextLeak,
    /// As servers that do not know `Recipient`: `Plaintext` and no envelope.
    PlaintextOnly,
    /// The answer names another key.
    WrongKeyArn,
    /// The envelope has a second recipient, with a key of the attacker.
    TwoRecipients,
    /// The envelope is well formed and for the right key, but holds [`crate::KNOWN_DEK`] instead of
    /// what the blob wraps: a forgery by somebody who knows the public key.
    ForgedEnvelope,
    /// As [`Self::ForgedEnvelope`] for GenerateDataKey alone; Decrypt is honest.
    ForgedGeneration,
    /// GenerateDataKey wraps [`crate::KNOWN_DEK`] and is honest about it in every other way: what
    /// a KMS key with a hostile past can do. Decrypt is honest.
    KnownDek,
    /// The envelope's key identifier is of another key.
    WrongSki,
    /// The envelope lacks its last 16 bytes.
    Truncated,
    /// The connection ends in the middle of the answer's body.
    CutAnswer,
    /// The answer stops in the middle of its body and the connection stays open.
    StallAnswer,
    /// HTTP 200 with a body that is no JSON.
    BadJson,
    /// `KeyId` occurs twice.
    DuplicateJsonKey,
    /// The body has 64 KiB.
    HugeAnswer,
    /// Every signed request: HTTP 400 `AccessDeniedException`.
    Deny,
    /// The server's certificate expired in 2020.
    ExpiredCertificate,
    /// The server's certificate is for `kms.us-west-2.amazonaws.com`.
    WrongName,
    /// The server's certificate is from another root.
    OtherRoot,
    /// The TCP connection ends after the first bytes of the TLS handshake.
    CloseInHandshake,
}

/// An unknown name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown fault mode {0:?}; known are: {known}", known = FaultMode::names().join(", "))]
pub struct UnknownFault(String);

impl FaultMode {
    /// All modes with their names.
    pub const ALL: [(Self, &str); 24] = [
        (Self::Off, "off"),
        (Self::Throttle, "throttle"),
        (Self::Http500, "http-500"),
        (Self::Hang, "hang"),
        (Self::Slow, "slow"),
        (Self::PlaintextLeak, "plaintext-leak"),
        (Self::PlaintextOnly, "plaintext-only"),
        (Self::WrongKeyArn, "wrong-key-arn"),
        (Self::TwoRecipients, "two-recipients"),
        (Self::ForgedEnvelope, "forged-envelope"),
        (Self::ForgedGeneration, "forged-generation"),
        (Self::KnownDek, "known-dek"),
        (Self::WrongSki, "wrong-ski"),
        (Self::Truncated, "truncated"),
        (Self::CutAnswer, "cut-answer"),
        (Self::StallAnswer, "stall-answer"),
        (Self::BadJson, "bad-json"),
        (Self::DuplicateJsonKey, "duplicate-json-key"),
        (Self::HugeAnswer, "huge-answer"),
        (Self::Deny, "deny"),
        (Self::ExpiredCertificate, "expired-certificate"),
        (Self::WrongName, "wrong-name"),
        (Self::OtherRoot, "other-root"),
        (Self::CloseInHandshake, "close-in-handshake"),
    ];

    /// What is left of this fault for Decrypt.
    pub(crate) fn for_decrypt(self) -> Self {
        if self == Self::ForgedGeneration { Self::Off } else { self }
    }

    fn names() -> Vec<&'static str> {
        Self::ALL.map(|(_, name)| name).to_vec()
    }
}

impl fmt::Display for FaultMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::ALL.iter().find(|(mode, _)| mode == self);
        f.write_str(named.map_or("", |(_, name)| name))
    }
}

impl FromStr for FaultMode {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        let named = Self::ALL.iter().find(|(_, name)| *name == text);
        named.map(|(mode, _)| *mode).ok_or_else(|| UnknownFault(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for (mode, name) in FaultMode::ALL {
            assert_eq!(mode.to_string(), name);
            assert_eq!(name.parse(), Ok(mode));
        }
        let error = "lie".parse::<FaultMode>().unwrap_err().to_string();
        assert!(error.contains("\"lie\"") && error.contains("plaintext-leak"), "{error}");
    }
}
