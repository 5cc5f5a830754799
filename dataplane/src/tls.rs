//! TLS of the public listener. Certificates are files that may change while we serve: new connections
//! get the new ones, open connections keep theirs, and files that are broken change nothing.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use zeroize::Zeroizing;

use crate::config::{self, ClientCertificates};

mod client;
mod reload;

pub(crate) use client::client;

/// Bytes of one file; chains and bundles of authorities are some tens of KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// What we speak inside, the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The files that TLS is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Files {
    certificate: PathBuf,
    key: PathBuf,
    /// Authorities of clients, and whether every client must show a certificate.
    clients: Option<(PathBuf, bool)>,
}

/// What the files held at one moment. One of them is a key, so they are erased.
struct Contents {
    certificate: Zeroizing<Vec<u8>>,
    key: Zeroizing<Vec<u8>>,
    clients: Option<Zeroizing<Vec<u8>>>,
}

/// Tells one version of the files from another.
type Version = [u8; 32];

/// Files that no listener can be made of.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("{}: {error}", .path.display())]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{}: longer than {FILE_BYTES_MAX} bytes", .0.display())]
    TooLong(PathBuf),
    #[error("{}: {error}; expected PEM", .path.display())]
    Pem { path: PathBuf, error: pem::Error },
    #[error("{}: holds no certificate", .0.display())]
    Empty(PathBuf),
    #[error("certificate and key: {0}")]
    Rejected(#[from] rustls::Error),
    #[error("client authorities: {0}")]
    Authorities(#[from] VerifierBuilderError),
}

/// What connections of one moment are made with.
struct Loaded {
    config: Arc<ServerConfig>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// SHA-256 of the own certificate.
    fingerprint: [u8; 32],
    version: Version,
}

/// The listener's side of TLS.
pub(crate) struct Tls {
    files: Files,
    current: ArcSwap<Loaded>,
}

// === impl Files ===

impl Files {
    /// What the settings name; nothing without TLS.
    pub(crate) fn of(settings: &config::Tls) -> Option<Self> {
        let settings = settings.clone();
        let required = settings.client_certificates == ClientCertificates::Required;
        Some(Self {
            certificate: settings.certificate_file?,
            key: settings.key_file?,
            clients: settings.client_ca_file.map(|file| (file, required)),
        })
    }

    fn read(&self) -> Result<Contents, TlsError> {
        Ok(Contents {
            certificate: read(&self.certificate)?,
            key: read(&self.key)?,
            clients: self.clients.as_ref().map(|(path, _)| read(path)).transpose()?,
        })
    }

    /// A listener's settings, made of what the files held.
    fn load(&self, contents: &Contents) -> Result<Loaded, TlsError> {
        let provider = Arc::new(provider::default_provider());
        let chain = certificates(&self.certificate, &contents.certificate)?;
        let fingerprint = chain.first().map(|own| sha256(own)).unwrap_or_default();
        let key = PrivateKeyDer::from_pem_slice(&contents.key)
            .map_err(|error| TlsError::Pem { path: self.key.clone(), error })?;
        let verifier = match (&self.clients, &contents.clients) {
            (Some((path, required)), Some(bytes)) => {
                let roots = certificates(path, bytes)?;
                Some(verifier(roots, *required, Arc::clone(&provider))?)
            }
            _ => None,
        };
        // Applications that sign are recent, as KMS is (decision 3): nothing older than TLS 1.3.
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?;
        let builder = match verifier.clone() {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(verifier),
        };
        let mut config = builder.with_single_cert(chain, key)?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        // Connections last for hours, so resumption saves nothing; and with it a client would come in
        // by a certificate that was checked long ago.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let version = contents.version();
        Ok(Loaded { config: Arc::new(config), verifier, fingerprint, version })
    }
}

// === impl Contents ===

impl Contents {
    fn version(&self) -> Version {
        let files = [Some(&self.certificate), Some(&self.key), self.clients.as_ref()];
        let parts: Vec<Version> = files.into_iter().flatten().map(|bytes| sha256(bytes)).collect();
        sha256(&parts.concat())
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

fn verifier(
    authorities: Vec<CertificateDer<'static>>,
    required: bool,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in authorities {
        roots.add(certificate)?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if required { builder } else { builder.allow_unauthenticated() };
    Ok(builder.build()?)
}

fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let found = found.map_err(|error| TlsError::Pem { path: path.to_owned(), error })?;
    if found.is_empty() { Err(TlsError::Empty(path.to_owned())) } else { Ok(found) }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let named = |error| TlsError::Read { path: path.to_owned(), error };
    let file = File::open(path).map_err(named)?;
    // Room for all of it at once: a buffer that grows would leave parts of a key behind.
    let length = file.metadata().map_err(named)?.len().min(FILE_BYTES_MAX);
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1));
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(named)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(TlsError::TooLong(path.to_owned()));
    }
    Ok(bytes)
}

// === impl Tls ===

impl Tls {
    /// TLS of files that can be used.
    pub(crate) fn load(files: Files) -> Result<Self, TlsError> {
        let current = ArcSwap::from_pointee(files.load(&files.read()?)?);
        Ok(Self { files, current })
    }

    /// The server's side of one connection, with the certificates of this moment.
    pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> std::io::Result<TlsStream<S>> {
        let config = Arc::clone(&self.current.load().config);
        TlsAcceptor::from(config).accept(stream).await
    }

    /// Whether a client that comes with this chain now would be let in.
    pub(crate) fn admits(&self, chain: &[CertificateDer<'static>]) -> bool {
        let current = self.current.load();
        match (&current.verifier, chain.split_first()) {
            (Some(verifier), Some((own, others))) => {
                verifier.verify_client_cert(own, others, UnixTime::now()).is_ok()
            }
            (Some(verifier), None) => !verifier.client_auth_mandatory(),
            (None, _) => true,
        }
    }

    /// SHA-256 of the certificate in use, as hex.
    pub(crate) fn fingerprint(&self) -> String {
        const_hex::encode(self.current.load().fingerprint)
    }
}

#[cfg(test)]
pub(crate) mod tests;
