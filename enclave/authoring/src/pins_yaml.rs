//! `pins.yaml`: pins as a person writes them. Certificates are files (PEM or DER); what is left out
//! takes the baseline.

use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;

use sigil_enclave_image::pins::{Ceilings, KeyspaceRule, Pins, PinsError, VerifyMode};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PinsFile {
    app: String,
    keyspaces: Vec<RuleFile>,
    tls_roots: Vec<PathBuf>,
    attestation_root: PathBuf,
    #[serde(default)]
    verify_mode: VerifyModeFile,
    #[serde(default)]
    ceilings: CeilingsFile,
    parent_cid: u32,
    insecure: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RuleFile {
    prefix: String,
    kms_key_arns: Vec<String>,
    region: String,
    host: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
enum VerifyModeFile {
    #[default]
    BatchSample,
    Full,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CeilingsFile {
    key_soft_seconds: Option<u32>,
    key_hard_seconds: Option<u32>,
    key_uses: Option<u32>,
    dek_soft_seconds: Option<u32>,
    dek_hard_seconds: Option<u32>,
}

/// Reads `pins.yaml`. Relative paths start at the file's folder.
///
/// # Errors
/// The file or a certificate cannot be read, or a field is unknown or breaks its rule.
pub fn read(path: &Path) -> Result<Pins, PinsError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| PinsError::new("pins.yaml", format!("{}: {error}", path.display())))?;
    let file: PinsFile = serde_yaml_ng::from_str(&text)
        .map_err(|error| PinsError::new("pins.yaml", format!("{}: {error}", path.display())))?;
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let pins = Pins {
        app: file.app,
        rules: file.keyspaces.into_iter().map(KeyspaceRule::from).collect(),
        tls_roots: file
            .tls_roots
            .iter()
            .map(|path| certificate("tlsRoots", &folder.join(path)))
            .collect::<Result<_, _>>()?,
        attestation_root: certificate("attestationRoot", &folder.join(&file.attestation_root))?,
        verify_mode: match file.verify_mode {
            VerifyModeFile::BatchSample => VerifyMode::BatchSample,
            VerifyModeFile::Full => VerifyMode::Full,
        },
        ceilings: file.ceilings.into(),
        parent_cid: file.parent_cid,
        insecure: file.insecure,
    };
    pins.check()?;
    Ok(pins)
}

/// One certificate, PEM or DER.
fn certificate(field: &'static str, path: &Path) -> Result<Vec<u8>, PinsError> {
    let error = |problem: String| PinsError::new(field, format!("{}: {problem}", path.display()));
    let bytes = std::fs::read(path).map_err(|problem| error(problem.to_string()))?;
    if !bytes.starts_with(b"-----BEGIN") {
        return Ok(bytes);
    }
    let mut certificates = CertificateDer::pem_slice_iter(&bytes);
    match (certificates.next(), certificates.next()) {
        (Some(Ok(one)), None) => Ok(one.to_vec()),
        _ => Err(error("expected exactly one certificate".to_owned())),
    }
}

impl From<RuleFile> for KeyspaceRule {
    fn from(file: RuleFile) -> Self {
        let RuleFile { prefix, kms_key_arns, region, host } = file;
        Self { prefix, key_arns: kms_key_arns, region, host }
    }
}

impl From<CeilingsFile> for Ceilings {
    fn from(file: CeilingsFile) -> Self {
        let base = Self::default();
        Self {
            key_soft_s: file.key_soft_seconds.unwrap_or(base.key_soft_s),
            key_hard_s: file.key_hard_seconds.unwrap_or(base.key_hard_s),
            key_uses: file.key_uses.unwrap_or(base.key_uses),
            dek_soft_s: file.dek_soft_seconds.unwrap_or(base.dek_soft_s),
            dek_hard_s: file.dek_hard_seconds.unwrap_or(base.dek_hard_s),
        }
    }
}
