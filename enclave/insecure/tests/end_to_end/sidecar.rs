//! What the sidecar does with an enclave, reduced to what the tests need: claim, connect, sign KMS
//! requests with SigV4, pipe the tunnel. It is the part that an attacker would own.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sigil_enclave_client::connect::{HandshakeError, claim, connect};
use sigil_enclave_protocol::handshake::{ClaimToken, Purpose};
use sigil_enclave_protocol::v1::enclave_client::EnclaveClient;
use sigil_enclave_protocol::v1::unlock_begin_request::What;
use sigil_enclave_protocol::v1::{
    CreateReply, CreateRequest, DekRow, ErrorCode, GenerateDek, KmsRequest, SignBatch,
    SignBatchResult, SignItem, SignResult, UnlockAuthorizeReply, UnlockAuthorizeRequest,
    UnlockBeginReply, UnlockBeginRequest,
};
use tokio::net::UnixStream;
use tonic::body::Body;

use crate::bench::Bench;
use crate::kms::Kms;

pub(crate) type Client = EnclaveClient<Http2>;

/// One HTTP/2 connection as tonic wants it.
#[derive(Clone)]
pub(crate) struct Http2(pub(crate) SendRequest<Body>);

impl tower::Service<http::Request<Body>> for Http2 {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// The claimant of an enclave.
pub(crate) struct Sidecar<'a> {
    pub(crate) bench: &'a Bench,
    pub(crate) token: ClaimToken,
    pub(crate) client: Client,
}

impl<'a> Sidecar<'a> {
    /// Claims the enclave and connects.
    pub(crate) async fn claim(bench: &'a Bench) -> Self {
        let (_, token) = claim(&mut bench.connect().await).await.unwrap();
        let client = Self::client(bench, &token).await.unwrap();
        Self { bench, token, client }
    }

    /// Claims the enclave, whose key 1 is cached then and has signed.
    pub(crate) async fn with_key(bench: &'a Bench) -> Self {
        let mut sidecar = Self::claim(bench).await;
        sidecar.seal_with_new_dek("default").await;
        let blob = sidecar.create("default", 1).await.blob;
        let signed = sidecar.sign(item("default", 1, &[7; 32], &blob)).await;
        assert_eq!(signed.error(), ErrorCode::Ok);
        sidecar
    }

    /// A connection for calls.
    pub(crate) async fn client(
        bench: &Bench,
        token: &ClaimToken,
    ) -> Result<Client, HandshakeError> {
        let mut stream = bench.connect().await;
        connect(&mut stream, Purpose::Rpc, token).await?;
        Ok(client_over(stream).await)
    }

    pub(crate) async fn tunnel(&self, id: &[u8]) -> Result<UnixStream, HandshakeError> {
        let mut stream = self.bench.connect().await;
        connect(&mut stream, Purpose::Tunnel(id.try_into().unwrap()), &self.token).await?;
        Ok(stream)
    }

    pub(crate) async fn begin(&mut self, request: UnlockBeginRequest) -> UnlockBeginReply {
        self.client.unlock_begin(request).await.unwrap().into_inner()
    }

    pub(crate) async fn authorize(&mut self, begun: &UnlockBeginReply) -> UnlockAuthorizeReply {
        let request = begun.request.as_ref().unwrap();
        let signed = sign_request(request, &begun.unlock_id, &self.bench.kms);
        self.client.unlock_authorize(signed).await.unwrap().into_inner()
    }

    /// A whole exchange with the test KMS.
    pub(crate) async fn exchange(&mut self, request: UnlockBeginRequest) -> UnlockAuthorizeReply {
        let begun = self.begin(request).await;
        assert_eq!(begun.error(), ErrorCode::Ok);
        let tunnel = self.tunnel(&begun.unlock_id).await.unwrap();
        let pipe = self.bench.kms.pipe(tunnel).await;
        let reply = self.authorize(&begun).await;
        pipe.abort();
        reply
    }

    /// A new DEK's row, as it would be stored.
    pub(crate) async fn generate(&mut self, keyspace: &str) -> DekRow {
        let reply = self.exchange(generate(keyspace)).await;
        assert_eq!(reply.error(), ErrorCode::Ok);
        reply.generated.unwrap()
    }

    /// Unlocks a row that `current` names.
    pub(crate) async fn unlock(&mut self, row: &DekRow) -> UnlockAuthorizeReply {
        self.exchange(unlock(row, true)).await
    }

    /// Generates and unlocks a sealing DEK.
    pub(crate) async fn seal_with_new_dek(&mut self, keyspace: &str) -> DekRow {
        let row = self.generate(keyspace).await;
        let reply = self.unlock(&row).await;
        assert!(reply.error() == ErrorCode::Ok && reply.sealing, "{reply:?}");
        row
    }

    pub(crate) async fn create(&mut self, keyspace: &str, key_id: u8) -> CreateReply {
        let key_id = Bytes::copy_from_slice(&[key_id; 16]);
        let request = CreateRequest {
            keyspace: keyspace.into(),
            key_id,
            challenge: Bytes::from_static(b"challenge"),
            policy: Bytes::new(),
        };
        self.client.create(request).await.unwrap().into_inner()
    }

    /// One batch on a stream of its own.
    pub(crate) async fn sign_batch(&mut self, items: Vec<SignItem>) -> SignBatchResult {
        let batches = tokio_stream::iter([SignBatch { items }]);
        let mut results = self.client.sign(batches).await.unwrap().into_inner();
        results.message().await.unwrap().unwrap()
    }

    pub(crate) async fn sign(&mut self, item: SignItem) -> SignResult {
        self.sign_batch(vec![item]).await.results.remove(0)
    }
}

/// Calls over an accepted connection.
pub(crate) async fn client_over(stream: UnixStream) -> Client {
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    EnclaveClient::with_origin(Http2(sender), http::Uri::from_static("http://enclave"))
}

pub(crate) fn item(keyspace: &str, key_id: u8, digest: &[u8], blob: &[u8]) -> SignItem {
    SignItem {
        tag: 7,
        keyspace: keyspace.into(),
        key_id: Bytes::copy_from_slice(&[key_id; 16]),
        digest: Bytes::copy_from_slice(digest),
        blob: Bytes::copy_from_slice(blob),
        authorization: Bytes::new(),
    }
}

pub(crate) fn generate(keyspace: &str) -> UnlockBeginRequest {
    let generate = GenerateDek { keyspace: keyspace.into(), kms_key_arn: String::new() };
    UnlockBeginRequest { what: Some(What::Generate(generate)), current: false }
}

pub(crate) fn unlock(row: &DekRow, current: bool) -> UnlockBeginRequest {
    UnlockBeginRequest { what: Some(What::Row(row.clone())), current }
}

/// Signs a request as AWS's own library does.
pub(crate) fn sign_request(
    request: &KmsRequest,
    unlock_id: &[u8],
    kms: &Kms,
) -> UnlockAuthorizeRequest {
    let (key, secret, token) = kms.credential();
    let identity = Credentials::new(key, secret, token.clone(), None, "test").into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(&request.region)
        .name("kms")
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()
        .unwrap()
        .into();
    let uri = format!("https://{}/", request.host);
    let headers =
        [("content-type", request.content_type.as_str()), ("x-amz-target", &request.target)];
    let body = SignableBody::Bytes(&request.body);
    let signable = SignableRequest::new("POST", uri, headers.into_iter(), body).unwrap();
    let (instructions, _) = sign(signable, &params).unwrap().into_parts();
    let header = |wanted: &str| {
        let mut headers = instructions.headers().filter(|(name, _)| *name == wanted);
        headers.next().map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    UnlockAuthorizeRequest {
        unlock_id: Bytes::copy_from_slice(unlock_id),
        amz_date: header("x-amz-date"),
        authorization: header("authorization"),
        security_token: header("x-amz-security-token"),
    }
}
