use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::client;

use super::super::tests::Bench;
use super::*;
use crate::tls::tests::{Authority, Folder, Identity};

const URI: &str = "spiffe://example.org/api";

/// An ingress with TLS that asks for certificates of `clients`.
struct Tested {
    bench: Bench,
    servers: Authority,
    clients: Authority,
    folder: Folder,
    tls: Arc<Tls>,
    stop: watch::Sender<bool>,
}

impl Tested {
    async fn new(required: bool, handshakes_max: usize) -> Self {
        let (servers, clients) = (Authority::new(), Authority::new());
        let folder = Folder::new(&servers, Some((&clients, required)));
        let tls = Arc::new(Tls::load(folder.files.clone()).unwrap());
        let bench = Bench::with_tls(Arc::clone(&tls), handshakes_max).await;
        Self { bench, servers, clients, folder, tls, stop: watch::Sender::new(false) }
    }

    /// The client's end of a socket that was accepted.
    fn dial(&self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let ingress = Arc::clone(&self.bench.ingress);
        let handshake = ingress.handshakes.begin();
        tokio::spawn(ingress.admit_tls(
            Arc::clone(&self.tls),
            far,
            handshake,
            self.stop.subscribe(),
        ));
        near
    }

    async fn connect(&self, identity: Option<&Identity>) -> client::TlsStream<DuplexStream> {
        let connector = self.servers.connector(identity, "h2");
        let name = ServerName::try_from("localhost").unwrap();
        connector.connect(name, self.dial()).await.unwrap()
    }

    fn failed(&self, reason: &str) -> bool {
        let line = format!("tls_handshake_fail_total{{reason=\"{reason}\"}} 1\n");
        self.bench.ingress.app.metrics.encode().contains(&line)
    }

    fn places(&self) -> usize {
        self.bench.ingress.places.available_permits()
    }
}

async fn is_closed(stream: &mut DuplexStream) -> bool {
    // What the server said before it closed is of no interest.
    stream.read_to_end(&mut Vec::new()).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_does_not_end_takes_no_place_and_is_cut_off() {
    let tested = Tested::new(false, 8).await;
    let free = tested.places();
    let mut silent = tested.dial();
    let mut half = tested.dial();
    // The head of a record that says that 512 bytes follow.
    half.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    tokio::task::yield_now().await;
    assert_eq!(tested.places(), free);
    assert!(is_closed(&mut silent).await && is_closed(&mut half).await);
    let mut plain = tested.dial();
    plain.write_all(b"GET /keys HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    assert!(is_closed(&mut plain).await);
    assert!(tested.failed("failed"));
    let metrics = tested.bench.ingress.app.metrics.encode();
    assert!(metrics.contains("tls_handshake_fail_total{reason=\"timeout\"} 2\n"), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn with_too_many_handshakes_the_oldest_gives_way_and_honest_clients_come_in() {
    let tested = Tested::new(false, 4).await;
    let mut silent: Vec<_> = (0..4).map(|_| tested.dial()).collect();
    let _honest = tested.connect(None).await;
    assert!(is_closed(&mut silent[0]).await);
    assert!(tested.failed("crowded_out") && !tested.failed("timeout"));
}

#[tokio::test(start_paused = true)]
async fn the_certificate_names_the_peer() {
    let tested = Tested::new(false, 8).await;
    let peer = async |identity: Option<Identity>| {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let connector = tested.servers.connector(identity.as_ref(), "h2");
        let name = ServerName::try_from("localhost").unwrap();
        let (client, server) = tokio::join!(connector.connect(name, near), tested.tls.accept(far));
        client.unwrap();
        Client::of(&server.unwrap()).map(|client| client.peer.to_string())
    };
    assert_eq!(peer(None).await.ok().unwrap(), "anonymous");
    let known = tested.clients.client(URI);
    assert_eq!(peer(Some(known)).await.ok().unwrap(), format!("uri:{URI}"));
    assert!(matches!(peer(Some(tested.clients.nameless())).await, Err(Refused::Nameless)));
}

#[tokio::test(start_paused = true)]
async fn a_client_is_disconnected_when_its_authority_is_gone() {
    let tested = Tested::new(true, 8).await;
    let known = tested.clients.client(URI);
    let io = TokioIo::new(tested.connect(Some(&known)).await);
    let (mut sender, connection) =
        http2::Builder::new(TokioExecutor::new()).handshake(io).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut ask = async || {
        let request = http::Request::get("http://elsewhere.example/openapi.json");
        let answer = sender.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await;
        let answer = answer.unwrap();
        let status = answer.status();
        answer.into_body().collect().await.unwrap();
        status
    };
    assert_eq!(ask().await, 200, "whatever name it calls us by");
    tokio::time::advance(VERIFY_INTERVAL * 2).await;
    assert_eq!(ask().await, 200, "its authority is still there");
    tested.folder.put_file("clients.pem", &Authority::new().pem);
    tested.tls.reload();
    connection.await.unwrap().unwrap();
    assert_eq!(tested.places(), super::super::CONNECTIONS_MAX);
}
