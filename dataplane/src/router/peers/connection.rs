//! One HTTP/2 connection to a member: cleartext to loopback and unix sockets, mutual TLS to everywhere
//! else.

use std::io;
use std::time::Duration;

use hyper::client::conn::http2::Builder;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::identity::Identity;
use crate::hop_v1::hop_client::HopClient;
use crate::http2::Http2;
use crate::router::membership::PeerAddress;

/// Time for a connection, TLS included: a member that takes longer is not worth waiting for.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// Members watch each other closer than applications do: nothing else tells of a node that fell silent.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Streams before the member has said how many it takes.
const STREAMS_AT_FIRST: usize = 64;

/// The generated client over one connection.
pub(super) type Client = HopClient<Http2>;

/// An open connection; dropping it closes it.
pub(super) struct Connection {
    pub(super) client: Client,
    driver: JoinHandle<()>,
}

// === impl Connection ===

impl Connection {
    /// Connects and, off this machine, proves who we are and checks who answers.
    pub(super) async fn open(address: &PeerAddress, identity: &Identity) -> io::Result<Self> {
        let late = || io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
        timeout(CONNECT_TIME_MAX, Self::open_now(address, identity)).await.map_err(|_| late())?
    }

    async fn open_now(address: &PeerAddress, identity: &Identity) -> io::Result<Self> {
        match address {
            PeerAddress::Unix(path) => Self::on(UnixStream::connect(path).await?).await,
            PeerAddress::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                match identity.connector().await? {
                    Some((connector, name)) => {
                        Self::on(connector.connect(name, stream).await?).await
                    }
                    None if address.is_local() => Self::on(stream).await,
                    None => Err(io::Error::other(
                        "members that are not on this machine need TLS: set listeners.tls, \
                         routing.peerCaFile and routing.peerName",
                    )),
                }
            }
        }
    }

    async fn on(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> io::Result<Self> {
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_max_send_streams(STREAMS_AT_FIRST)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to a member ended");
            }
        });
        let origin = http::Uri::from_static("http://localhost");
        Ok(Self { client: HopClient::with_origin(Http2(sender), origin), driver })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
