//! TLS to the pinned host, under the pinned roots, at the enclave's own time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The pinned certification authorities.
#[derive(Clone, Debug)]
pub struct TlsRoots(Arc<RootCertStore>);

/// The time of one exchange.
#[derive(Debug)]
struct At(UnixTime);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}

impl TlsRoots {
    /// Takes DER certificates. Nothing if there is none, or one is no certificate.
    pub fn new(certificates: &[Vec<u8>]) -> Option<Self> {
        let mut roots = RootCertStore::empty();
        for der in certificates {
            roots.add(CertificateDer::from_slice(der)).ok()?;
        }
        if roots.is_empty() { None } else { Some(Self(Arc::new(roots))) }
    }

    pub(super) async fn connect<S>(
        &self,
        stream: S,
        host: &str,
        now_unix_s: u64,
    ) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let config = self.config(now_unix_s).map_err(io::Error::other)?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// A configuration of its own for each connection, because the time is part of it.
    ///
    /// TLS 1.3 only: AWS supports and recommends it for KMS in all regions (KMS developer guide,
    /// "Infrastructure security"), and it leaves no renegotiation, session id or weak suite to
    /// reason about.
    fn config(&self, now_unix_s: u64) -> Result<ClientConfig, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now_unix_s));
        let mut config = ClientConfig::builder_with_details(provider, Arc::new(At(now)))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(Arc::clone(&self.0))
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        Ok(config)
    }
}
