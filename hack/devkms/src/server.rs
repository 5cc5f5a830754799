//! Sockets, TLS and HTTP around the service.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Collected, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use sigil_verifier::TrustRoot;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::body::Body;
use crate::error::ApiError;
use crate::fault::FaultMode;
use crate::pki::{Pki, PkiError, ServerConfigs};
use crate::reply::Reply;
use crate::service::Service;
use crate::store::Store;

/// Bytes of a request's body: a document of 262,144 bytes in base64, and the rest.
const REQUEST_BYTES_MAX: usize = 512 * 1024;
/// How late [`FaultMode::Slow`] answers.
const SLOW: Duration = Duration::from_millis(1_500);

/// A bound server.
pub struct Server {
    listener: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    service: Service,
    configs: ServerConfigs,
}

impl Server {
    /// Binds, within a tokio runtime. `attestation_root` is the root of the documents that are
    /// accepted.
    ///
    /// # Errors
    /// The certificates or the address cannot be used.
    pub fn bind(
        listener: std::net::TcpListener,
        pki: &Pki,
        store: Arc<Store>,
        attestation_root: TrustRoot,
    ) -> Result<Self, PkiError> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let configs = pki.server_configs()?;
        let service = Service { store, attestation_root };
        Ok(Self { listener, shared: Arc::new(Shared { service, configs }) })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until dropped; then all connections end.
    pub async fn run(self) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(connection(stream, Arc::clone(&self.shared)));
                    }
                    Err(error) => tracing::warn!(%error, "accept failed"),
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

/// A connection's faults are the client's business: they are logged and end the connection.
async fn connection(mut stream: TcpStream, shared: Arc<Shared>) {
    if let Err(error) = shared.service.store.refresh() {
        tracing::warn!(%error, "state not read again");
    }
    let fault = shared.service.store.fault();
    if fault == FaultMode::CloseInHandshake {
        let _ = stream.read_u8().await;
        return;
    }
    let acceptor = TlsAcceptor::from(shared.configs.for_fault(fault));
    let stream = match acceptor.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => return tracing::info!(%error, "TLS handshake failed"),
    };
    let service = service_fn(|request| answer(request, Arc::clone(&shared)));
    let mut server = http1::Builder::new();
    let served =
        server.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        tracing::info!(%error, "connection ended");
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, REQUEST_BYTES_MAX).collect().await.map(Collected::to_bytes);
    let service = &shared.service;
    let refreshed = service.store.refresh();
    let fault = service.store.fault();
    let (action, result) = match (refreshed, body) {
        (Ok(()), Ok(body)) => service.answer(&head, &body),
        (Err(error), _) => ("-", Err(ApiError::internal(error.to_string()))),
        (_, Err(_)) => ("-", Err(ApiError::validation("the body is too long or was cut off"))),
    };
    let outcome = match &result {
        _ if fault == FaultMode::Hang => "hang",
        Ok(_) => "ok",
        Err(error) => error.code,
    };
    if let Err(error) = service.store.count(action, outcome) {
        tracing::warn!(%error, "counters not written");
    }
    tracing::info!(action, outcome, %fault, "request");
    match fault {
        FaultMode::Hang => std::future::pending().await,
        FaultMode::Slow => tokio::time::sleep(SLOW).await,
        _ => {}
    }
    Ok(response(result, fault))
}

fn response(result: Result<Reply, ApiError>, fault: FaultMode) -> Response<Body> {
    let (status, body, code) = match result {
        Ok(reply) => (StatusCode::OK, reply.into_body(fault), None),
        Err(ApiError { status, code, message }) => {
            let body = json!({ "__type": code, "message": message }).to_string();
            (status, body.into_bytes(), Some(code))
        }
    };
    let length = body.len();
    let mut response = Response::new(Body::new(body, fault));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert("content-type", http::HeaderValue::from_static("application/x-amz-json-1.1"));
    headers.insert("content-length", http::HeaderValue::from(length));
    headers.insert("cache-control", http::HeaderValue::from_static("no-cache, no-store"));
    if let Some(code) = code {
        headers.insert("x-amzn-errortype", http::HeaderValue::from_static(code));
    }
    response
}
