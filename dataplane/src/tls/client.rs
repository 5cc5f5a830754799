//! The client's side of TLS, towards other members: our certificate for them to see, and an authority
//! that issued theirs.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs as provider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use super::{TlsError, certificates, read};

/// What a member speaks inside.
const PROTOCOL: &[u8] = b"h2";

/// Settings of one connection, made of what the files hold now.
pub(crate) fn client(
    certificate: &Path,
    key: &Path,
    authorities: &Path,
) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(authorities, &read(authorities)?)? {
        roots.add(authority)?;
    }
    let chain = certificates(certificate, &read(certificate)?)?;
    let private = PrivateKeyDer::from_pem_slice(&read(key)?)
        .map_err(|error| TlsError::Pem { path: key.to_owned(), error })?;
    let builder = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let mut config = builder.with_root_certificates(roots).with_client_auth_cert(chain, private)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // Each connection shows the certificate of its own time.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}
