//! The two small listeners: health for the kubelet, metrics for loopback.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::RunError;
use super::metrics::Metrics;

/// Connections at once on a listener: probes and scrapers are few.
const CONNECTIONS_MAX: usize = 32;
/// Time for a whole request header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// What a listener serves.
#[derive(Clone, Copy, Debug)]
pub enum Pages {
    /// `/livez`, `/readyz`: the process answers. A process that waits for the lease is ready too:
    /// it is there to take over.
    Health,
    /// `/metrics`.
    Metrics,
}

/// Opens a listener and serves it until the process ends. The address that it has.
///
/// # Errors
/// The address cannot be listened on.
pub async fn start(
    address: SocketAddr,
    pages: Pages,
    metrics: Arc<Metrics>,
) -> Result<SocketAddr, RunError> {
    let failed = |error| RunError::Listen(address, error);
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    tokio::spawn(accept(listener, pages, metrics));
    Ok(bound)
}

async fn accept(listener: TcpListener, pages: Pages, metrics: Arc<Metrics>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let metrics = Arc::clone(&metrics);
        tokio::spawn(async move {
            serve(stream, pages, metrics).await;
            drop(slot);
        });
    }
}

async fn serve(stream: TcpStream, pages: Pages, metrics: Arc<Metrics>) {
    let service = service_fn(move |request| {
        let response = answer(&request, pages, &metrics);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "connection ended");
    }
}

fn answer<B>(request: &Request<B>, pages: Pages, metrics: &Metrics) -> Response<Full<Bytes>> {
    let (status, body) = match (request.method(), pages, request.uri().path()) {
        (&Method::GET, Pages::Health, "/livez" | "/readyz") => (StatusCode::OK, "ok\n".to_owned()),
        (&Method::GET, Pages::Metrics, "/metrics") => (StatusCode::OK, metrics.text()),
        _ => (StatusCode::NOT_FOUND, "not found\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_listener_has_its_own_pages() {
        let metrics = Metrics::new();
        let get = |path: &str, pages| {
            let request = Request::get(path).body(()).unwrap();
            answer(&request, pages, &metrics).status()
        };
        assert_eq!(get("/livez", Pages::Health), StatusCode::OK);
        assert_eq!(get("/metrics", Pages::Health), StatusCode::NOT_FOUND);
        assert_eq!(get("/metrics", Pages::Metrics), StatusCode::OK);
        assert_eq!(get("/readyz", Pages::Metrics), StatusCode::NOT_FOUND);
    }
}
