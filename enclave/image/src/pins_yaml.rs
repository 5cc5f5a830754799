//! `pins.yaml`: the pins as a person writes them, roots as paths of PEM files.
//!
//! ```yaml
//! app: payments
//! keyspaces:
//!   - prefix: ""
//!     keyArns: ["arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"]
//!     region: us-east-1
//!     host: kms.us-east-1.amazonaws.com
//! tlsRoots: [amazon-roots.pem]
//! attestationRoot: aws-nitro-enclaves-root-g1.pem
//! ```

use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use crate::pins::{Ceilings, KeyspaceRule, Pins, PinsError, VerifyMode};

/// Bytes of `pins.yaml`: it holds paths, not certificates.
pub const PINS_YAML_BYTES_MAX: u64 = 256 * 1024;

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PinsFile {
    /// Name of the deployment.
    pub app: String,
    /// Which KMS keys protect which keyspaces.
    pub keyspaces: Vec<KeyspaceRuleFile>,
    /// PEM files with the roots that TLS to KMS trusts; each may hold several.
    pub tls_roots: Vec<PathBuf>,
    /// PEM file with the one root of attestation documents.
    pub attestation_root: PathBuf,
    /// How signatures are checked before they leave.
    #[serde(default)]
    pub verify_mode: VerifyModeFile,
    /// What settings at run time may not exceed.
    #[serde(default)]
    pub ceilings: CeilingsFile,
    /// vsock CID of the parent.
    #[serde(default = "nitro_parent_cid")]
    pub parent_cid: u32,
    /// Development.
    #[serde(default)]
    pub insecure: bool,
}

/// See [`KeyspaceRule`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyspaceRuleFile {
    /// Beginning of keyspace names; the empty one matches all.
    pub prefix: String,
    /// KMS key ARNs, the one that makes new DEKs first.
    pub key_arns: Vec<String>,
    /// Region of the keys.
    pub region: String,
    /// Host of the KMS endpoint.
    pub host: String,
}

/// See [`VerifyMode`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum VerifyModeFile {
    /// `batchSample`, the default.
    #[default]
    BatchSample,
    /// `full`.
    Full,
}

/// See [`Ceilings`]; what is not written has its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CeilingsFile {
    /// Default 900.
    pub key_soft_seconds: u32,
    /// Default 960.
    pub key_hard_seconds: u32,
    /// Default 1,000,000.
    pub key_uses: u64,
    /// Default 3,300.
    pub dek_soft_seconds: u32,
    /// Default 3,600.
    pub dek_hard_seconds: u32,
}

/// Why the file is refused.
#[derive(Debug, thiserror::Error)]
pub enum PinsFileError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Longer than [`PINS_YAML_BYTES_MAX`].
    #[error("{0}: longer than {PINS_YAML_BYTES_MAX} bytes")]
    TooLarge(PathBuf),
    /// Not YAML of the right shape; the text names field and line.
    #[error("pins.yaml: {0}")]
    Yaml(#[from] serde_yaml_ng::Error),
    /// A root's file holds something else.
    #[error("pins.yaml: {field}: {path}: {problem}")]
    Pem {
        /// Which field names it.
        field: &'static str,
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A value that may not be.
    #[error(transparent)]
    Pins(#[from] PinsError),
}

impl PinsFile {
    /// Reads `pins.yaml` and the PEM files it names, relative to its own folder.
    ///
    /// # Errors
    /// See [`PinsFileError`].
    pub fn load(path: &Path) -> Result<Pins, PinsFileError> {
        let read = |source| PinsFileError::Read { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(read)?.len() > PINS_YAML_BYTES_MAX {
            return Err(PinsFileError::TooLarge(path.to_owned()));
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Self::parse(&text)?.into_pins(folder)
    }

    /// Reads the text alone.
    ///
    /// # Errors
    /// [`PinsFileError::Yaml`].
    pub fn parse(text: &str) -> Result<Self, PinsFileError> {
        Ok(serde_yaml_ng::from_str(text)?)
    }

    /// The text.
    ///
    /// # Errors
    /// [`PinsFileError::Yaml`].
    pub fn to_yaml(&self) -> Result<String, PinsFileError> {
        Ok(serde_yaml_ng::to_string(self)?)
    }

    /// Reads the PEM files, relative to `folder`, and checks every value.
    ///
    /// # Errors
    /// See [`PinsFileError`].
    pub fn into_pins(self, folder: &Path) -> Result<Pins, PinsFileError> {
        let mut tls_roots = Vec::new();
        for path in &self.tls_roots {
            tls_roots.extend(certificates("tlsRoots", &folder.join(path))?);
        }
        let path = folder.join(&self.attestation_root);
        let mut roots = certificates("attestationRoot", &path)?;
        let (Some(attestation_root), true) = (roots.pop(), roots.is_empty()) else {
            let problem = "must hold one certificate, not several".to_owned();
            return Err(PinsFileError::Pem { field: "attestationRoot", path, problem });
        };
        let pins = Pins {
            app: self.app,
            keyspaces: self.keyspaces.into_iter().map(KeyspaceRule::from).collect(),
            tls_roots,
            attestation_root,
            verify_mode: self.verify_mode.into(),
            ceilings: self.ceilings.into(),
            parent_cid: self.parent_cid,
            insecure: self.insecure,
        };
        pins.check()?;
        Ok(pins)
    }
}

fn certificates(field: &'static str, path: &Path) -> Result<Vec<Vec<u8>>, PinsFileError> {
    let read = |source| PinsFileError::Read { path: path.to_owned(), source };
    let pem = std::fs::read(path).map_err(read)?;
    let bad = |problem: String| PinsFileError::Pem { field, path: path.to_owned(), problem };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|error| bad(error.to_string()))?;
    if found.is_empty() {
        return Err(bad("holds no certificate in PEM".to_owned()));
    }
    Ok(found.into_iter().map(|certificate| certificate.to_vec()).collect())
}

fn nitro_parent_cid() -> u32 {
    3
}

impl Default for CeilingsFile {
    fn default() -> Self {
        let Ceilings { key_soft_s, key_hard_s, key_uses, dek_soft_s, dek_hard_s } =
            Ceilings::default();
        Self {
            key_soft_seconds: key_soft_s,
            key_hard_seconds: key_hard_s,
            key_uses,
            dek_soft_seconds: dek_soft_s,
            dek_hard_seconds: dek_hard_s,
        }
    }
}

impl From<CeilingsFile> for Ceilings {
    fn from(file: CeilingsFile) -> Self {
        Self {
            key_soft_s: file.key_soft_seconds,
            key_hard_s: file.key_hard_seconds,
            key_uses: file.key_uses,
            dek_soft_s: file.dek_soft_seconds,
            dek_hard_s: file.dek_hard_seconds,
        }
    }
}

impl From<VerifyModeFile> for VerifyMode {
    fn from(file: VerifyModeFile) -> Self {
        match file {
            VerifyModeFile::BatchSample => Self::BatchSample,
            VerifyModeFile::Full => Self::Full,
        }
    }
}

impl From<KeyspaceRuleFile> for KeyspaceRule {
    fn from(file: KeyspaceRuleFile) -> Self {
        let KeyspaceRuleFile { prefix, key_arns, region, host } = file;
        Self { prefix, key_arns, region, host }
    }
}
