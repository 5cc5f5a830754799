//! The public listener: HTTP/1.1, HTTP/2 and gRPC on the same port, one listener a worker thread.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Request, Response};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tower::Service;

use crate::access::Caller;
use crate::app::{App, Asker, Signed};
use crate::auth::CallerCache;
use crate::config::live::Live;
use crate::error::Error;
use crate::hop_v1::hop_server::HopServer;
use crate::metrics::{Method, Phase};
use crate::seldom::Seldom;
use crate::tls::Tls;
use crate::v1::signer_service_server::SignerServiceServer;

mod accept;
pub(crate) mod caller;
mod contract;
pub(crate) mod grpc;
mod handshakes;
mod hop;
pub(crate) mod http;
mod idle;
pub(crate) mod json;
pub(crate) mod listener;
mod log;
pub(crate) mod peer;
pub(crate) mod request_id;
mod sign_stream;
mod standard;
pub mod trial;

use accept::{Client, HANDSHAKES_MAX};
use handshakes::Handshakes;
use idle::{Connection, Idle};
use listener::Listener;
pub(crate) use standard::Standard;

/// Connections at once of one worker. Applications keep a few each; a thousand of them, with a file and
/// some 16 KiB of buffers apiece, leave the process room for everything else.
const CONNECTIONS_MAX: usize = 1_024;
/// Time a client has for the head of its first request, from the accept on.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes of a request's head; ours need a few hundred.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Requests at once on one HTTP/2 connection.
const STREAMS_PER_CONNECTION_MAX: u32 = 1_024;
/// Row S2a, towards applications too.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that wait on one HTTP/2 stream for a client that reads slowly; few answers are longer.
const SEND_BYTES_MAX: usize = 64 * 1024;
/// Bytes that a client may have sent ahead on one HTTP/2 stream, and on all of a connection.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// `SignStream`s at once of one worker. Each may hold 256 requests, [`STREAM_WINDOW_BYTES`] of others and
/// [`SEND_BYTES_MAX`] of answers.
const SIGN_STREAMS_MAX: usize = 256;
/// `SignStream`s at once of one connection. HTTP/2 ends a connection on which more small frames wait than
/// a budget allows: half of [`CONNECTION_WINDOW_BYTES`], from which each frame takes what it lacks to 256
/// bytes. A request has 85 or more, so a stream that fills its window takes 132 KiB at most while nothing
/// of it is read: three fit, with room for the requests beside them.
const SIGN_STREAMS_PER_CONNECTION_MAX: u32 = 3;
/// Time that requests in flight have when the process ends.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

type Body = Either<Full<Bytes>, tonic::body::Body>;

/// Why a connection is ended by us.
enum End {
    /// The process stops.
    Stop,
    /// Its certificate is no longer good.
    Expelled,
    Idle(Idle),
}

/// What every connection of a worker shares.
pub(crate) struct Ingress {
    pub(crate) app: Arc<App>,
    pub(crate) live: Arc<Live>,
    grpc: SignerServiceServer<grpc::Face>,
    members: hop::Members,
    standard: Standard,
    places: Arc<Semaphore>,
    /// TLS of TCP connections, if there is any.
    tls: Option<Arc<Tls>>,
    handshakes: Arc<Handshakes>,
    handshake_lines: Seldom,
    /// Tokens that this worker has seen.
    callers: CallerCache,
}

impl Ingress {
    /// Both faces over one application.
    pub(crate) fn new(
        app: Arc<App>,
        live: Arc<Live>,
        standard: Standard,
        tls: Option<Arc<Tls>>,
    ) -> Self {
        let streams = Arc::new(Semaphore::new(SIGN_STREAMS_MAX));
        let face = grpc::Face {
            app: Arc::clone(&app),
            live: Arc::clone(&live),
            streams: Arc::clone(&streams),
        };
        let members = hop::Members { app: Arc::clone(&app), live: Arc::clone(&live) };
        let body_bytes_max = live.load().limits.body_bytes_max;
        let grpc = SignerServiceServer::new(face).max_decoding_message_size(body_bytes_max);
        Self {
            app,
            live,
            grpc,
            members,
            standard,
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            tls,
            handshakes: Handshakes::new(HANDSHAKES_MAX),
            handshake_lines: Seldom::default(),
            callers: CallerCache::default(),
        }
    }

    /// Serves `listener` until `stop`, then lets requests in flight end.
    pub(crate) async fn serve(
        self: Arc<Self>,
        listener: Listener,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut connections = JoinSet::new();
        let failed = Seldom::default();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(stream) => self.admit(stream, &mut connections, &stop),
                    Err(error) => {
                        // Out of descriptors, mostly: the connections that end free some.
                        if let Some(left_out) = failed.admit(Instant::now()) {
                            tracing::warn!(%error, left_out, "accept failed");
                        }
                        sleep(Duration::from_millis(10)).await;
                    }
                },
                Some(_) = connections.join_next() => {}
                () = stopped(&mut stop) => break,
            }
        }
        let drained = async { while connections.join_next().await.is_some() {} };
        if timeout(DRAIN_TIME_MAX, drained).await.is_err() {
            tracing::warn!("requests were still in flight at the end");
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        client: Client,
        mut stop: watch::Receiver<bool>,
    ) {
        let state = Arc::new(Connection::of(client.peer.clone()));
        let of_requests = Arc::clone(&state);
        let stalled_after = self.live.load().limits.request_timeout();
        let tls = self.tls.clone();
        let service = service_fn(move |request| {
            let (this, state) = (Arc::clone(&self), Arc::clone(&of_requests));
            async move {
                let _begun = state.begin();
                // hyper and tokio move what they are given, up to ten times for a stream of HTTP/2.
                Ok::<_, Infallible>(Box::pin(this.dispatch(request, &state)).await)
            }
        });
        let protocols = protocols();
        let connection = protocols.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        // Polled only when it was woken itself, and not with every request of the connection.
        let mut ends: FuturesUnordered<_> = std::iter::once(async {
            tokio::select! {
                () = stopped(&mut stop) => End::Stop,
                () = client.expelled(tls) => End::Expelled,
                idle = state.until_idle(stalled_after) => End::Idle(idle),
            }
        })
        .collect();
        let result = tokio::select! {
            biased;
            result = connection.as_mut() => result,
            Some(end) = ends.next() => {
                // A client that does not read could hold up the last bytes for ever.
                let time = match end {
                    End::Stop => None,
                    End::Expelled => {
                        let peer = &client.peer;
                        tracing::info!(%peer, "a client's certificate is no longer good");
                        Some(stalled_after.max(DRAIN_TIME_MAX))
                    }
                    End::Idle(Idle::NeverUsed) => {
                        return tracing::debug!("a client sent no request; closed");
                    }
                    End::Idle(Idle::Stalled) => {
                        return tracing::info!("a client reads no answers; closed");
                    }
                    End::Idle(Idle::Quiet) => Some(DRAIN_TIME_MAX),
                };
                state.end();
                connection.as_mut().graceful_shutdown();
                match time {
                    Some(time) => timeout(time, connection).await.unwrap_or(Ok(())),
                    None => connection.await,
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(error, "client connection ended");
        }
    }

    async fn dispatch(
        &self,
        mut request: Request<Incoming>,
        connection: &Arc<Connection>,
    ) -> Response<Body> {
        let started = Instant::now();
        if !grpc::speaks(request.headers()) {
            let request = &mut request;
            return self::http::handle(self, request, connection, started).await.map(Either::Left);
        }
        let limit = self.live.load().limits.request_timeout();
        let (mut call, valid) = grpc::Call::of(&request, (started, limit), connection);
        if let Err(error) = valid.and_then(|()| caller::check(&request, &connection.peer)) {
            return call.refused(&self.app, &error).map(Either::Right);
        }
        if let Some(service) = self.standard.at(request.uri().path()) {
            return call.with_id(service(request).await).map(Either::Right);
        }
        if hop::is_hop(request.uri().path()) {
            // State that requests of applications need not carry.
            return Box::pin(self.hop(request, Arc::new(call))).await.map(Either::Right);
        }
        match self.caller(request.headers(), connection) {
            Ok(caller) => {
                call.asker = Some(Asker { caller, request_id: Arc::clone(&call.request_id) });
            }
            Err(error) => return call.refused(&self.app, &error).map(Either::Right),
        }
        let call = Arc::new(call);
        // tonic reads the whole message before it calls the service, so the time counts from here. Its
        // services are always ready.
        request.extensions_mut().insert(Arc::clone(&call));
        match timeout_at(call.deadline, self.grpc.clone().call(request)).await {
            Ok(Ok(response)) => call.in_our_words(&self.app, response).map(Either::Right),
            Ok(Err(never)) => match never {},
            Err(_) => call.refused(&self.app, &Error::deadline()).map(Either::Right),
        }
    }
}

impl Ingress {
    /// A call of another member.
    async fn hop(
        &self,
        mut request: Request<Incoming>,
        call: Arc<grpc::Call>,
    ) -> Response<tonic::body::Body> {
        if let Err(error) = self.members.check(&call.connection.peer) {
            return call.refused(&self.app, &error);
        }
        request.extensions_mut().insert(Arc::clone(&call));
        let mut server = HopServer::new(self.members.clone());
        match timeout_at(call.deadline, server.call(request)).await {
            Ok(Ok(response)) => call.in_our_words(&self.app, response),
            Ok(Err(never)) => match never {},
            Err(_) => call.refused(&self.app, &Error::deadline()),
        }
    }

    /// Who sent a request with these headers.
    fn caller(
        &self,
        headers: &::http::HeaderMap,
        connection: &Connection,
    ) -> Result<Caller, Error> {
        let known = (&connection.remembered, &self.callers);
        self.app.guards.authenticator.caller(headers, &connection.peer, known)
    }
}

/// HTTP/1.1 and HTTP/2 with their bounds.
fn protocols() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        // hyper's runs between requests too: it would close connections that clients keep, and cost
        // a timer for each request. The first head has `HEAD_TIME_MAX`, later ones the idle time.
        .header_read_timeout(None)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    builder
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// What every request leaves behind when it ends: metrics and a line of the log.
fn ended(
    app: &App,
    (method, face): (Method, &'static str),
    request_id: &str,
    started: Instant,
    error: Option<&Error>,
) {
    ended_after(app, (method, face), request_id, started.elapsed(), error);
}

fn ended_after(
    app: &App,
    (method, face): (Method, &'static str),
    request_id: &str,
    took: Duration,
    error: Option<&Error>,
) {
    app.metrics.answered(method, error.map_or(200, Error::status));
    app.metrics.phase(method, Phase::Total, took);
    log::request(app, (method, face), request_id, took, error);
}

/// The same for a batch, whose items count one each.
fn batch_ended(
    app: &App,
    face: &'static str,
    request_id: &str,
    started: Instant,
    results: &[Result<Signed, Error>],
) {
    let took = started.elapsed();
    for result in results {
        ended_after(app, (Method::SignBatch, face), request_id, took, result.as_ref().err());
    }
}

#[cfg(test)]
mod tests;
