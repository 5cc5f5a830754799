//! The public listener: HTTP/1.1, HTTP/2 and gRPC on the same port, one listener a worker thread.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Request, Response};
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::Service;

use crate::app::App;
use crate::config::Limits;
use crate::error::Error;
use crate::metrics::Method;
use crate::v1::signer_service_server::SignerServiceServer;

mod contract;
mod grpc;
mod http;
mod json;
pub(crate) mod listener;
mod request_id;

use listener::Listener;

/// Time a client has for the head of a request.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes of a request's head; ours need a few hundred.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Requests at once on one HTTP/2 connection.
const STREAMS_PER_CONNECTION_MAX: u32 = 1_024;
/// Row S2a, towards applications too.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that requests in flight have when the process ends.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

type Body = Either<Full<Bytes>, tonic::body::Body>;

/// What every connection of a worker shares.
pub(crate) struct Ingress {
    pub(crate) app: Arc<App>,
    pub(crate) limits: Limits,
    grpc: SignerServiceServer<grpc::Face>,
}

impl Ingress {
    /// Both faces over one application.
    pub(crate) fn new(app: Arc<App>, limits: Limits) -> Self {
        let face = grpc::Face { app: Arc::clone(&app), limits: limits.clone() };
        let grpc = SignerServiceServer::new(face).max_decoding_message_size(limits.body_bytes_max);
        Self { app, limits, grpc }
    }

    /// Serves `listener` until `stop`, then lets requests in flight end.
    pub(crate) async fn serve(
        self: Arc<Self>,
        listener: Listener,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(stream) => {
                        let this = Arc::clone(&self);
                        connections.spawn(this.connection(stream, stop.clone()));
                    }
                    Err(error) => {
                        // Out of descriptors, mostly: the connections that end free some.
                        tracing::warn!(%error, "accept failed");
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                },
                Some(_) = connections.join_next() => {}
                () = stopped(&mut stop) => break,
            }
        }
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN_TIME_MAX, drained).await.is_err() {
            tracing::warn!("requests were still in flight at the end");
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .pipeline_flush(true);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
            .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        let service = service_fn(move |request| {
            let this = Arc::clone(&self);
            async move { Ok::<_, Infallible>(this.dispatch(request).await) }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = stopped(&mut stop) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(error, "client connection ended");
        }
    }

    async fn dispatch(&self, request: Request<Incoming>) -> Response<Body> {
        let is_grpc = request
            .headers()
            .get(::http::header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        if is_grpc {
            // tonic's services are always ready.
            match self.grpc.clone().call(request).await {
                Ok(response) => return grpc::in_our_words(response).map(Either::Right),
                Err(never) => match never {},
            }
        }
        self::http::handle(self, request).await.map(Either::Left)
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// One line a request: failures at a level that is on by default, successes at `debug`. The audit of
/// who may do what begins with authentication; here every `create` leaves a line.
fn log(
    method: Method,
    face: &'static str,
    request_id: &str,
    started: tokio::time::Instant,
    error: Option<&Error>,
) {
    let took_ms = started.elapsed().as_secs_f64() * 1_000.0;
    let method = method.as_str();
    match error {
        None if method == "create" => {
            tracing::info!(target: "sigil_dataplane::audit", request_id, method, face, took_ms, "request");
        }
        None => tracing::debug!(request_id, method, face, took_ms, "request"),
        Some(error) => tracing::info!(
            request_id,
            method,
            face,
            took_ms,
            code = error.code.row().name,
            field = error.field.as_deref(),
            detail = &*error.detail,
            internal = error.internal,
            unlock_request_id = error.unlock_request_id,
            "request refused"
        ),
    }
}
