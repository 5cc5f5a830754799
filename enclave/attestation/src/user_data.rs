//! What Sigil's documents commit to. The label in front says which kind a document is, so that none
//! can be taken for another. Format: `docs/formats.md`, "User data of attestation documents".

use crate::bounds::{NAME_BYTES_MAX, USER_DATA_BYTES_MAX};
use crate::frame::{self, Malformed, Reader};

const LIVE: &[u8] = b"sigil/live/v1";
const KMS: &[u8] = b"sigil/kms/v1";
const DEK_BIRTH: &[u8] = b"sigil/dek-birth/v1";
const STATEMENT_KEY: &[u8] = b"sigil/statement-key/v1";

/// The user data of one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserData {
    /// Answers a verifier's nonce: this boot is live.
    Live {
        /// The boot.
        boot_id: [u8; 16],
    },
    /// Goes to KMS as the recipient of a DEK.
    Kms {
        /// The boot.
        boot_id: [u8; 16],
    },
    /// Says which enclave generated a DEK.
    DekBirth {
        /// The DEK's random identifier.
        dek_id: [u8; 16],
        /// Name of the deployment, 1-63 bytes.
        app: String,
        /// The keyspace it was made for, 1-63 bytes.
        keyspace: String,
        /// Key check value of the DEK.
        kcv: [u8; 32],
    },
    /// Binds the statement key of a boot, which is the document's public key.
    StatementKey {
        /// The boot.
        boot_id: [u8; 16],
    },
}

/// Bytes that are no user data of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("user data: not one of Sigil's formats")]
pub struct UserDataError;

impl From<Malformed> for UserDataError {
    fn from(_: Malformed) -> Self {
        Self
    }
}

impl UserData {
    /// The bytes for a document. With names in their bounds, at most [`USER_DATA_BYTES_MAX`];
    /// with others, bytes that [`UserData::decode`] refuses.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Live { boot_id } => boot(&mut out, LIVE, boot_id),
            Self::Kms { boot_id } => boot(&mut out, KMS, boot_id),
            Self::StatementKey { boot_id } => boot(&mut out, STATEMENT_KEY, boot_id),
            Self::DekBirth { dek_id, app, keyspace, kcv } => {
                boot(&mut out, DEK_BIRTH, dek_id);
                frame::put(&mut out, app.as_bytes());
                frame::put(&mut out, keyspace.as_bytes());
                out.extend_from_slice(kcv);
            }
        }
        out
    }

    /// Reads user data of ours.
    ///
    /// # Errors
    /// Another label, a length out of bounds, missing or trailing bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, UserDataError> {
        let mut reader = Reader(bytes);
        let label = reader.field(USER_DATA_BYTES_MAX)?;
        let id = reader.array()?;
        let decoded = match label {
            LIVE => Self::Live { boot_id: id },
            KMS => Self::Kms { boot_id: id },
            STATEMENT_KEY => Self::StatementKey { boot_id: id },
            DEK_BIRTH => Self::DekBirth {
                dek_id: id,
                app: reader.name(NAME_BYTES_MAX)?,
                keyspace: reader.name(NAME_BYTES_MAX)?,
                kcv: reader.array()?,
            },
            _ => return Err(UserDataError),
        };
        reader.end()?;
        Ok(decoded)
    }
}

fn boot(out: &mut Vec<u8>, label: &[u8], id: &[u8; 16]) {
    frame::put(out, label);
    out.extend_from_slice(id);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_formats() {
        let live = UserData::Live { boot_id: [7; 16] }.encode();
        assert_eq!(live, [&[0, 13][..], b"sigil/live/v1", &[7; 16]].concat());
        let kms = UserData::Kms { boot_id: [7; 16] }.encode();
        assert_eq!(kms, [&[0, 12][..], b"sigil/kms/v1", &[7; 16]].concat());
        let key = UserData::StatementKey { boot_id: [7; 16] }.encode();
        assert_eq!(key, [&[0, 22][..], b"sigil/statement-key/v1", &[7; 16]].concat());
        let birth = UserData::DekBirth {
            dek_id: [1; 16],
            app: "demo".into(),
            keyspace: "default".into(),
            kcv: [2; 32],
        };
        let bytes = [
            &[0, 18][..],
            b"sigil/dek-birth/v1",
            &[1; 16],
            &[0, 4],
            b"demo",
            &[0, 7],
            b"default",
            &[2; 32],
        ]
        .concat();
        assert_eq!(birth.encode(), bytes);
        assert_eq!(UserData::decode(&bytes), Ok(birth));
    }

    fn birth(app: usize, keyspace: usize) -> Vec<u8> {
        UserData::DekBirth {
            dek_id: [1; 16],
            app: "a".repeat(app),
            keyspace: "k".repeat(keyspace),
            kcv: [2; 32],
        }
        .encode()
    }

    #[test]
    fn bounds_hold_and_trailing_or_missing_bytes_are_refused() {
        let longest = birth(63, 63);
        assert!(longest.len() <= USER_DATA_BYTES_MAX);
        assert!(UserData::decode(&longest).is_ok());
        for length in 0..longest.len() {
            assert!(UserData::decode(&longest[..length]).is_err(), "{length}");
        }
        assert!(UserData::decode(&[&longest[..], &[0]].concat()).is_err());
        for (app, keyspace) in [(0, 1), (1, 0), (64, 1), (1, 64), (70_000, 1), (65_536 + 5, 1)] {
            assert!(UserData::decode(&birth(app, keyspace)).is_err(), "{app} {keyspace}");
        }
    }

    proptest! {
        #[test]
        fn decoding_never_panics_and_has_one_spelling(bytes in prop::collection::vec(any::<u8>(), 0..96)) {
            if let Ok(decoded) = UserData::decode(&bytes) {
                prop_assert_eq!(decoded.encode(), bytes);
            }
        }
    }
}
