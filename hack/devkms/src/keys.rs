//! Keys of the test KMS.

use std::fmt;

use aws_lc_rs::rand;
use serde::{Deserialize, Serialize};

use crate::policy::Policy;
use crate::{ACCOUNT, BREAK_GLASS_ROLE, REGION};

/// The identifier in a key's ARN, a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId(pub(crate) [u8; 16]);

/// The secret of a key.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Material(pub(crate) [u8; 32]);

/// A KMS key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Key {
    /// Its ARN.
    #[serde(rename = "keyArn")]
    pub arn: String,
    pub(crate) id: KeyId,
    pub(crate) material: Material,
    /// Who may do what with it.
    pub policy: Policy,
}

/// No randomness.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the random number generator failed")]
pub struct KeyError;

impl Key {
    /// Makes a key with an administration-only policy: [`BREAK_GLASS_ROLE`] may change the policy,
    /// and nobody may use the key.
    ///
    /// # Errors
    /// No randomness.
    pub fn generate() -> Result<Self, KeyError> {
        let (mut id, mut material) = ([0; 16], [0; 32]);
        rand::fill(&mut id).and_then(|()| rand::fill(&mut material)).map_err(|_| KeyError)?;
        // A UUID of version 4, as RFC 9562 marks it.
        id[6] = id[6] & 0x0f | 0x40;
        id[8] = id[8] & 0x3f | 0x80;
        let id = KeyId(id);
        Ok(Self {
            arn: format!("arn:aws:kms:{REGION}:{ACCOUNT}:key/{id}"),
            id,
            material: Material(material),
            policy: Policy::administration_only(BREAK_GLASS_ROLE),
        })
    }

    /// True if a request's `KeyId` names this key.
    pub(crate) fn is_named(&self, name: &str) -> bool {
        name == self.arn || name == self.id.to_string()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = const_hex::encode(self.0);
        for (at, digit) in hex.chars().enumerate() {
            let dash = if matches!(at, 8 | 12 | 16 | 20) { "-" } else { "" };
            write!(f, "{dash}{digit}")?;
        }
        Ok(())
    }
}

impl TryFrom<String> for KeyId {
    type Error = const_hex::FromHexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const_hex::decode_to_array(text.replace('-', "")).map(Self)
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for Material {
    type Error = const_hex::FromHexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const_hex::decode_to_array(text).map(Self)
    }
}

impl From<Material> for String {
    fn from(material: Material) -> Self {
        const_hex::encode(material.0)
    }
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Material(redacted)")
    }
}
