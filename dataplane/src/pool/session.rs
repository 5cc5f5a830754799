//! One connection to an enclave: byte stream, handshake, HTTP/2.

use std::time::Duration;

use hyper::client::conn::http2::Builder;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use sigil_enclave_client::EnclaveAddress;
use sigil_enclave_client::connect::{HandshakeError, connect};
use sigil_enclave_protocol::bounds::{MESSAGE_BYTES_MAX, STREAMS_PER_CONNECTION_MAX};
use sigil_enclave_protocol::handshake::Purpose;
use sigil_enclave_protocol::handshake::{BootId, ClaimToken};
use sigil_enclave_protocol::v1::enclave_client::EnclaveClient;
use tokio::task::JoinHandle;

use super::transport::EnclaveStream;
use crate::config;
use crate::http2::Http2;

/// Pings on a connection, with and without streams (row S2a).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keepalive {
    /// Time between them; none: none are sent.
    interval: Option<Duration>,
    /// Longest wait for the answer to one.
    timeout: Duration,
}

/// The generated client over one connection.
pub(crate) type Client = EnclaveClient<Http2>;

/// An open connection; dropping it closes it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    /// Worker of the enclave that serves it.
    pub(crate) worker_index: u16,
    driver: JoinHandle<()>,
}

/// Why a connection did not come to be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("handshake: {0}")]
    Handshake(#[from] HandshakeError),
    #[error("HTTP/2: {0}")]
    Http2(#[from] hyper::Error),
    #[error("boot {0} answers at the enclave's address")]
    OtherBoot(BootId),
}

// === impl Keepalive ===

impl Keepalive {
    /// For connections of a moment.
    pub(crate) const NONE: Self = Self { interval: None, timeout: Duration::from_secs(10) };
}

impl From<&config::Pool> for Keepalive {
    fn from(settings: &config::Pool) -> Self {
        let timeout = Duration::from_millis(settings.keepalive_timeout_ms);
        Self { interval: settings.keepalive_interval(), timeout }
    }
}

// === impl Session ===

impl Session {
    /// Connects to `address` and proves `token`; only `boot_id` may answer.
    pub(crate) async fn open(
        address: &EnclaveAddress,
        boot_id: BootId,
        token: &ClaimToken,
        keepalive: Keepalive,
    ) -> Result<Self, SessionError> {
        let mut stream = EnclaveStream::connect(address).await?;
        let accepted = connect(&mut stream, Purpose::Rpc, token).await?;
        if accepted.hello.boot_id != boot_id {
            return Err(SessionError::OtherBoot(accepted.hello.boot_id));
        }
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(keepalive.interval)
            .keep_alive_timeout(keepalive.timeout)
            .keep_alive_while_idle(true)
            // As many as the enclave will say; until it has, more would be refused.
            .initial_max_send_streams(STREAMS_PER_CONNECTION_MAX as usize)
            .handshake(TokioIo::new(stream))
            .await?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the enclave ended");
            }
        });
        let origin = http::Uri::from_static("http://enclave");
        let client = EnclaveClient::with_origin(Http2(sender), origin)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Self { client, worker_index: accepted.worker_index, driver })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
