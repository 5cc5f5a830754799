//! `pins.cbor`: what an image is pinned to. Measured with it, so that no flag loosens a pin.
//! Format: `docs/formats.md`, "Pins".

mod cbor;
mod check;

/// Bytes of `pins.cbor`.
pub const PINS_BYTES_MAX: usize = 65_536;
/// Keyspace rules of one image.
pub const KEYSPACE_RULES_MAX: usize = 64;
/// KMS keys of one rule: the one in use and its predecessors.
pub const KEY_ARNS_MAX: usize = 8;
/// Bytes of a KMS key ARN, from the KMS API model.
pub const KEY_ARN_BYTES_MAX: usize = 2_048;
/// Bytes of a region name; the longest is 14.
pub const REGION_BYTES_MAX: usize = 32;
/// Bytes of a host name, from DNS.
pub const HOST_BYTES_MAX: usize = 253;
/// TLS roots: Amazon has five; a private KMS endpoint adds one or two.
pub const TLS_ROOTS_MAX: usize = 16;
/// Bytes of a certificate in the pins; RSA-4096 roots have about 1,400.
pub const CERTIFICATE_BYTES_MAX: usize = 4_096;
/// The longest any ceiling in seconds may be: 30 days.
pub const CEILING_S_MAX: u32 = 30 * 24 * 3_600;

/// What an image is pinned to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    /// Name of the deployment.
    pub app: String,
    /// Which KMS keys protect which keyspaces, at least one, each prefix once.
    pub keyspaces: Vec<KeyspaceRule>,
    /// Roots that TLS to KMS trusts, DER.
    pub tls_roots: Vec<Vec<u8>>,
    /// Root of attestation documents, DER.
    pub attestation_root: Vec<u8>,
    /// How signatures are checked before they leave.
    pub verify_mode: VerifyMode,
    /// What settings at run time may not exceed.
    pub ceilings: Ceilings,
    /// vsock CID of the parent: 3 on Nitro, 2 in QEMU.
    pub parent_cid: u32,
    /// Development: the production binary refuses true, the development binary false.
    pub insecure: bool,
}

/// The KMS keys of the keyspaces that begin with a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyspaceRule {
    /// Beginning of keyspace names; the empty one matches all.
    pub prefix: String,
    /// KMS key ARNs; the first makes new DEKs, all may open old ones.
    pub key_arns: Vec<String>,
    /// Region of the keys.
    pub region: String,
    /// Host that TLS must prove to be.
    pub host: String,
}

/// How a signature is checked before it leaves, beside its recomputation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyMode {
    /// One full verification of a random item in each batch.
    BatchSample,
    /// Full verification of every signature.
    Full,
}

/// Upper limits for settings at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ceilings {
    /// Age at which a plain key is refreshed, seconds.
    pub key_soft_s: u32,
    /// Age at which a plain key is erased, seconds.
    pub key_hard_s: u32,
    /// Signatures after which a plain key is erased.
    pub key_uses: u64,
    /// Age at which a DEK is unlocked again, seconds.
    pub dek_soft_s: u32,
    /// Age at which a DEK and all keys under it are erased, seconds.
    pub dek_hard_s: u32,
}

/// Why pins are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinsError {
    /// Longer than [`PINS_BYTES_MAX`].
    #[error("pins: longer than {PINS_BYTES_MAX} bytes")]
    TooLarge,
    /// Not CBOR, or not of the right shape.
    #[error("pins: `{0}` is malformed")]
    Malformed(&'static str),
    /// Another version.
    #[error("pins: version {0}, this image reads version 1")]
    Version(u64),
    /// Right content in another encoding.
    #[error("pins: not in deterministic encoding")]
    NotDeterministic,
    /// A value that may not be.
    #[error("pins: {field}: {problem}")]
    Field {
        /// Which one, as in `pins.yaml`.
        field: String,
        /// What it must be.
        problem: String,
    },
}

impl Default for Ceilings {
    fn default() -> Self {
        Self {
            key_soft_s: 15 * 60,
            key_hard_s: 16 * 60,
            key_uses: 1_000_000,
            dek_soft_s: 55 * 60,
            dek_hard_s: 60 * 60,
        }
    }
}

impl Pins {
    /// Reads `pins.cbor`.
    ///
    /// # Errors
    /// See [`PinsError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, PinsError> {
        if bytes.len() > PINS_BYTES_MAX {
            return Err(PinsError::TooLarge);
        }
        let pins = cbor::decode(bytes)?;
        // One content has one encoding: this refuses long forms of lengths, another order of keys
        // or rules, and trailing bytes, all at once.
        if pins.encode()? == bytes { Ok(pins) } else { Err(PinsError::NotDeterministic) }
    }

    /// Writes `pins.cbor`, rules in the order of their prefixes.
    ///
    /// # Errors
    /// A value that may not be.
    pub fn encode(&self) -> Result<Vec<u8>, PinsError> {
        self.check()?;
        let bytes = cbor::encode(self);
        if bytes.len() > PINS_BYTES_MAX { Err(PinsError::TooLarge) } else { Ok(bytes) }
    }

    /// Checks every value.
    ///
    /// # Errors
    /// The first value that may not be.
    pub fn check(&self) -> Result<(), PinsError> {
        check::pins(self)
    }

    /// The rule of a keyspace: the one with the longest prefix.
    pub fn rule_for(&self, keyspace: &str) -> Option<&KeyspaceRule> {
        let matching = self.keyspaces.iter().filter(|rule| keyspace.starts_with(&rule.prefix));
        matching.max_by_key(|rule| rule.prefix.len())
    }
}

#[cfg(test)]
mod tests;
