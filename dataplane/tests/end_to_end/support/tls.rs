//! Applications that speak TLS to a dataplane on a TCP port of loopback.

use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::bench::{Bench, Settings};
use super::client::{Answer, Grpc, grpc_on};
use super::eventually;

/// Certificates of tests.
#[path = "../../../src/tls/tests/authority.rs"]
mod authority;

pub(crate) use authority::{Authority, Identity};

/// A dataplane with TLS on its public listener, and who may come in.
pub(crate) struct TlsBench {
    pub(crate) bench: Bench,
    pub(crate) servers: Authority,
    pub(crate) clients: Authority,
    pub(crate) address: SocketAddr,
}

/// A connection of an application over which it sends one request after the other.
pub(crate) enum Caller {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl TlsBench {
    /// With clients' certificates `required` or `optional`; whoever has one may do everything.
    pub(crate) async fn start(client_certificates: &str) -> Self {
        let everything = "[{subjects: ['*'], keyspaces: ['*'], verbs: [create, sign, list, read]}]";
        let rules = if client_certificates == "required" { everything } else { "[]" };
        Self::with_rules(client_certificates, rules).await
    }

    /// With these rules of `access`.
    pub(crate) async fn with_rules(client_certificates: &str, rules: &str) -> Self {
        let (servers, clients) = (Authority::new(), Authority::new());
        let mut bench = Bench::without_dataplane(&Settings::default());
        put(&bench, &servers.server());
        std::fs::write(bench.path("clients.pem"), &clients.pem).unwrap();
        let path = |name: &str| bench.path(name).display().to_string();
        let (certificate, key, ca) = (path("tls.crt"), path("tls.key"), path("clients.pem"));
        bench
            .start_dataplane(&[
                ("SIGIL_LISTENERS_PUBLIC", "127.0.0.1:0"),
                ("SIGIL_LISTENERS_TLS_CERTIFICATE_FILE", &certificate),
                ("SIGIL_LISTENERS_TLS_KEY_FILE", &key),
                ("SIGIL_LISTENERS_TLS_CLIENT_CA_FILE", &ca),
                ("SIGIL_LISTENERS_TLS_CLIENT_CERTIFICATES", client_certificates),
                ("SIGIL_ACCESS", rules),
            ])
            .await;
        let address = eventually("the port in the log", async || {
            bench.logged("listening").first()?["public"].as_str()?.parse().ok()
        })
        .await;
        Self { bench, servers, clients, address }
    }

    /// Exchanges the server's certificate.
    pub(crate) fn put(&self, identity: &Identity) {
        put(&self.bench, identity);
    }

    /// A file of the listener.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.bench.path(name)
    }

    /// A handshake; also gives the certificate that the server has shown.
    pub(crate) async fn handshake(
        &self,
        connector: &TlsConnector,
    ) -> Result<(TlsStream<TcpStream>, Vec<u8>), String> {
        let stream = TcpStream::connect(self.address).await.map_err(|error| error.to_string())?;
        let name = ServerName::try_from("localhost").unwrap();
        let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        Ok((stream, shown))
    }

    /// A new connection of a client that shows `identity` and speaks `protocol`.
    pub(crate) async fn caller(
        &self,
        identity: Option<&Identity>,
        protocol: &str,
    ) -> Result<Caller, String> {
        let (stream, _) = self.handshake(&self.servers.connector(identity, protocol)).await?;
        let chosen = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        assert_eq!(chosen.as_deref(), Some(protocol.as_bytes()));
        let io = TokioIo::new(stream);
        if protocol == "h2" {
            let made = http2::handshake(TokioExecutor::new(), io).await;
            let (sender, connection) = made.map_err(|error| error.to_string())?;
            tokio::spawn(connection);
            return Ok(Caller::Http2(sender));
        }
        let made = http1::handshake(io).await.map_err(|error| error.to_string())?;
        tokio::spawn(made.1);
        Ok(Caller::Http1(made.0))
    }

    /// A gRPC client that shows `identity`.
    pub(crate) async fn grpc(&self, identity: Option<&Identity>) -> Grpc {
        let connector = self.servers.connector(identity, "h2");
        grpc_on(self.handshake(&connector).await.unwrap().0).await
    }

    /// Waits until new connections are shown `identity`.
    pub(crate) async fn until_shown(&self, client: &TlsConnector, identity: &Identity) {
        eventually("the new certificate", async || {
            let (_, shown) = self.handshake(client).await.ok()?;
            (shown == identity.der()).then_some(())
        })
        .await;
    }
}

impl Caller {
    /// Sends one request, with a JSON body if there is one.
    pub(crate) async fn ask(&mut self, path: &str, body: Option<&Value>) -> Result<Answer, String> {
        let request = if body.is_some() { Request::post(path) } else { Request::get(path) };
        // Whatever name a client calls us by: its certificate check was against another one.
        let request = match self {
            Self::Http1(_) => request.header("host", "signer.example"),
            Self::Http2(_) => request.uri(format!("https://signer.example{path}")),
        };
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let request = request.header("content-type", "application/json").body(Full::new(body));
        let response = match self {
            Self::Http1(sender) => sender.send_request(request.unwrap()).await,
            Self::Http2(sender) => sender.send_request(request.unwrap()).await,
        };
        let (head, body) = response.map_err(|error| error.to_string())?.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        Ok(Answer { status: head.status, headers: head.headers, body })
    }
}

/// One file after the other, as a careless writer would: neither is whole for a moment.
fn put(bench: &Bench, identity: &Identity) {
    std::fs::write(bench.path("tls.crt"), &identity.certificate).unwrap();
    std::fs::write(bench.path("tls.key"), &identity.key).unwrap();
}
