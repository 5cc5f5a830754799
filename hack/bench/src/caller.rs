//! The caller's side of an enclave: claims it, unlocks a DEK, makes keys, opens the signing stream.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sigil_enclave_client::connect::{claim, connect};
use sigil_enclave_protocol::handshake::{ClaimToken, Purpose};
use sigil_enclave_protocol::v1::enclave_client::EnclaveClient;
use sigil_enclave_protocol::v1::unlock_begin_request::What;
use sigil_enclave_protocol::v1::{
    ActivateRequest, CreateRequest, ErrorCode, GenerateDek, UnlockAuthorizeReply,
    UnlockBeginRequest,
};
use tokio::net::UnixStream;
use tonic::body::Body;

use crate::enclave::Enclave;
use crate::kms::KEYSPACE;

pub(crate) type Client = EnclaveClient<Http2>;

/// One HTTP/2 connection as tonic wants it.
#[derive(Clone)]
pub(crate) struct Http2(SendRequest<Body>);

impl Http2 {
    pub(crate) fn new(sender: SendRequest<Body>) -> Self {
        Self(sender)
    }
}

impl tower::Service<http::Request<Body>> for Http2 {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// A key that the enclave holds plain.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) id: Bytes,
    pub(crate) public_key: Bytes,
}

/// Who claimed the enclave.
pub(crate) struct Caller<'a> {
    enclave: &'a Enclave,
    token: ClaimToken,
    client: Client,
}

impl<'a> Caller<'a> {
    /// Claims the enclave and unlocks a DEK that seals.
    pub(crate) async fn claim(enclave: &'a Enclave) -> Result<Self> {
        let mut stream = UnixStream::connect(&enclave.socket).await.context("connect")?;
        let (_, token) = claim(&mut stream).await.context("claim")?;
        let client = open(enclave, &token).await?;
        let mut caller = Self { enclave, token, client };
        let generate = GenerateDek { keyspace: KEYSPACE.into(), kms_key_arn: String::new() };
        let generated = caller.exchange(What::Generate(generate)).await.context("generate")?;
        let row = generated.generated.context("no DEK was generated")?;
        let unlocked = caller.exchange(What::Row(row)).await.context("unlock")?;
        ensure!(unlocked.sealing, "the DEK does not seal");
        Ok(caller)
    }

    /// Another connection.
    pub(crate) async fn connect(&self) -> Result<Client> {
        open(self.enclave, &self.token).await
    }

    /// Makes and activates keys.
    pub(crate) async fn keys(&mut self, count: u32) -> Result<Vec<Key>> {
        let mut keys = Vec::new();
        for number in 0..count {
            let id = Bytes::copy_from_slice(&u128::from(number).to_be_bytes());
            let create = CreateRequest {
                keyspace: KEYSPACE.into(),
                key_id: id.clone(),
                ..CreateRequest::default()
            };
            let created = self.client.create(create).await?.into_inner();
            ensure!(created.error() == ErrorCode::Ok, "create: {:?}", created.error());
            let activate = ActivateRequest {
                keyspace: KEYSPACE.into(),
                key_id: id.clone(),
                blob: created.blob,
            };
            let activated = self.client.activate(activate).await?.into_inner();
            ensure!(activated.error() == ErrorCode::Ok, "activate: {:?}", activated.error());
            keys.push(Key { id, public_key: activated.public_key });
        }
        Ok(keys)
    }

    /// A whole exchange with the test KMS.
    async fn exchange(&mut self, what: What) -> Result<UnlockAuthorizeReply> {
        let current = matches!(what, What::Row(_));
        let request = UnlockBeginRequest { what: Some(what), current };
        let begun = self.client.unlock_begin(request).await?.into_inner();
        ensure!(begun.error() == ErrorCode::Ok, "begin: {:?}", begun.error());
        let mut tunnel = UnixStream::connect(&self.enclave.socket).await?;
        let purpose = Purpose::Tunnel(begun.unlock_id.as_ref().try_into()?);
        connect(&mut tunnel, purpose, &self.token).await.context("tunnel")?;
        let pipe = self.enclave.kms.pipe(tunnel).await?;
        let request = begun.request.as_ref().context("no KMS request")?;
        let authorize = self.enclave.kms.authorize(request, begun.unlock_id.clone())?;
        let reply = self.client.unlock_authorize(authorize).await?.into_inner();
        pipe.abort();
        ensure!(reply.error() == ErrorCode::Ok, "authorize: {:?}", reply.error());
        Ok(reply)
    }
}

async fn open(enclave: &Enclave, token: &ClaimToken) -> Result<Client> {
    let mut stream = UnixStream::connect(&enclave.socket).await.context("connect")?;
    connect(&mut stream, Purpose::Rpc, token).await.context("handshake")?;
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let origin = http::Uri::from_static("http://enclave");
    Ok(EnclaveClient::with_origin(Http2(sender), origin))
}
