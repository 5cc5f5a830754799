//! The TLS root of the test KMS and the certificates under it, the wrong ones included.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::HOST;
use crate::fault::FaultMode;
use crate::store::write;

const ROOT_FILE: &str = "tls-root.pem";
const ROOT_KEY_FILE: &str = "tls-root.key.pem";
const LEAF_FILE: &str = "tls.pem";
const LEAF_KEY_FILE: &str = "tls.key.pem";

type Result<T> = std::result::Result<T, PkiError>;

/// Certificates and their keys.
#[derive(Debug)]
pub struct Pki {
    root_pem: String,
    root_key: KeyPair,
    leaf_pem: String,
    leaf_key: KeyPair,
}

/// A certificate or key could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// While making one.
    #[error("certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// While using one.
    #[error("TLS: {0}")]
    Use(#[from] rustls::Error),
    /// While reading or writing a file.
    #[error(transparent)]
    File(#[from] io::Error),
    /// A file that is not PEM.
    #[error("PEM: {0}")]
    Pem(#[from] rustls_pki_types::pem::Error),
}

/// One configuration for each thing that a client can meet.
pub(crate) struct ServerConfigs {
    right: Arc<ServerConfig>,
    expired: Arc<ServerConfig>,
    wrong_name: Arc<ServerConfig>,
    other_root: Arc<ServerConfig>,
}

impl Pki {
    /// Makes a root, and a certificate for [`HOST`] under it.
    ///
    /// # Errors
    /// See [`PkiError`].
    pub fn generate() -> Result<Self> {
        let (root_key, leaf_key) = (KeyPair::generate()?, KeyPair::generate()?);
        let root_pem = root_params().self_signed(&root_key)?.pem();
        let issuer = Issuer::new(root_params(), &root_key);
        let leaf_pem = leaf_params(HOST, 2050)?.signed_by(&leaf_key, &issuer)?.pem();
        Ok(Self { root_pem, root_key, leaf_pem, leaf_key })
    }

    /// Writes the files that [`Self::open`] reads; gives their names.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<[&'static str; 4]> {
        write(&folder.join(ROOT_FILE), 0o644, self.root_pem.as_bytes())?;
        write(&folder.join(ROOT_KEY_FILE), 0o600, self.root_key.serialize_pem().as_bytes())?;
        write(&folder.join(LEAF_FILE), 0o644, self.leaf_pem.as_bytes())?;
        write(&folder.join(LEAF_KEY_FILE), 0o600, self.leaf_key.serialize_pem().as_bytes())?;
        Ok([ROOT_FILE, ROOT_KEY_FILE, LEAF_FILE, LEAF_KEY_FILE])
    }

    /// Reads a folder's files.
    ///
    /// # Errors
    /// A file is missing or malformed.
    pub fn open(folder: &Path) -> Result<Self> {
        let read = |name| fs::read_to_string(folder.join(name));
        Ok(Self {
            root_pem: read(ROOT_FILE)?,
            root_key: KeyPair::from_pem(&read(ROOT_KEY_FILE)?)?,
            leaf_pem: read(LEAF_FILE)?,
            leaf_key: KeyPair::from_pem(&read(LEAF_KEY_FILE)?)?,
        })
    }

    /// The root certificate, for pins.
    ///
    /// # Errors
    /// The file was not PEM.
    pub fn root_der(&self) -> Result<Vec<u8>> {
        Ok(CertificateDer::from_pem_slice(self.root_pem.as_bytes())?.to_vec())
    }

    pub(crate) fn server_configs(&self) -> Result<ServerConfigs> {
        let issuer = Issuer::new(root_params(), &self.root_key);
        let signed = |host, until_year, issuer| {
            let params = leaf_params(host, until_year)?;
            let certificate = params.signed_by(&self.leaf_key, issuer)?;
            self.server_config(certificate.der().clone())
        };
        let other_key = KeyPair::generate()?;
        let other_issuer = Issuer::new(root_params(), &other_key);
        Ok(ServerConfigs {
            right: self.server_config(CertificateDer::from_pem_slice(self.leaf_pem.as_bytes())?)?,
            expired: signed(HOST, 2020, &issuer)?,
            wrong_name: signed("kms.us-west-2.amazonaws.com", 2050, &issuer)?,
            other_root: signed(HOST, 2050, &other_issuer)?,
        })
    }

    fn server_config(&self, certificate: CertificateDer<'static>) -> Result<Arc<ServerConfig>> {
        let key = PrivatePkcs8KeyDer::from(self.leaf_key.serialize_der());
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(key))?;
        Ok(Arc::new(config))
    }
}

impl ServerConfigs {
    pub(crate) fn for_fault(&self, fault: FaultMode) -> Arc<ServerConfig> {
        Arc::clone(match fault {
            FaultMode::ExpiredCertificate => &self.expired,
            FaultMode::WrongName => &self.wrong_name,
            FaultMode::OtherRoot => &self.other_root,
            _ => &self.right,
        })
    }
}

fn root_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "devkms TLS root, tests only, DO NOT USE");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = date_time_ymd(2019, 1, 1);
    params.not_after = date_time_ymd(2050, 1, 1);
    params
}

fn leaf_params(host: &str, until_year: i32) -> Result<CertificateParams> {
    let mut params = CertificateParams::new([host.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, host);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = date_time_ymd(2019, 1, 1);
    params.not_after = date_time_ymd(until_year, 1, 1);
    Ok(params)
}
