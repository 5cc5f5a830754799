//! Where AWS credentials come from: the usual chain (environment, profile, web identity, container).

use aws_config::BehaviorVersion;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::config::TimeoutConfig;

/// Finds the provider of this environment. Only credentials come from it: endpoint settings of the
/// environment have no say in where KMS is.
pub(super) async fn provider(
    region: &str,
    times: &TimeoutConfig,
) -> Option<SharedCredentialsProvider> {
    // No proxy is ever asked: the client has none unless it is given one, so credentials of a link-local
    // address come from there and nowhere else.
    // Images hold one binary and no certificates, so the roots for STS are compiled in.
    let tls = match TlsContext::builder()
        .with_trust_store(TrustStore::empty().with_pem_certificate(public_roots()))
        .build()
    {
        Ok(tls) => tls,
        Err(error) => {
            tracing::error!(%error, "no AWS credentials: TLS cannot be set up");
            return None;
        }
    };
    let client = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(tls)
        .pool_idle_timeout(times.idle())
        .build_https();
    let mut limits = aws_config::timeout::TimeoutConfig::builder().connect_timeout(times.dial());
    limits.set_read_timeout(times.response_header());
    let limits = limits.build();
    let shared = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .region(aws_config::Region::new(region.to_owned()))
        .http_client(client)
        .timeout_config(limits)
        .load()
        .await;
    shared.credentials_provider()
}

/// Mozilla's roots as one PEM text, the form that the client takes.
fn public_roots() -> String {
    webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().fold(String::new(), |pem, root| {
        let body = STANDARD.encode(root.as_ref());
        format!("{pem}-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    })
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;

    use super::*;

    #[tokio::test]
    async fn the_chain_needs_no_certificates_of_the_system() {
        let pem = public_roots();
        let readable = CertificateDer::pem_slice_iter(pem.as_bytes()).flatten();
        assert_eq!(readable.count(), webpki_root_certs::TLS_SERVER_ROOT_CERTS.len());
        assert!(provider("us-east-1", &TimeoutConfig::default()).await.is_some());
    }
}
