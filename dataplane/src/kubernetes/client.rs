//! The way to the API server, with the pod's own service account. Every request is counted.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Request, Response};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tokio::time::{sleep, timeout};
use tower::{BoxError, Layer, Service};

use crate::config::TimeoutConfig;
use crate::metrics::Calls;
use crate::pool::backoff::{Backoff, random};

/// Between two tries to find the API server, first and at most.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_mins(1);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[error("no way to the API server is known: {0}")]
pub(crate) struct ClientError(#[source] Box<dyn std::error::Error + Send + Sync>);

/// Counts what goes through, and ends what has no answer in time.
#[derive(Clone)]
struct Counting {
    calls: Arc<Calls>,
    /// Until the head of an answer.
    head_time_max: Option<Duration>,
}

/// A service whose calls are counted, up to the head of the answer: a watch never ends.
struct Counted<S> {
    counting: Counting,
    service: S,
}

/// A client with the pod's own service account. Nothing is sent yet.
///
/// # Errors
/// The process does not run in a pod, or the account's files are not there yet.
pub(crate) async fn client(calls: Arc<Calls>, times: TimeoutConfig) -> Result<Client, ClientError> {
    let mut config = Config::infer().await.map_err(|error| ClientError(error.into()))?;
    config.connect_timeout = Some(times.dial());
    let builder = ClientBuilder::try_from(config).map_err(|error| ClientError(error.into()))?;
    Ok(builder.with_layer(&Counting { calls, head_time_max: times.response_header() }).build())
}

/// The same, tried until there is one.
pub(crate) async fn connected(calls: Arc<Calls>, times: TimeoutConfig) -> Client {
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    loop {
        match client(Arc::clone(&calls), times.clone()).await {
            Ok(client) => return client,
            Err(error) => tracing::error!(%error, "no report to Kubernetes yet"),
        }
        sleep(backoff.wait(random())).await;
    }
}

impl<S> Layer<S> for Counting {
    type Service = Counted<S>;

    fn layer(&self, service: S) -> Counted<S> {
        Counted { counting: self.clone(), service }
    }
}

impl<S, B> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.service.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let call = self.counting.calls.begin();
        let head_time_max = self.counting.head_time_max;
        let answer = self.service.call(request);
        Box::pin(async move {
            let answer = match head_time_max {
                Some(limit) => timeout(limit, answer).await?,
                None => answer.await,
            };
            call.end(answer.as_ref().is_ok_and(|answer| !answer.status().is_server_error()));
            answer.map_err(Into::into)
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
            let counting = Counting { calls: Arc::clone(&calls), head_time_max: None };
            let service = counting.layer(service);
            let client = Client::new(service, "default");
            let _ = client.request_text(Request::get("/version").body(Vec::new()).unwrap()).await;
            let after = calls.counted();
            assert_eq!(after, (before.0 + 1, before.1 + u64::from(fails)), "{status}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answers_is_given_up_and_counted() {
        let calls = Arc::<Calls>::default();
        let head_time_max = TimeoutConfig::default().response_header();
        let service = tower::service_fn(|_: Request<Body>| {
            std::future::pending::<io::Result<Response<http_body_util::Empty<bytes::Bytes>>>>()
        });
        let service = Counting { calls: Arc::clone(&calls), head_time_max }.layer(service);
        let client = Client::new(service, "default");
        let asked = client.request_text(Request::get("/version").body(Vec::new()).unwrap());
        let answer = timeout(Duration::from_mins(2), asked).await;
        assert!(answer.is_ok_and(|answer| answer.is_err()), "it ends by itself");
        assert_eq!(calls.counted(), (1, 1));
    }
}
