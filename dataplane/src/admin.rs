//! The admin listener: probes, metrics, debug pages. Loopback only in this version.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;

use crate::app::App;
use crate::ingress::listener::Listener;
use crate::ingress::peer::Peer;
use crate::metrics::Metrics;
use crate::status::StatusWriter;
use crate::unlock::Unlocker;

mod pool;
mod refresh;

/// A few scrapers, probes and people.
const CONNECTIONS_MAX: usize = 64;
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// What Prometheus asks for by default.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the pages show.
pub(crate) struct Admin {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) status: StatusWriter,
    pub(crate) unlocker: Unlocker,
    /// For what operators ask of the enclave.
    pub(crate) app: App,
    /// Time that such a request may take.
    pub(crate) request_time_max: Duration,
}

impl Admin {
    /// Serves for ever.
    pub(crate) async fn serve(self, listener: Listener) {
        let this = Arc::new(self);
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept failed on the admin listener");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            let this = Arc::clone(&this);
            tokio::spawn(async move {
                let Ok(peer) = stream.peer() else { return };
                let service = service_fn(move |request| {
                    let (this, peer) = (Arc::clone(&this), peer.clone());
                    async move { Ok::<_, Infallible>(this.answer(request, &peer).await) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIME_MAX)
                    .serve_connection(TokioIo::new(stream), service);
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "admin connection ended");
                }
                drop(place);
            });
        }
    }

    async fn answer(&self, request: Request<Incoming>, peer: &Peer) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/livez") => page(StatusCode::OK, TEXT, "ok\n".to_owned()),
            (&Method::GET, "/readyz") => self.readyz(),
            (&Method::GET, "/metrics") => page(StatusCode::OK, OPENMETRICS, self.metrics.encode()),
            (&Method::GET, "/debug/unlock") => {
                page(StatusCode::OK, JSON, self.unlocker.debug().to_string())
            }
            (&Method::POST, "/debug/unlock/retry") => {
                self.unlocker.retry_now();
                page(StatusCode::OK, JSON, self.unlocker.debug().to_string())
            }
            (&Method::GET, "/debug/status") => self.debug_status(),
            (&Method::POST, "/debug/refresh") => {
                refresh::handle(&self.app, request, peer, self.request_time_max).await
            }
            (&Method::POST, path) if path.starts_with(pool::PREFIX) => {
                let query = request.uri().query().unwrap_or_default();
                pool::handle(&self.metrics.upstreams, path, query)
            }
            (_, "/debug/unlock/retry" | "/debug/refresh") => {
                page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "POST\n".into())
            }
            _ => page(
                StatusCode::NOT_FOUND,
                TEXT,
                "livez readyz metrics debug/unlock debug/status debug/refresh debug/pool\n"
                    .to_owned(),
            ),
        }
    }

    /// The member's status, and under `pool` the connections to each enclave with what happened to them.
    fn debug_status(&self) -> Response<Full<Bytes>> {
        match serde_json::to_value(self.status.snapshot()) {
            Ok(mut status) => {
                status["pool"] = self.metrics.upstreams.debug();
                page(StatusCode::OK, JSON, status.to_string())
            }
            Err(error) => page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, error.to_string()),
        }
    }

    fn readyz(&self) -> Response<Full<Bytes>> {
        if self.status.snapshot().is_ready() {
            page(StatusCode::OK, TEXT, "ok\n".to_owned())
        } else {
            page(StatusCode::SERVICE_UNAVAILABLE, TEXT, "the store cannot write\n".to_owned())
        }
    }
}

fn page(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
