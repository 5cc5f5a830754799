//! `measurements.json`: what an image measures, for key policies, allow-lists and the operator.

use serde::{Deserialize, Serialize};

use sigil_enclave_image::measure::{self, Pcr, ProcessPcrs};
use sigil_enclave_image::pins::Pins;

/// Version of the file's format.
pub const FORMAT_VERSION: u32 = 1;

/// Contents of `measurements.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Measurements {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// What was measured.
    pub kind: ImageKind,
    /// `x86_64` or `aarch64`.
    pub arch: String,
    /// Pinned name of the deployment.
    pub app: String,
    /// Everything.
    #[serde(with = "hex_pcr")]
    pub pcr0: Pcr,
    /// Code.
    #[serde(with = "hex_pcr")]
    pub pcr1: Pcr,
    /// Pins.
    #[serde(with = "hex_pcr")]
    pub pcr2: Pcr,
    /// The fixed test role; process mode only, on Nitro the parent's role decides.
    #[serde(with = "hex_pcr_option", default, skip_serializing_if = "Option::is_none")]
    pub pcr3: Option<Pcr>,
    /// SHA-384 of `pins.cbor`.
    #[serde(with = "hex_pcr")]
    pub pins_sha384: Pcr,
    /// A development image: never for production.
    pub insecure: bool,
    /// Pinned KMS keys.
    pub kms: Vec<PinnedKms>,
}

/// Kind of a measured image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageKind {
    /// An enclave image file.
    Eif,
    /// A process of the development enclave.
    Process,
}

/// The KMS keys of keyspaces with a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PinnedKms {
    /// Beginning of the keyspaces' names.
    pub prefix: String,
    /// ARNs of the keys.
    pub key_arns: Vec<String>,
    /// Region of the keys.
    pub region: String,
    /// Host that TLS checks.
    pub host: String,
}

impl Measurements {
    /// Measures a development enclave: its executable and the bytes of its pins.
    ///
    /// # Errors
    /// The pins cannot be used.
    pub fn of_process(
        executable: &[u8],
        pins: &[u8],
    ) -> Result<Self, sigil_enclave_image::pins::PinsError> {
        let decoded = Pins::decode(pins)?;
        let ProcessPcrs { pcr0, pcr1, pcr2, pcr3 } = measure::process(executable, pins);
        Ok(Self {
            format_version: FORMAT_VERSION,
            kind: ImageKind::Process,
            arch: std::env::consts::ARCH.to_owned(),
            app: decoded.app,
            pcr0,
            pcr1,
            pcr2,
            pcr3: Some(pcr3),
            pins_sha384: measure::sha384(pins),
            insecure: decoded.insecure,
            kms: decoded.rules.into_iter().map(PinnedKms::from).collect(),
        })
    }

    /// Reads the file.
    ///
    /// # Errors
    /// Not this format; the message names the field.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        let read: Self = serde_json::from_str(text)?;
        if read.format_version != FORMAT_VERSION {
            let problem =
                format!("formatVersion {}: expected {FORMAT_VERSION}", read.format_version);
            return Err(serde::de::Error::custom(problem));
        }
        Ok(read)
    }

    /// Writes the file: stable order, two spaces, a newline at the end.
    ///
    /// # Errors
    /// Never in practice: every field has a JSON form.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

impl From<sigil_enclave_image::pins::KeyspaceRule> for PinnedKms {
    fn from(rule: sigil_enclave_image::pins::KeyspaceRule) -> Self {
        let sigil_enclave_image::pins::KeyspaceRule { prefix, key_arns, region, host } = rule;
        Self { prefix, key_arns, region, host }
    }
}

/// A register as 96 hex digits, in lower case when written.
fn to_hex(pcr: &Pcr) -> String {
    use std::fmt::Write;
    pcr.iter().fold(String::with_capacity(96), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex(text: &str) -> Option<Pcr> {
    let mut pcr = [0; 48];
    if text.len() != 96 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in pcr.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| char::from(digits[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(pcr)
}

mod hex_pcr {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use super::{Pcr, from_hex, to_hex};

    pub(super) fn serialize<S: Serializer>(pcr: &Pcr, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&to_hex(pcr))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Pcr, D::Error> {
        let text = String::deserialize(from)?;
        from_hex(&text).ok_or_else(|| de::Error::custom("expected 96 hex digits of a register"))
    }
}

mod hex_pcr_option {
    use serde::{Deserializer, Serializer};

    use super::{Pcr, hex_pcr, to_hex};

    #[allow(clippy::ref_option, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(
        pcr: &Option<Pcr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match pcr {
            Some(pcr) => serializer.serialize_str(&to_hex(pcr)),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Pcr>, D::Error> {
        hex_pcr::deserialize(from).map(Some)
    }
}
