//! HTTP and gRPC over a unix socket, as applications speak them.

mod gather;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use sigil_dataplane::v1::signer_service_client::SignerServiceClient;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

pub(crate) use gather::gathered;

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("not JSON: {}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn text(&self, field: &str) -> String {
        self.json()[field].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Sends one request on a connection of its own; fails if the process is gone.
pub(crate) async fn send(socket: &Path, request: Request<Bytes>) -> Result<Answer, String> {
    let stream = UnixStream::connect(socket).await.map_err(|e| e.to_string())?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    let response = sender.send_request(request.map(Full::new)).await.map_err(|e| e.to_string())?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
    Ok(Answer { status: head.status, headers: head.headers, body })
}

/// The generated client over a unix socket.
pub(crate) type Grpc = SignerServiceClient<Channel>;

/// One HTTP/2 connection.
#[derive(Clone)]
pub(crate) struct Channel(http2::SendRequest<tonic::body::Body>);

impl tower::Service<Request<tonic::body::Body>> for Channel {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// Connects a gRPC client.
pub(crate) async fn grpc(socket: &PathBuf) -> Grpc {
    grpc_on(UnixStream::connect(socket).await.unwrap()).await
}

/// A gRPC client on a connection. It sends as many requests as it is given before the server has said
/// how many it takes.
pub(super) async fn grpc_on(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Grpc {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_max_send_streams(1_024)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    SignerServiceClient::with_origin(Channel(sender), http::Uri::from_static("http://sigil"))
}
