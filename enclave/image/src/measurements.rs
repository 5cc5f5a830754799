//! `measurements.json`: what an image measures to, for verifiers, the operator and key policies.
//! Format: `docs/formats.md`, "Measurements".

use serde::{Deserialize, Serialize};

use crate::measure::{Pcr, process, sha384};
use crate::pins::{KeyspaceRule, Pins, PinsError};

const FORMAT_VERSION: u32 = 1;
/// Bytes of the file: the pins' KMS rules and some hundred bytes.
pub const MEASUREMENTS_BYTES_MAX: usize = 256 * 1024;

/// The content, fields in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Measurements {
    /// 1.
    pub format_version: u32,
    /// What was measured.
    pub kind: Kind,
    /// For which processor.
    pub arch: Arch,
    /// Name of the deployment.
    pub app: String,
    /// Everything.
    #[serde(with = "hex48")]
    pub pcr0: Pcr,
    /// The code.
    #[serde(with = "hex48")]
    pub pcr1: Pcr,
    /// The pins.
    #[serde(with = "hex48")]
    pub pcr2: Pcr,
    /// The fixed test role; in process mode only.
    #[serde(with = "hex48_option", default, skip_serializing_if = "Option::is_none")]
    pub pcr3: Option<Pcr>,
    /// SHA-384 of `pins.cbor`.
    #[serde(with = "hex48")]
    pub pins_sha384: Pcr,
    /// Development.
    pub insecure: bool,
    /// The pinned KMS keys, by prefix.
    pub kms: Vec<KmsRule>,
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An enclave image file.
    Eif,
    /// An executable with its pins (development).
    Process,
}

/// Processor architectures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Arch {
    /// Intel and AMD.
    #[serde(rename = "x86_64")]
    X86_64,
    /// Graviton.
    #[serde(rename = "aarch64")]
    Aarch64,
}

/// A keyspace rule of the pins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KmsRule {
    /// Beginning of keyspace names.
    pub prefix: String,
    /// KMS key ARNs, the one in use first.
    pub key_arns: Vec<String>,
    /// Region of the keys.
    pub region: String,
    /// Host of the KMS endpoint.
    pub host: String,
}

/// Why a file is refused.
#[derive(Debug, thiserror::Error)]
pub enum MeasurementsError {
    /// Longer than [`MEASUREMENTS_BYTES_MAX`].
    #[error("measurements: longer than {MEASUREMENTS_BYTES_MAX} bytes")]
    TooLarge,
    /// Not JSON, or not of the right shape; the text names field and line.
    #[error("measurements: {0}")]
    Json(#[from] serde_json::Error),
    /// Another version.
    #[error("measurements: formatVersion {0}, this program reads 1")]
    Version(u32),
    /// `pcr3` belongs to kind `process` and to no other.
    #[error("measurements: pcr3 is there for kind process, and only there")]
    Pcr3,
    /// The pins are not right.
    #[error(transparent)]
    Pins(#[from] PinsError),
}

impl Measurements {
    /// Measures a process (development) by its executable and its `pins.cbor`.
    ///
    /// # Errors
    /// The pins are not right.
    pub fn of_process(executable: &[u8], pins: &[u8]) -> Result<Self, MeasurementsError> {
        let content = Pins::decode(pins)?;
        let pcrs = process(executable, pins);
        Ok(Self {
            format_version: FORMAT_VERSION,
            kind: Kind::Process,
            arch: Arch::of_this_machine(),
            app: content.app,
            pcr0: pcrs.pcr0,
            pcr1: pcrs.pcr1,
            pcr2: pcrs.pcr2,
            pcr3: Some(pcrs.pcr3),
            pins_sha384: sha384(pins),
            insecure: content.insecure,
            kms: content.keyspaces.into_iter().map(KmsRule::from).collect(),
        })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// See [`MeasurementsError`].
    pub fn parse(json: &str) -> Result<Self, MeasurementsError> {
        if json.len() > MEASUREMENTS_BYTES_MAX {
            return Err(MeasurementsError::TooLarge);
        }
        let measurements: Self = serde_json::from_str(json)?;
        if measurements.format_version != FORMAT_VERSION {
            return Err(MeasurementsError::Version(measurements.format_version));
        }
        if measurements.pcr3.is_some() != (measurements.kind == Kind::Process) {
            return Err(MeasurementsError::Pcr3);
        }
        Ok(measurements)
    }

    /// The file: two spaces of indent and a newline at the end.
    ///
    /// # Errors
    /// None that is known; serialization reports them.
    pub fn to_json(&self) -> Result<String, MeasurementsError> {
        let mut json = serde_json::to_string_pretty(self)?;
        json.push('\n');
        Ok(json)
    }
}

impl Arch {
    /// The architecture this program was built for.
    pub fn of_this_machine() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 }
    }
}

impl From<KeyspaceRule> for KmsRule {
    fn from(rule: KeyspaceRule) -> Self {
        let KeyspaceRule { prefix, key_arns, region, host } = rule;
        Self { prefix, key_arns, region, host }
    }
}

/// 96 lower-case hex digits; other spellings are refused, so that texts can be compared.
mod hex48 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::Pcr;

    pub(super) fn serialize<S: Serializer>(pcr: &Pcr, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&const_hex::encode(pcr))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Pcr, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let pcr = const_hex::decode_to_array::<_, 48>(text.as_bytes()).ok();
        let pcr = pcr.filter(|pcr| const_hex::encode(pcr) == *text);
        pcr.ok_or_else(|| D::Error::custom("a PCR is 96 lower-case hex digits without 0x"))
    }
}

mod hex48_option {
    use serde::{Deserializer, Serializer};

    use super::{Pcr, hex48};

    pub(super) fn serialize<S: Serializer>(
        pcr: &Option<Pcr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match pcr {
            Some(pcr) => hex48::serialize(pcr, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Pcr>, D::Error> {
        hex48::deserialize(deserializer).map(Some)
    }
}
