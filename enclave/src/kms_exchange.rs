//! One attested call to KMS. TLS ends here, and the request is written here: the sidecar only signs
//! it and pipes bytes.
//!
//! `CiphertextForRecipient` is encrypted but not authenticated: anybody who sees the recipient's
//! public key can build one around a DEK of its own. That the answer comes from KMS is proved by
//! TLS to a pinned host under pinned roots alone, so nothing here has a switch that loosens it.

mod answer;
mod cms;
mod recipient;
mod request;
mod tls;

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

pub use answer::{Answer, AnswerClass, AnswerError, OpenedDek};
pub use recipient::{EnvelopeError, RecipientError, RecipientKey};
pub use request::{AskedDek, ExactRequest, Operation, SignatureHeaders};
pub use tls::TlsRoots;

/// From the first TLS byte to the head of the answer: row G1's limit of an attempt.
pub const ATTEMPT_TIME_MAX: Duration = Duration::from_secs(2);
/// From the first TLS byte to the last byte of the answer: row G1's limit of an operation.
pub const EXCHANGE_TIME_MAX: Duration = Duration::from_secs(3);
/// Bytes of an answer's body. The API allows 6,144 bytes each for blob and envelope (8,192 in
/// base64) and 2,048 for the ARN; the rest is JSON around them.
pub const ANSWER_BYTES_MAX: usize = 20 * 1024;
/// Bytes that hyper may hold for the head of an answer; its own minimum. KMS sends under 500.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Header lines of an answer. KMS sends about seven.
const HEADERS_MAX: usize = 32;

/// Why there is no answer to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeError {
    /// [`ATTEMPT_TIME_MAX`] or [`EXCHANGE_TIME_MAX`] ran out.
    Timeout,
    /// The byte tunnel failed, or the peer is not the pinned host under a pinned root.
    Tls,
    /// The connection ended early, or what came is not HTTP/1.1.
    Http,
    /// The body is longer than [`ANSWER_BYTES_MAX`].
    TooLong,
}

/// Sends one request over one new TLS connection on `stream` and reads the answer. `now_unix_s` is
/// the time at which the server's certificate must be valid. Needs a tokio runtime with timers.
///
/// # Errors
/// See [`ExchangeError`].
pub async fn exchange<S>(
    stream: S,
    tls: &TlsRoots,
    now_unix_s: u64,
    request: &ExactRequest,
    headers: &SignatureHeaders,
) -> Result<Answer, ExchangeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let deadline = tokio::time::Instant::now() + ATTEMPT_TIME_MAX;
    let late = |_| ExchangeError::Timeout;
    let talk = async {
        let connected = tls.connect(stream, &request.host, now_unix_s);
        let connected = tokio::time::timeout_at(deadline, connected).await.map_err(late)?;
        let stream = connected.map_err(|_| ExchangeError::Tls)?;

        let mut client = http1::Builder::new();
        client.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
        let (mut sender, connection) =
            client.handshake(TokioIo::new(stream)).await.map_err(|_| ExchangeError::Http)?;
        let call = async {
            let sent = sender.send_request(headers.sign(request)?);
            let answer = tokio::time::timeout_at(deadline, sent).await.map_err(late)?;
            let (head, body) = answer.map_err(|_| ExchangeError::Http)?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
                Some(_) => ExchangeError::TooLong,
                None => ExchangeError::Http,
            })?;
            Ok(Answer::new(&head, body.to_bytes()))
        };
        // Polled in this task, so that nothing outlives the exchange. Its end says nothing by
        // itself: what it had read is still handed to `call`.
        let drive = async {
            let _ = connection.await;
            std::future::pending().await
        };
        tokio::select! {
            answer = call => answer,
            never = drive => never,
        }
    };
    timeout(EXCHANGE_TIME_MAX, talk).await.map_err(late)?
}

type Body = Full<Bytes>;

#[cfg(test)]
mod tests;
