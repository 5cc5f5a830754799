//! Pins: what an image may never be talked out of. They are measured with it, so whoever changes
//! one makes another image. Format: `docs/formats.md`, "Pins".

mod codec;

pub use codec::PinsError;

/// Bytes of `pins.cbor`: a handful of certificates and ARNs.
pub const PINS_BYTES_MAX: usize = 65_536;
/// Keyspace rules of one image.
pub const RULES_MAX: usize = 64;
/// KMS keys of one rule: a primary and its replicas.
pub const KEY_ARNS_MAX: usize = 16;
/// TLS roots of one image: Amazon's five, twice.
pub const TLS_ROOTS_MAX: usize = 10;
/// Bytes of an ARN, from the KMS API model.
pub const ARN_BYTES_MAX: usize = 2_048;
/// Bytes of a DNS name.
pub const HOST_BYTES_MAX: usize = 253;
/// Bytes of a region's name.
pub const REGION_BYTES_MAX: usize = 32;
/// Bytes of a certificate.
pub const CERTIFICATE_BYTES_MAX: usize = 4_096;
/// Longest time limit, one week: attestation, not time, is what protects a key.
pub const LIMIT_S_MAX: u32 = 7 * 24 * 3_600;

/// Everything that is pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    /// Name of the deployment; part of every blob and of the KMS encryption context.
    pub app: String,
    /// Which KMS keys protect which keyspaces.
    pub rules: Vec<KeyspaceRule>,
    /// Roots for TLS to KMS, DER.
    pub tls_roots: Vec<Vec<u8>>,
    /// Root of attestation documents, DER.
    pub attestation_root: Vec<u8>,
    /// How signatures are checked.
    pub verify_mode: VerifyMode,
    /// Limits that settings may lower and never raise.
    pub ceilings: Ceilings,
    /// Where the boot heartbeat goes: 3 on Nitro, 2 in QEMU.
    pub parent_cid: u32,
    /// A development image. The production binary refuses it, the development one requires it.
    pub insecure: bool,
}

/// The KMS keys of the keyspaces that begin with a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyspaceRule {
    /// Beginning of the keyspace's name; empty matches all. The longest match wins.
    pub prefix: String,
    /// ARNs of the KMS keys, the first of which generates.
    pub key_arns: Vec<String>,
    /// Region that requests are signed for.
    pub region: String,
    /// Host that TLS checks and requests name.
    pub host: String,
}

/// Which signatures are verified in full before they leave, beside the recomputation of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyMode {
    /// One random item of each batch.
    BatchSample,
    /// Each one.
    Full,
}

/// Longest lives of plaintext in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ceilings {
    /// Soft limit of a key, seconds.
    pub key_soft_s: u32,
    /// Hard limit of a key, seconds.
    pub key_hard_s: u32,
    /// Signatures of a key between two openings.
    pub key_uses: u32,
    /// Soft limit of a DEK, seconds.
    pub dek_soft_s: u32,
    /// Hard limit of a DEK, seconds.
    pub dek_hard_s: u32,
}

impl Default for Ceilings {
    /// The baseline: keys 15 and 16 minutes and a million uses, DEKs 55 and 60 minutes.
    fn default() -> Self {
        Self {
            key_soft_s: 900,
            key_hard_s: 960,
            key_uses: 1_000_000,
            dek_soft_s: 3_300,
            dek_hard_s: 3_600,
        }
    }
}

impl Pins {
    /// The rule with the longest prefix of this keyspace, if any.
    pub fn rule_for(&self, keyspace: &str) -> Option<&KeyspaceRule> {
        self.rules
            .iter()
            .filter(|rule| keyspace.starts_with(&rule.prefix))
            .max_by_key(|rule| rule.prefix.len())
    }

    /// Reads `pins.cbor`. Only the deterministic encoding of valid pins is accepted.
    ///
    /// # Errors
    /// Any other bytes; the error names the field.
    pub fn decode(bytes: &[u8]) -> Result<Self, PinsError> {
        codec::decode(bytes)
    }

    /// Writes `pins.cbor`.
    ///
    /// # Errors
    /// A field breaks its rule.
    pub fn encode(&self) -> Result<Vec<u8>, PinsError> {
        self.check()?;
        Ok(codec::encode(self))
    }

    /// Checks every rule that the encoding itself does not express.
    ///
    /// # Errors
    /// The first field that breaks its rule.
    pub fn check(&self) -> Result<(), PinsError> {
        let named = |field: &'static str| {
            move |error: crate::names::NameError| PinsError::new(field, error.to_string())
        };
        crate::names::check_app(&self.app).map_err(named("app"))?;
        count("keyspaces", self.rules.len(), RULES_MAX)?;
        for rule in &self.rules {
            crate::names::check_keyspace_prefix(&rule.prefix).map_err(named("keyspaces.prefix"))?;
            if self.rules.iter().filter(|other| other.prefix == rule.prefix).count() != 1 {
                return Err(PinsError::new("keyspaces.prefix", "two rules have the same prefix"));
            }
            rule.check()?;
        }
        count("tlsRoots", self.tls_roots.len(), TLS_ROOTS_MAX)?;
        for root in &self.tls_roots {
            count("tlsRoots", root.len(), CERTIFICATE_BYTES_MAX)?;
        }
        count("attestationRoot", self.attestation_root.len(), CERTIFICATE_BYTES_MAX)?;
        // 0 and 1 are the hypervisor and the loopback, the last one means "any".
        if self.parent_cid < 2 || self.parent_cid == u32::MAX {
            return Err(PinsError::new("parentCid", "expected 3 on Nitro, 2 in QEMU"));
        }
        self.ceilings.check()
    }
}

impl KeyspaceRule {
    fn check(&self) -> Result<(), PinsError> {
        count("keyspaces.kmsKeyArns", self.key_arns.len(), KEY_ARNS_MAX)?;
        for arn in &self.key_arns {
            if arn.len() > ARN_BYTES_MAX || !is_key_arn(arn, &self.region) {
                let want = "expected arn:aws:kms:REGION:ACCOUNT:key/ID in the rule's region";
                return Err(PinsError::new("keyspaces.kmsKeyArns", want));
            }
        }
        count("keyspaces.region", self.region.len(), REGION_BYTES_MAX)?;
        count("keyspaces.host", self.host.len(), HOST_BYTES_MAX)?;
        if !self.region.bytes().all(label) {
            return Err(PinsError::new("keyspaces.region", "expected a region such as us-east-1"));
        }
        if !is_host(&self.host) {
            return Err(PinsError::new("keyspaces.host", "expected a DNS name in lower case"));
        }
        Ok(())
    }
}

impl Ceilings {
    fn check(&self) -> Result<(), PinsError> {
        let pairs = [
            ("ceilings.keySoftSeconds", self.key_soft_s, self.key_hard_s),
            ("ceilings.dekSoftSeconds", self.dek_soft_s, self.dek_hard_s),
        ];
        for (field, soft, hard) in pairs {
            if soft == 0 || soft >= hard || hard > LIMIT_S_MAX {
                let want = "expected 0 < soft < hard <= 604800 seconds";
                return Err(PinsError::new(field, want));
            }
        }
        if self.key_uses == 0 {
            return Err(PinsError::new("ceilings.keyUses", "expected at least 1"));
        }
        Ok(())
    }
}

fn count(field: &'static str, actual: usize, max: usize) -> Result<(), PinsError> {
    if (1..=max).contains(&actual) {
        return Ok(());
    }
    Err(PinsError::new(field, format!("{actual} given, expected 1 to {max}")))
}

/// arn:PARTITION:kms:REGION:ACCOUNT:key/ID. No alias: it could be pointed elsewhere after it was
/// pinned. ARN and host end up in a request, so no character needs escaping there.
fn is_key_arn(arn: &str, region: &str) -> bool {
    let parts: Vec<_> = arn.split(':').collect();
    let &["arn", partition, "kms", in_region, account, resource] = parts.as_slice() else {
        return false;
    };
    let id = resource.strip_prefix("key/").unwrap_or_default();
    partition.starts_with("aws")
        && partition.bytes().all(label)
        && in_region == region
        && account.len() == 12
        && account.bytes().all(|byte| byte.is_ascii_digit())
        && !id.is_empty()
        && id.bytes().all(label)
}

fn is_host(host: &str) -> bool {
    let part = |part: &str| {
        (1..=63).contains(&part.len())
            && part.bytes().all(label)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    host.split('.').all(part)
}

fn label(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

#[cfg(test)]
mod tests;
