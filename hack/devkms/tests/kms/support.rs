//! A test KMS, an NSM in software, and a client that signs with AWS's own code.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use devkms::policy::{Measured, attested_use};
use devkms::{
    BREAK_GLASS_ROLE, Credential, DATAPLANE_ROLE, FaultMode, HOST, REGION, TestKms, TestKmsOptions,
};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use sigil_enclave::kms_exchange::{
    AnswerError, AskedDek, ExactRequest, ExchangeError, OpenedDek, Operation, RecipientKey,
    SignatureHeaders, TlsRoots, exchange,
};
use sigil_enclave::names::Keyspace;
use sigil_enclave::nsm::{DocumentRequest, Nsm as _};
use sigil_enclave_image::pins::KeyspaceRule;
use sigil_enclave_insecure::nsm::{SoftwareNsm, system_clock, test_root_der};
use sigil_image_authoring::measure::{self, ProcessPcrs};
use tokio::net::TcpStream;

pub(crate) const APP: &str = "pay";

/// A test KMS whose policy allows one measured enclave.
pub(crate) struct Bench {
    pub(crate) kms: TestKms,
    pub(crate) recipient: RecipientKey,
    pub(crate) pcrs: ProcessPcrs,
}

/// Why an exchange gives no DEK.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Exchange(ExchangeError),
    Answer(AnswerError),
}

impl Failure {
    pub(crate) fn answer(self) -> AnswerError {
        match self {
            Self::Answer(error) => error,
            Self::Exchange(error) => panic!("there was no answer: {error:?}"),
        }
    }
}

impl Bench {
    pub(crate) fn start() -> Self {
        let attestation_root_der = test_root_der().to_vec();
        let kms = TestKms::start(TestKmsOptions { attestation_root_der, policy: None }).unwrap();
        let pcrs = measure::process(b"executable", b"pins");
        let bench = Self { kms, recipient: RecipientKey::generate().unwrap(), pcrs };
        bench.kms.put_policy(&policy(&bench.pcrs, &bench.kms.key_arn)).unwrap();
        bench
    }

    pub(crate) fn honest_again(&self) {
        self.kms.set_fault(FaultMode::Off).unwrap();
    }

    /// A fresh document of the allowed enclave, with its recipient key.
    pub(crate) fn document(&self) -> Vec<u8> {
        let nsm = SoftwareNsm::with_pcrs(self.pcrs, system_clock()).unwrap();
        let public_key = Some(self.recipient.spki_der());
        nsm.document(DocumentRequest { public_key, ..DocumentRequest::default() }).unwrap()
    }

    pub(crate) async fn generate(&self) -> Result<OpenedDek, Failure> {
        self.exchange(&Operation::GenerateDataKey).await
    }

    pub(crate) async fn decrypt(&self, wrapped: &[u8]) -> Result<OpenedDek, Failure> {
        self.exchange(&Operation::Decrypt { wrapped: wrapped.to_vec() }).await
    }

    /// As the enclave does it, with the sidecar's part between.
    pub(crate) async fn exchange(&self, operation: &Operation) -> Result<OpenedDek, Failure> {
        self.exchange_at(operation, unix_s(), self.kms.addr).await
    }

    pub(crate) async fn exchange_at(
        &self,
        operation: &Operation,
        now_unix_s: u64,
        addr: SocketAddr,
    ) -> Result<OpenedDek, Failure> {
        let key_arn = self.kms.key_arn.as_str();
        let rule = KeyspaceRule {
            prefix: String::new(),
            key_arns: vec![key_arn.to_owned()],
            region: REGION.to_owned(),
            host: HOST.to_owned(),
        };
        let keyspace = &Keyspace::parse("default").unwrap();
        let asked = AskedDek { rule: &rule, key_arn, app: APP, keyspace, dek_id: [7; 16] };
        let request = ExactRequest::new(&asked, operation, &self.document());
        let signed =
            signature(&self.kms.credentials(), request.target, &request.body, SystemTime::now());
        let header = |name: &str| signed.get(name).map_or("", String::as_str);
        let headers = SignatureHeaders::new(
            header("x-amz-date"),
            header("authorization"),
            header("x-amz-security-token"),
        );
        let tls = TlsRoots::new(std::slice::from_ref(&self.kms.tls_root_der)).unwrap();
        let stream = TcpStream::connect(addr).await.unwrap();
        let answer = exchange(stream, &tls, now_unix_s, &request, &headers.unwrap()).await;
        let opened =
            answer.map_err(Failure::Exchange)?.open(&self.recipient, operation, &self.kms.key_arn);
        opened.map_err(Failure::Answer)
    }

    /// As any AWS client: status and body.
    pub(crate) async fn call(
        &self,
        credential: &Credential,
        action: &str,
        body: &Value,
    ) -> (u16, Value) {
        let (addr, root) = (self.kms.addr, &self.kms.tls_root_der);
        call(addr, root, credential, action, body.to_string().as_bytes()).await
    }
}

/// The production-shaped policy for an enclave with these registers.
pub(crate) fn policy(pcrs: &ProcessPcrs, key_arn: &str) -> String {
    let measured: Measured = serde_json::from_value(measurements(pcrs, key_arn)).unwrap();
    attested_use(&[measured], None, key_arn, DATAPLANE_ROLE, BREAK_GLASS_ROLE).unwrap().to_json()
}

/// `measurements.json` of that enclave.
pub(crate) fn measurements(pcrs: &ProcessPcrs, key_arn: &str) -> Value {
    json!({
        "formatVersion": 1,
        "kind": "process",
        "app": APP,
        "pcr0": const_hex::encode(pcrs.pcr0),
        "pcr3": const_hex::encode(pcrs.pcr3),
        "kms": [{ "prefix": "", "keyArns": [key_arn], "region": REGION, "host": HOST }],
    })
}

pub(crate) fn context() -> BTreeMap<String, String> {
    let pairs = [("app", APP), ("dek_id", &"07".repeat(16)), ("keyspace", "default")];
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(crate) fn unix_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// The headers that AWS's own code adds.
pub(crate) fn signature(
    credential: &Credential,
    target: &str,
    body: &[u8],
    time: SystemTime,
) -> BTreeMap<String, String> {
    let token = Some(credential.session_token.clone()).filter(|token| !token.is_empty());
    let identity =
        Credentials::new(&credential.access_key, &credential.secret, token, None, "test").into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(REGION)
        .name("kms")
        .time(time)
        .settings(SigningSettings::default())
        .build()
        .unwrap()
        .into();
    let fixed =
        [("host", HOST), ("x-amz-target", target), ("content-type", "application/x-amz-json-1.1")];
    let uri = format!("https://{HOST}/");
    let signable =
        SignableRequest::new("POST", uri, fixed.into_iter(), SignableBody::Bytes(body)).unwrap();
    let (instructions, _) = sign(signable, &parameters).unwrap().into_parts();
    let added = instructions.headers();
    added.chain(fixed).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

pub(crate) async fn call(
    addr: SocketAddr,
    root: &[u8],
    credential: &Credential,
    action: &str,
    body: &[u8],
) -> (u16, Value) {
    let target = format!("TrentService.{action}");
    let mut request = http::Request::post("/");
    for (name, value) in signature(credential, &target, body, SystemTime::now()) {
        request = request.header(name, value);
    }
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_slice(root)).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(addr).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(ServerName::try_from(HOST).unwrap(), stream).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = request.body(Full::new(bytes::Bytes::copy_from_slice(body))).unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    connection.abort();
    (head.status.as_u16(), serde_json::from_slice(&body).unwrap_or(Value::Null))
}
