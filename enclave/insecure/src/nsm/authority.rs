//! The test root and chains under it, in the shape of AWS': regional, zonal and instance
//! certificates, and a leaf of three hours that is not backdated.

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, SignatureAlgorithm, date_time_ymd,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use sigil_enclave::nsm::NsmError;

const ROOT_DER: &[u8] = include_bytes!("../../testdata/root.der");
const ROOT_KEY_DER: &[u8] = include_bytes!("../../testdata/root.key.der");
const ROOT_NAME: &str = "sigil-test-root-DO-NOT-USE";

const SECOND_MS: u64 = 1_000;
const DAY_MS: u64 = 24 * 3_600 * SECOND_MS;
/// 3 h 00 m 03 s, as AWS issues them.
const LEAF_LIFE_MS: u64 = (3 * 3_600 + 3) * SECOND_MS;

/// DER of the committed test root, for pins and trust settings.
pub fn test_root_der() -> &'static [u8] {
    ROOT_DER
}

/// A root and its key.
pub struct TestRoot {
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

/// When a certificate is valid, milliseconds since 1970; whole seconds count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First moment.
    pub not_before_ms: u64,
    /// Last moment.
    pub not_after_ms: u64,
}

/// What a document needs to be signed: certificates and the leaf's key.
pub struct Chain {
    /// Root, regional, zonal, instance; DER.
    pub cabundle: Vec<Vec<u8>>,
    /// The leaf; DER.
    pub certificate: Vec<u8>,
    /// When the leaf is valid.
    pub leaf_validity: Validity,
    key: EcdsaKeyPair,
}

impl Validity {
    /// A leaf of AWS' length that begins now.
    pub fn aws(now_ms: u64) -> Self {
        Self { not_before_ms: now_ms, not_after_ms: now_ms.saturating_add(LEAF_LIFE_MS) }
    }
}

impl TestRoot {
    /// The committed root.
    ///
    /// # Errors
    /// Its files are damaged.
    pub fn committed() -> Result<Self, NsmError> {
        let key = PrivatePkcs8KeyDer::from(ROOT_KEY_DER);
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P384_SHA384);
        let key = key.map_err(refused)?;
        Ok(Self { der: ROOT_DER.to_vec(), issuer: Issuer::new(root_params(0)?, key) })
    }

    /// Another root of the same name with a fresh key: documents under it must be refused.
    ///
    /// # Errors
    /// No key can be made.
    pub fn other(now_ms: u64) -> Result<Self, NsmError> {
        let params = root_params(now_ms)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).map_err(refused)?;
        let certificate = params.self_signed(&key).map_err(refused)?;
        Ok(Self { der: certificate.der().to_vec(), issuer: Issuer::new(params, key) })
    }

    /// DER of the certificate.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// A chain under this root with a leaf of this validity; the certificates between cover it.
    ///
    /// # Errors
    /// No certificate can be made.
    pub fn issue(&self, leaf: Validity) -> Result<Chain, NsmError> {
        self.issue_with(leaf, &PKCS_ECDSA_P384_SHA384)
    }

    /// Like [`TestRoot::issue`] with intermediate keys of another algorithm.
    ///
    /// # Errors
    /// No certificate can be made.
    pub fn issue_with(
        &self,
        leaf: Validity,
        algorithm: &'static SignatureAlgorithm,
    ) -> Result<Chain, NsmError> {
        let ca = |name: &str, path_length: u8, days: u64| {
            let validity = Validity {
                not_before_ms: leaf.not_before_ms.saturating_sub(DAY_MS / 2),
                not_after_ms: leaf.not_before_ms.saturating_add(days * DAY_MS),
            };
            let mut params = params(name, validity)?;
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            let key = KeyPair::generate_for(algorithm).map_err(refused)?;
            Ok((params, key))
        };
        let mut cabundle = vec![self.der.clone()];
        let (params, key) = ca("us-east-1.sigil-test", 2, 20)?;
        cabundle.push(params.signed_by(&key, &self.issuer).map_err(refused)?.der().to_vec());
        let regional = Issuer::new(params, key);
        let (params, key) = ca("zonal.us-east-1.sigil-test", 1, 6)?;
        cabundle.push(params.signed_by(&key, &regional).map_err(refused)?.der().to_vec());
        let zonal = Issuer::new(params, key);
        let (params, key) = ca("i-00000000000000000.us-east-1.sigil-test", 0, 1)?;
        cabundle.push(params.signed_by(&key, &zonal).map_err(refused)?.der().to_vec());
        let instance = Issuer::new(params, key);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).map_err(refused)?;
        let certificate = leaf_params(leaf)?.signed_by(&key, &instance).map_err(refused)?;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, key.serialized_der());
        Ok(Chain {
            cabundle,
            certificate: certificate.der().to_vec(),
            leaf_validity: leaf,
            key: key.map_err(refused)?,
        })
    }
}

impl Chain {
    /// ES384 by the leaf: r | s.
    ///
    /// # Errors
    /// No randomness.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, NsmError> {
        let signature = self.key.sign(&SystemRandom::new(), message).map_err(refused)?;
        Ok(signature.as_ref().to_vec())
    }
}

fn root_params(now_ms: u64) -> Result<CertificateParams, NsmError> {
    let years = Validity { not_before_ms: now_ms, not_after_ms: now_ms + 10 * 365 * DAY_MS };
    let mut params = params(ROOT_NAME, years)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn leaf_params(validity: Validity) -> Result<CertificateParams, NsmError> {
    let mut params = params("i-00000000000000000-enc0000000000000000.sigil-test", validity)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::ContentCommitment];
    Ok(params)
}

fn params(name: &str, validity: Validity) -> Result<CertificateParams, NsmError> {
    let mut params = CertificateParams::new(Vec::new()).map_err(refused)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    // X.509 counts whole seconds.
    let at = |ms: u64| date_time_ymd(1970, 1, 1) + Duration::from_secs(ms / SECOND_MS);
    params.not_before = at(validity.not_before_ms);
    params.not_after = at(validity.not_after_ms);
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

#[allow(clippy::needless_pass_by_value, reason = "fits map_err")]
fn refused(error: impl std::fmt::Display) -> NsmError {
    NsmError(format!("test authority: {error}"))
}
