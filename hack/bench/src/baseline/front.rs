//! The two faces, each with its own port, and a unary call behind every signature.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use futures_util::StreamExt;
use futures_util::future::join_all;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::{TcpListener, UnixStream};
use tonic::codegen::BoxStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use crate::v1;
use crate::v1::sign_result::Result as Either;
use crate::v1::signer_service_client::SignerServiceClient;
use crate::v1::signer_service_server::{SignerService, SignerServiceServer};

/// Connections to the signer, as the dataplane has.
const CONNECTIONS: usize = 16;
/// Requests of one stream that are under way, as the dataplane allows.
const IN_FLIGHT_MAX: usize = 256;

#[derive(Clone)]
struct Signer {
    clients: Arc<[SignerServiceClient<Channel>]>,
    next: Arc<AtomicUsize>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    key_id: String,
    digest: String,
}

/// Serves until the process ends.
pub(crate) async fn serve(socket: PathBuf) -> Result<()> {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let socket = socket.clone();
        let connector = tower::service_fn(move |_: http::Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://signer");
        clients.push(SignerServiceClient::new(endpoint.connect_with_connector(connector).await?));
    }
    let signer = Signer { clients: clients.into(), next: Arc::default() };
    let (http, grpc) =
        (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    println!("http {}\ngrpc {}", http.local_addr()?, grpc.local_addr()?);
    let router = Router::new().route("/sign", post(sign)).with_state(signer.clone());
    let incoming = TcpIncoming::from(grpc).with_nodelay(Some(true));
    let service = SignerServiceServer::new(signer);
    let server = Server::builder().add_service(service).serve_with_incoming(incoming);
    tokio::select! {
        ended = async { axum::serve(axum::serve::ListenerExt::tap_io(http, |stream| {
            let _ = stream.set_nodelay(true);
        }), router).await } => ended?,
        ended = server => ended?,
    }
    Ok(())
}

async fn sign(
    State(signer): State<Signer>,
    Json(body): Json<Body>,
) -> Result<Json<serde_json::Value>, StatusCode> {
    let digest = const_hex::decode(&body.digest).map_err(|_| StatusCode::BAD_REQUEST)?;
    let request =
        v1::SignRequest { key_id: body.key_id, digest: digest.into(), ..Default::default() };
    let signed = signer.one(request).await.map_err(|_| StatusCode::BAD_GATEWAY)?;
    Ok(Json(serde_json::json!({
        "keyId": signed.key_id,
        "publicKey": const_hex::encode(&signed.public_key),
        "signature": const_hex::encode(&signed.signature),
        "recoveryId": signed.recovery_id,
    })))
}

impl Signer {
    async fn one(&self, request: v1::SignRequest) -> Result<v1::SignResponse, Status> {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.clients.len();
        let mut client = self.clients[at].clone();
        Ok(client.sign(request).await?.into_inner())
    }

    async fn result(&self, request: Option<v1::SignRequest>) -> v1::SignResult {
        let result = match self.one(request.unwrap_or_default()).await {
            Ok(signed) => Either::Signed(signed),
            Err(status) => {
                Either::Error(v1::Error { code: status.to_string(), ..Default::default() })
            }
        };
        v1::SignResult { result: Some(result) }
    }
}

fn absent<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not part of the comparison"))
}

#[tonic::async_trait]
impl SignerService for Signer {
    async fn sign(
        &self,
        request: Request<v1::SignRequest>,
    ) -> Result<Response<v1::SignResponse>, Status> {
        self.one(request.into_inner()).await.map(Response::new)
    }

    async fn sign_batch(
        &self,
        request: Request<v1::SignBatchRequest>,
    ) -> Result<Response<v1::SignBatchResponse>, Status> {
        let requests = request.into_inner().requests.into_iter();
        let results = join_all(requests.map(|request| self.result(Some(request)))).await;
        Ok(Response::new(v1::SignBatchResponse { results }))
    }

    type SignStreamStream = BoxStream<v1::SignStreamResponse>;

    async fn sign_stream(
        &self,
        request: Request<Streaming<v1::SignStreamRequest>>,
    ) -> Result<Response<Self::SignStreamStream>, Status> {
        let signer = self.clone();
        let answers = request.into_inner().map(move |message| {
            let signer = signer.clone();
            async move {
                let v1::SignStreamRequest { tag, request } = message?;
                Ok(v1::SignStreamResponse { tag, result: Some(signer.result(request).await) })
            }
        });
        Ok(Response::new(Box::pin(answers.buffer_unordered(IN_FLIGHT_MAX))))
    }

    async fn create(
        &self,
        _: Request<v1::CreateRequest>,
    ) -> Result<Response<v1::CreateResponse>, Status> {
        absent()
    }

    async fn get_key(
        &self,
        _: Request<v1::GetKeyRequest>,
    ) -> Result<Response<v1::GetKeyResponse>, Status> {
        absent()
    }

    async fn list_keys(
        &self,
        _: Request<v1::ListKeysRequest>,
    ) -> Result<Response<v1::ListKeysResponse>, Status> {
        absent()
    }
}
