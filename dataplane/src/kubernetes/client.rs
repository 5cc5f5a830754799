//! The way to the API server, with the pod's own service account. Every request is counted.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Request, Response};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tokio::time::sleep;
use tower::{Layer, Service};

use crate::metrics::Calls;
use crate::pool::backoff::{Backoff, random};

/// Between two tries to find the API server, first and at most.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_mins(1);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[error("no way to the API server is known: {0}")]
pub(crate) struct ClientError(#[source] Box<dyn std::error::Error + Send + Sync>);

/// Counts what goes through.
#[derive(Clone)]
struct Counting(Arc<Calls>);

/// A service whose calls are counted, up to the head of the answer: a watch never ends.
struct Counted<S> {
    calls: Arc<Calls>,
    service: S,
}

/// A client with the pod's own service account. Nothing is sent yet.
///
/// # Errors
/// The process does not run in a pod, or the account's files are not there yet.
pub(crate) async fn client(calls: Arc<Calls>) -> Result<Client, ClientError> {
    let config = Config::infer().await.map_err(|error| ClientError(error.into()))?;
    let builder = ClientBuilder::try_from(config).map_err(|error| ClientError(error.into()))?;
    Ok(builder.with_layer(&Counting(calls)).build())
}

/// The same, tried until there is one.
pub(crate) async fn connected(calls: Arc<Calls>) -> Client {
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    loop {
        match client(Arc::clone(&calls)).await {
            Ok(client) => return client,
            Err(error) => tracing::error!(%error, "no report to Kubernetes yet"),
        }
        sleep(backoff.wait(random())).await;
    }
}

impl<S> Layer<S> for Counting {
    type Service = Counted<S>;

    fn layer(&self, service: S) -> Counted<S> {
        Counted { calls: Arc::clone(&self.0), service }
    }
}

impl<S, B> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let call = self.calls.begin();
        let answer = self.service.call(request);
        Box::pin(async move {
            let answer = answer.await;
            call.end(answer.as_ref().is_ok_and(|answer| !answer.status().is_server_error()));
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[tokio::test]
    async fn every_request_is_counted_and_what_the_server_failed_is_an_error() {
        let calls = Arc::<Calls>::default();
        for (status, fails) in [(200, false), (404, false), (500, true)] {
            let service = tower::service_fn(move |_: Request<Body>| async move {
                let mut answer = Response::new(http_body_util::Empty::<bytes::Bytes>::new());
                *answer.status_mut() = http::StatusCode::from_u16(status).unwrap();
                Ok::<_, io::Error>(answer)
            });
            let before = calls.counted();
            let service = Counting(Arc::clone(&calls)).layer(service);
            let client = Client::new(service, "default");
            let _ = client.request_text(Request::get("/version").body(Vec::new()).unwrap()).await;
            let after = calls.counted();
            assert_eq!(after, (before.0 + 1, before.1 + u64::from(fails)), "{status}");
        }
    }
}
