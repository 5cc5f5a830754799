//! The cluster's public keys, as its API server publishes them (RFC 7517, `/openid/v1/jwks`).

use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// Keys of one set. A cluster has one or two; rotation adds one at a time.
const KEYS_MAX: usize = 32;
/// Characters of a key id.
const KID_CHARACTERS_MAX: usize = 256;
/// Bytes of a coordinate of P-256.
const P256_BYTES: usize = 32;
/// Bytes of an RSA modulus: 2,048 to 8,192 bits.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1_024;

/// Keys by their ids.
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<(String, Key)>,
}

/// A set cannot be used, or has no key that can.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the set of keys cannot be used: {0}")]
pub struct KeysError(String);

/// A key and the one algorithm that it is for.
#[derive(Debug)]
pub(super) enum Key {
    /// ECDSA with P-256 and SHA-256 (RFC 7518, 3.4): the uncompressed point.
    Es256([u8; 1 + 2 * P256_BYTES]),
    /// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518, 3.3).
    Rs256 {
        /// Modulus.
        n: Vec<u8>,
        /// Exponent.
        e: Vec<u8>,
    },
}

#[derive(Deserialize)]
struct JsonKeySet {
    keys: Vec<JsonKey>,
}

#[derive(Deserialize)]
struct JsonKey {
    kty: String,
    #[serde(default)]
    kid: String,
    #[serde(default, rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
}

// === impl KeySet ===

impl KeySet {
    /// Reads a set. Keys of kinds that are not used here are left out, as RFC 7517 (5) asks.
    ///
    /// # Errors
    /// It is no set, has no key that can be used, or two with one id.
    pub fn parse(json: &[u8]) -> Result<Self, KeysError> {
        let set: JsonKeySet =
            serde_json::from_slice(json).map_err(|error| KeysError(error.to_string()))?;
        if set.keys.len() > KEYS_MAX {
            return Err(KeysError(format!("more than {KEYS_MAX} keys")));
        }
        let mut keys: Vec<(String, Key)> = Vec::new();
        for json in set.keys {
            let Some(key) = Key::read(&json) else { continue };
            if json.kid.is_empty() || json.kid.len() > KID_CHARACTERS_MAX {
                return Err(KeysError(format!(
                    "a key id must have 1 to {KID_CHARACTERS_MAX} characters"
                )));
            }
            if keys.iter().any(|(kid, _)| *kid == json.kid) {
                return Err(KeysError(format!("two keys have the id {}", json.kid)));
            }
            keys.push((json.kid, key));
        }
        if keys.is_empty() {
            return Err(KeysError("it has no key for ES256 or RS256".to_owned()));
        }
        Ok(Self { keys })
    }

    /// Ids of the keys.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|(kid, _)| kid.as_str())
    }

    pub(super) fn get(&self, kid: &str) -> Option<&Key> {
        self.keys.iter().find(|(known, _)| known == kid).map(|(_, key)| key)
    }
}

// === impl Key ===

impl Key {
    /// `None` for what is not a signing key of a kind that is used here.
    fn read(json: &JsonKey) -> Option<Self> {
        let is_for = |alg: &str| json.alg.as_deref().is_none_or(|said| said == alg);
        if json.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return None;
        }
        match json.kty.as_str() {
            "EC" if json.crv.as_deref() == Some("P-256") && is_for("ES256") => {
                let (x, y) = (decoded(json.x.as_deref()?)?, decoded(json.y.as_deref()?)?);
                let mut point = [4; 1 + 2 * P256_BYTES];
                let (_, both) = point.split_first_mut()?;
                let (left, right) = both.split_at_mut(P256_BYTES);
                if x.len() != P256_BYTES || y.len() != P256_BYTES {
                    return None;
                }
                left.copy_from_slice(&x);
                right.copy_from_slice(&y);
                Some(Self::Es256(point))
            }
            "RSA" if is_for("RS256") => {
                let (n, e) = (decoded(json.n.as_deref()?)?, decoded(json.e.as_deref()?)?);
                (RSA_BYTES.contains(&n.len()) && !e.is_empty() && e.len() <= 8)
                    .then_some(Self::Rs256 { n, e })
            }
            _ => None,
        }
    }

    /// The name by which tokens call the key's algorithm.
    pub(super) fn algorithm(&self) -> &'static str {
        match self {
            Self::Es256(_) => "ES256",
            Self::Rs256 { .. } => "RS256",
        }
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Es256(point) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                .verify(message, signature)
                .is_ok(),
            Self::Rs256 { n, e } => PublicKeyComponents { n, e }
                .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
                .is_ok(),
        }
    }
}

/// base64url without padding (RFC 7515, 2).
pub(super) fn decoded(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}
