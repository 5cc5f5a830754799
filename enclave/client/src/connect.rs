//! The caller's side of the handshake over any byte stream.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use zeroize::Zeroizing;

use sigil_enclave_protocol::bounds::HANDSHAKE_TIME_MAX;
use sigil_enclave_protocol::handshake::{
    ClaimToken, HELLO_BYTES, Hello, Proof, Purpose, Refusal, VERDICT_BYTES, Verdict,
};

use crate::frames::{FrameError, decode_hello, decode_verdict, in_words};

/// An accepted connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The boot that answered, with the nonce it chose.
    pub hello: Hello,
    /// Worker that serves the connection.
    pub worker_index: u16,
    /// Signing workers of the enclave.
    pub worker_count: u16,
}

/// Why a connection did not come to be.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The stream failed or ended.
    #[error("connection to the enclave")]
    Io(#[from] io::Error),
    /// The enclave did not answer within [`HANDSHAKE_TIME_MAX`].
    #[error("the enclave did not answer the handshake within {HANDSHAKE_TIME_MAX:?}")]
    Timeout,
    /// The enclave speaks something else.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The enclave closed the connection and said why.
    #[error("refused: {}", in_words(*.0))]
    Refused(Refusal),
}

/// Claims a freshly booted enclave.
///
/// # Errors
/// See [`HandshakeError`]; [`Refusal::AlreadyClaimed`] means that somebody else holds it.
pub async fn claim<S>(stream: &mut S) -> Result<(Accepted, ClaimToken), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (accepted, token) = exchange(stream, |_| Proof::CLAIM, true).await?;
    token.map(|token| (accepted, token)).ok_or(FrameError { frame: "verdict" }.into())
}

/// Opens a connection for `purpose` with the token of the claim.
///
/// # Errors
/// See [`HandshakeError`].
pub async fn connect<S>(
    stream: &mut S,
    purpose: Purpose,
    token: &ClaimToken,
) -> Result<Accepted, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (accepted, _) = exchange(stream, |hello| Proof::new(purpose, hello, token), false).await?;
    Ok(accepted)
}

async fn exchange<S>(
    stream: &mut S,
    prove: impl FnOnce(&Hello) -> Proof,
    claims: bool,
) -> Result<(Accepted, Option<ClaimToken>), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let work = async {
        let mut hello = [0; HELLO_BYTES];
        stream.read_exact(&mut hello).await?;
        let hello = decode_hello(&hello)?;
        stream.write_all(&prove(&hello).encode()).await?;
        let mut verdict = Zeroizing::new([0; VERDICT_BYTES]);
        stream.read_exact(&mut *verdict).await?;
        match decode_verdict(&verdict, claims)? {
            Verdict::Refused(refusal) => Err(HandshakeError::Refused(refusal)),
            Verdict::Accepted { worker_index, worker_count, token } => {
                Ok((Accepted { hello, worker_index, worker_count }, token))
            }
        }
    };
    timeout(HANDSHAKE_TIME_MAX, work).await.map_err(|_| HandshakeError::Timeout)?
}
