use std::path::Path;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use futures_util::stream;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::{http1, http2};
use sigil_verifier::{PcrAllowList, TrustRoot};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::UnixStream;

use super::idle::IDLE_TIME_MAX;
use super::peer::Peer;
use super::*;
use crate::app::Guards;
use crate::attest::{BirthVerifier, Trust};
use crate::config::live::Live;
use crate::config::{Audit, AuditOutput, Config, ListenAddress, Unlock};
use crate::metrics::Metrics;
use crate::pool::{Boot, Pool, Upstream, Wanted};
use crate::router::{RetryBudget, Router};
use crate::store::{EmbeddedStore, Records, Store};
use crate::unlock::Unlocker;

mod overload;
mod slow;

/// An ingress without an enclave.
pub(super) struct Bench {
    pub(super) ingress: Arc<Ingress>,
    stop: watch::Sender<bool>,
    folder: tempfile::TempDir,
    _boots: watch::Sender<Option<Arc<Boot>>>,
}

impl Bench {
    pub(super) async fn new() -> Self {
        Self::with(CONNECTIONS_MAX).await
    }

    async fn with(connections_max: usize) -> Self {
        let store = |folder: &Path| Arc::new(EmbeddedStore::open(folder, |_| {}).unwrap()) as _;
        Self::over(store, connections_max, &Config::default()).await
    }

    pub(super) async fn with_tls(tls: Arc<Tls>, handshakes_max: usize) -> Self {
        let mut bench = Self::new().await;
        let ingress = Arc::get_mut(&mut bench.ingress).unwrap();
        ingress.tls = Some(tls);
        ingress.handshakes = Handshakes::new(handshakes_max);
        bench
    }

    /// Over a store of the caller's choice.
    pub(super) async fn over(
        store: impl FnOnce(&Path) -> Arc<dyn Store>,
        connections_max: usize,
        config: &Config,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (boots, watched) = watch::channel(None);
        let metrics = Arc::new(Metrics::new());
        let store = store(folder.path());
        let quiet = Audit { output: AuditOutput::Off };
        let config = Config { audit: quiet, ..config.clone() };
        let guards = Guards::new(&config, &metrics).unwrap();
        let upstream = Arc::new(Upstream::new("test", crate::config::Pool::default()));
        let trust = Trust {
            root: TrustRoot::aws(),
            images: PcrAllowList::default(),
            birthplaces: PcrAllowList::default(),
        };
        let app = App::new(
            Router::new(
                Pool::start(watched, &upstream, Wanted::Fixed(1)),
                Arc::new(RetryBudget::new(Instant::now())),
            ),
            Records::new(store),
            Unlocker::new(&Unlock::default(), Arc::clone(&metrics)),
            Arc::new(BirthVerifier::new(Arc::new(trust))),
            metrics,
            (vec!["default".to_owned()].into(), guards),
        );
        let standard = Standard::new().await.unwrap();
        let live = Arc::new(Live::new(Config::default()));
        let mut ingress = Ingress::new(Arc::new(app), live, standard, None);
        ingress.places = Arc::new(Semaphore::new(connections_max));
        let stop = watch::Sender::new(false);
        Self { ingress: Arc::new(ingress), stop, folder, _boots: boots }
    }

    /// The client's end of a connection that is served as one over TCP.
    pub(super) fn connect(&self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(64 * 1024);
        tokio::spawn(Arc::clone(&self.ingress).connection(
            far,
            Peer::Loopback.into(),
            self.stop.subscribe(),
        ));
        near
    }

    /// An HTTP/2 connection of a client that has little room for answers.
    pub(super) async fn sender<B>(&self) -> http2::SendRequest<B>
    where
        B: hyper::body::Body + Send + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        let io = TokioIo::new(self.connect());
        let connected = builder.initial_stream_window_size(4_096).handshake(io).await;
        let (sender, connection) = connected.unwrap();
        tokio::spawn(connection);
        sender
    }

    pub(super) async fn channel(&self) -> Channel {
        Channel(self.sender().await)
    }

    pub(super) fn metric(&self, line: &str) -> bool {
        self.ingress.app.metrics.encode().lines().any(|found| found == line)
    }
}

/// One HTTP/2 connection, for generated clients.
#[derive(Clone)]
pub(super) struct Channel(http2::SendRequest<tonic::body::Body>);

impl Service<Request<tonic::body::Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, hyper::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

pub(super) fn origin() -> ::http::Uri {
    ::http::Uri::from_static("http://localhost")
}

/// Whatever is late is this late.
pub(super) const LATE: Duration = Duration::from_hours(1);

/// When the other side closes.
async fn closed(stream: &mut DuplexStream) -> Duration {
    let started = Instant::now();
    let mut rest = Vec::new();
    timeout(LATE, stream.read_to_end(&mut rest)).await.expect("closed").unwrap();
    started.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_no_request_is_closed_after_ten_seconds() {
    let bench = Bench::new().await;
    // Nothing; a part of what tells the versions apart; HTTP/2 without a request.
    for sent in ["", "PRI * HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.1\r\n"] {
        let mut stream = bench.connect();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let took = closed(&mut stream).await;
        assert!(took.abs_diff(HEAD_TIME_MAX) < Duration::from_millis(10), "{sent:?}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_http2_connection_is_closed_and_a_used_one_is_not() {
    let bench = Bench::new().await;
    let io = TokioIo::new(bench.connect());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let driver = tokio::spawn(connection);
    for _ in 0..20 {
        let request = Request::get("http://localhost/openapi.json").body(Empty::<Bytes>::new());
        let answer = sender.send_request(request.unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        tokio::time::advance(IDLE_TIME_MAX / 2).await;
    }
    let idle = Instant::now();
    timeout(LATE, driver).await.expect("closed").unwrap().unwrap();
    assert!(idle.elapsed() <= IDLE_TIME_MAX * 2, "{:?}", idle.elapsed());
    assert!(sender.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_grpc_message_that_does_not_come_ends_with_the_deadline() {
    let bench = Bench::new().await;
    let io = TokioIo::new(bench.connect());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let never = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
    let request = Request::post("http://localhost/signer.v1.SignerService/Sign")
        .header("content-type", "application/grpc")
        .header("x-request-id", "mine-1")
        .body(never)
        .unwrap();
    let started = Instant::now();
    let answer = timeout(LATE, sender.send_request(request)).await.expect("answered").unwrap();
    assert_eq!(
        started.elapsed().as_secs(),
        bench.ingress.live.load().limits.request_timeout().as_secs()
    );
    assert_eq!(answer.headers()["grpc-status"], "4");
    assert_eq!(answer.headers()["sigil-code"], "DEADLINE_EXCEEDED");
    assert_eq!(answer.headers()["x-request-id"], "mine-1");
    assert!(bench.metric(r#"http_grpc_requests_total{method="sign",code="5xx"} 1"#));
}

#[tokio::test]
async fn a_web_page_is_refused_on_both_faces_and_curl_is_not() {
    let bench = Bench::new().await;
    let io = TokioIo::new(bench.connect());
    let (mut sender, connection) = http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let mut post = async |path: &str, headers: [(&'static str, &str); 2]| {
        let mut request = Request::post(path).body(Full::new(Bytes::from_static(b"{}"))).unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        (head, String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap())
    };
    let origin = ("origin", "https://page.example");
    for (name, value) in [origin, ("content-type", "application/json")] {
        let host = if name == "origin" { "localhost:8080" } else { "page.example" };
        let (head, body) = post("/create", [("host", host), (name, value)]).await;
        assert_eq!(head.status, 403);
        assert!(body.contains("PERMISSION_DENIED"), "{body}");
    }
    let grpc = ("content-type", "application/grpc");
    let path = "/signer.v1.SignerService/Create";
    let (head, _) = post(path, [("host", "page.example"), grpc]).await;
    assert_eq!(head.headers["grpc-status"], "7");
    assert_eq!(head.headers["sigil-code"], "PERMISSION_DENIED");
    // What curl sends with -d; there is no enclave here.
    let form = ("content-type", "application/x-www-form-urlencoded");
    let (head, body) = post("/create", [("host", "localhost:8080"), form]).await;
    assert_eq!(head.status, 503, "{body}");
    assert!(body.contains("ENCLAVE_UNAVAILABLE"), "{body}");
}

#[tokio::test]
async fn a_connection_over_the_bound_is_closed_at_once_and_counted() {
    let bench = Bench::with(1).await;
    let path = bench.folder.path().join("public.sock");
    let (mut bound, _) = listener::bind_all(&ListenAddress::Unix(path.clone()), 1).unwrap();
    let listener = bound.pop().unwrap().listen().unwrap();
    tokio::spawn(Arc::clone(&bench.ingress).serve(listener, bench.stop.subscribe()));
    let ask = async |stream: UnixStream| {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("/openapi.json").header("host", "localhost");
        let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await;
        (answer.map(|answer| answer.status().as_u16()).ok(), sender)
    };
    let (first, open) = ask(UnixStream::connect(&path).await.unwrap()).await;
    assert!(bench.metric(r#"active_connections{upstream="ingress"} 1"#));
    assert_eq!(first, Some(200));
    let mut second = UnixStream::connect(&path).await.unwrap();
    assert_eq!(timeout(LATE, second.read(&mut [0])).await.expect("closed").unwrap(), 0);
    assert!(bench.metric("connections_refused_total 1"));
    drop(open);
    // The place is free once the server has seen the end of the first.
    while bench.ingress.places.available_permits() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(ask(UnixStream::connect(&path).await.unwrap()).await.0, Some(200));
}

/// Every request carries and copies its own state several times. What is seldom needed is boxed.
#[test]
fn the_state_of_a_request_stays_small() {
    fn bytes_of<F>(
        _: impl FnOnce(&'static Ingress, Request<Incoming>, &'static Arc<Connection>) -> F,
    ) -> usize {
        size_of::<F>()
    }
    let bytes = bytes_of(Ingress::dispatch);
    assert!(bytes <= 3_072, "{bytes}");
}
