//! `measurements.json`: what an image measures, for key policies, allow-lists and the operator.

use serde::{Deserialize, Serialize};

use crate::measure::{self, Pcr, ProcessPcrs};
use aws_lc_rs::digest::{SHA256, digest};
use sigil_enclave_image::pins::Pins;

use crate::eif::{Eif, EifError};
use crate::image;

/// Version of the file's format. Readers refuse other versions and fields that they do not know.
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
    #[serde(with = "hex")]
    pub pcr0: Pcr,
    /// Code.
    #[serde(with = "hex")]
    pub pcr1: Pcr,
    /// Pins.
    #[serde(with = "hex")]
    pub pcr2: Pcr,
    /// The fixed test role; process mode only, on Nitro the parent's role decides.
    #[serde(with = "hex_option", default, skip_serializing_if = "Option::is_none")]
    pub pcr3: Option<Pcr>,
    /// SHA-256 of the kernel, for telling whose code PCR1 stands for; image files only.
    #[serde(with = "hex_option", default, skip_serializing_if = "Option::is_none")]
    pub kernel_sha256: Option<[u8; 32]>,
    /// SHA-384 of `pins.cbor`.
    #[serde(with = "hex")]
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
            kernel_sha256: None,
            pins_sha384: measure::sha384(pins),
            insecure: decoded.insecure,
            kms: decoded.rules.into_iter().map(PinnedKms::from).collect(),
        })
    }

    /// Measures a pinned image file.
    ///
    /// # Errors
    /// It has no pins, or they cannot be used.
    pub fn of_eif(eif: &Eif<'_>) -> Result<Self, EifError> {
        let pins = image::pins_of(eif)?;
        let decoded = Pins::decode(pins)?;
        let [pcr0, pcr1, pcr2] = eif.measure();
        let mut kernel_sha256 = [0; 32];
        kernel_sha256.copy_from_slice(digest(&SHA256, eif.kernel).as_ref());
        Ok(Self {
            format_version: FORMAT_VERSION,
            kind: ImageKind::Eif,
            arch: eif.arch.name().to_owned(),
            app: decoded.app,
            pcr0,
            pcr1,
            pcr2,
            pcr3: None,
            kernel_sha256: Some(kernel_sha256),
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
        if read.kind == ImageKind::Eif && read.pcr3.is_some() {
            let problem = "pcr3: an image file has none; the parent's role decides it";
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

/// Hex digits, in lower case.
fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex<const BYTES: usize>(text: &str) -> Option<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    if text.len() != 2 * BYTES || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| char::from(digits[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(bytes)
}

/// Hashes as hex digits: a register has 96, SHA-256 has 64.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use super::{from_hex, to_hex};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&to_hex(bytes))
    }

    pub(super) fn deserialize<'de, D, const BYTES: usize>(from: D) -> Result<[u8; BYTES], D::Error>
    where
        D: Deserializer<'de>,
    {
        let text = String::deserialize(from)?;
        let want = || de::Error::custom(format!("expected {} hex digits of a hash", 2 * BYTES));
        from_hex(&text).ok_or_else(want)
    }
}

mod hex_option {
    use serde::{Deserializer, Serializer};

    use super::{hex, to_hex};

    #[allow(clippy::ref_option, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer, const BYTES: usize>(
        bytes: &Option<[u8; BYTES]>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => serializer.serialize_str(&to_hex(bytes)),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D, const BYTES: usize>(
        from: D,
    ) -> Result<Option<[u8; BYTES]>, D::Error>
    where
        D: Deserializer<'de>,
    {
        hex::deserialize(from).map(Some)
    }
}
