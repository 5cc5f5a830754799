//! The test KMS and the caller's part of an exchange with it.

use std::time::SystemTime;

use anyhow::{Context, Result};
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use devkms::policy::attested_use;
use devkms::{BREAK_GLASS_ROLE, DATAPLANE_ROLE, TestKms, TestKmsOptions};
use sigil_enclave_image::Pins;
use sigil_enclave_image::pins::{Ceilings, KeyspaceRule, VerifyMode};
use sigil_enclave_insecure::nsm::test_root_der;
use sigil_enclave_protocol::v1::{KmsRequest, UnlockAuthorizeRequest};
use sigil_image_authoring::measure::process;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

use crate::child::EXECUTABLE;

const APP: &str = "bench";
/// The keyspace of every key here.
pub(crate) const KEYSPACE: &str = "default";

/// A test KMS whose policy allows the measured enclave, and the pins of that enclave.
pub(crate) struct Kms {
    pub(crate) inner: TestKms,
    pub(crate) pins: Vec<u8>,
}

impl Kms {
    pub(crate) fn start(verify_mode: VerifyMode) -> Result<Self> {
        let attestation_root_der = test_root_der().to_vec();
        let inner = TestKms::start(TestKmsOptions { attestation_root_der, policy: None })?;
        let pins = pins(&inner, verify_mode).encode()?;
        let pcrs = process(EXECUTABLE, &pins);
        let measured = serde_json::from_value(serde_json::json!({
            "formatVersion": 1,
            "app": APP,
            "pcr0": const_hex::encode(pcrs.pcr0),
            "pcr3": const_hex::encode(pcrs.pcr3),
            "kms": [{ "keyArns": [inner.key_arn] }],
        }))?;
        let policy =
            attested_use(&[measured], None, &inner.key_arn, DATAPLANE_ROLE, BREAK_GLASS_ROLE)?;
        inner.put_policy(&serde_json::to_string(&policy)?)?;
        Ok(Self { inner, pins })
    }

    /// Copies bytes between a tunnel and the KMS until both ends are done.
    pub(crate) async fn pipe(&self, mut tunnel: UnixStream) -> Result<JoinHandle<()>> {
        let mut kms = TcpStream::connect(self.inner.addr).await.context("connect to the KMS")?;
        Ok(tokio::spawn(async move {
            // The exchange itself says whether it went well.
            let _ = tokio::io::copy_bidirectional(&mut tunnel, &mut kms).await;
        }))
    }

    /// Signs a request of the enclave as AWS's own library does.
    pub(crate) fn authorize(
        &self,
        request: &KmsRequest,
        unlock_id: Bytes,
    ) -> Result<UnlockAuthorizeRequest> {
        let known = self.inner.credentials();
        let token = Some(known.session_token);
        let identity =
            Credentials::new(known.access_key, known.secret, token, None, "bench").into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&request.region)
            .name("kms")
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()?
            .into();
        let uri = format!("https://{}/", request.host);
        let headers =
            [("content-type", request.content_type.as_str()), ("x-amz-target", &request.target)];
        let body = SignableBody::Bytes(&request.body);
        let signable = SignableRequest::new("POST", uri, headers.into_iter(), body)?;
        let (instructions, _) = sign(signable, &params)?.into_parts();
        let header = |wanted: &str| {
            let mut headers = instructions.headers().filter(|(name, _)| *name == wanted);
            headers.next().map(|(_, value)| value.to_owned()).unwrap_or_default()
        };
        Ok(UnlockAuthorizeRequest {
            unlock_id,
            amz_date: header("x-amz-date"),
            authorization: header("authorization"),
            security_token: header("x-amz-security-token"),
        })
    }
}

fn pins(kms: &TestKms, verify_mode: VerifyMode) -> Pins {
    let rule = KeyspaceRule {
        prefix: KEYSPACE.into(),
        key_arns: vec![kms.key_arn.clone()],
        region: devkms::REGION.into(),
        host: devkms::HOST.into(),
    };
    Pins {
        app: APP.into(),
        rules: vec![rule],
        tls_roots: vec![kms.tls_root_der.clone()],
        attestation_root: test_root_der().to_vec(),
        verify_mode,
        ceilings: Ceilings::default(),
        parent_cid: 3,
        insecure: true,
    }
}
