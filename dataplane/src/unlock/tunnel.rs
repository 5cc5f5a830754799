//! Raw bytes between KMS and the enclave. TLS ends in the enclave; this process sees ciphertext.

use std::time::Duration;

use sigil_enclave_client::connect::connect;
use sigil_enclave_protocol::handshake::Purpose;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::exchange::ExchangeError;
use crate::pool::Boot;
use crate::pool::transport::EnclaveStream;
use crate::status::KmsErrorClass;

/// Bytes in each direction. A TLS 1.3 handshake with a chain, one request with an attestation
/// document and one answer stay below 64 KiB.
const BYTES_MAX: u64 = 256 * 1024;

/// Opens the TCP connection to KMS.
pub(super) async fn dial(address: &str, limit: Duration) -> Result<TcpStream, ExchangeError> {
    match timeout(limit, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            // The exchange is a few small messages; waiting to fill segments would only delay it.
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(error)) => Err(ExchangeError::new(
            KmsErrorClass::KmsError,
            format!("connect to KMS at {address}: {error}"),
        )),
        Err(_) => Err(ExchangeError::new(
            KmsErrorClass::Timeout,
            format!("connect to KMS at {address}: no answer within {limit:?}"),
        )),
    }
}

/// Opens the enclave's end of the tunnel.
pub(super) async fn open(boot: &Boot, unlock_id: [u8; 16]) -> Result<EnclaveStream, ExchangeError> {
    let failed = |error: String| ExchangeError::new(KmsErrorClass::Enclave, error);
    let mut stream =
        EnclaveStream::connect(&boot.address).await.map_err(|e| failed(format!("tunnel: {e}")))?;
    let accepted = connect(&mut stream, Purpose::Tunnel(unlock_id), &boot.token)
        .await
        .map_err(|e| failed(format!("tunnel: {e}")))?;
    if accepted.hello.boot_id != boot.boot_id {
        return Err(failed(format!("tunnel: boot {} answered", accepted.hello.boot_id)));
    }
    Ok(stream)
}

/// Copies in both directions until both ends are done.
pub(super) async fn copy(
    enclave: impl AsyncRead + AsyncWrite,
    kms: impl AsyncRead + AsyncWrite,
) -> std::io::Result<()> {
    let (from_enclave, to_enclave) = tokio::io::split(enclave);
    let (from_kms, to_kms) = tokio::io::split(kms);
    tokio::try_join!(half(from_enclave, to_kms), half(from_kms, to_enclave))?;
    Ok(())
}

async fn half(
    from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) -> std::io::Result<()> {
    tokio::io::copy(&mut from.take(BYTES_MAX), &mut to).await?;
    to.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_pass_both_ways_until_both_ends_are_done() {
        let (enclave, mut enclave_far) = tokio::io::duplex(64);
        let (kms, mut kms_far) = tokio::io::duplex(64);
        let copying = tokio::spawn(copy(enclave, kms));
        enclave_far.write_all(b"hello").await.unwrap();
        let mut got = [0; 5];
        kms_far.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
        kms_far.write_all(b"reply").await.unwrap();
        kms_far.shutdown().await.unwrap();
        let mut reply = Vec::new();
        enclave_far.read_to_end(&mut reply).await.unwrap();
        assert_eq!(reply, b"reply");
        enclave_far.shutdown().await.unwrap();
        copying.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_tunnel_carries_no_more_than_its_bound() {
        let (near, mut far) = tokio::io::duplex(1024);
        let sink = tokio::io::sink();
        let writer = tokio::spawn(async move {
            let block = [0_u8; 1024];
            let mut written = 0;
            while far.write_all(&block).await.is_ok() {
                written += block.len() as u64;
            }
            written
        });
        half(near, sink).await.unwrap();
        let written = writer.await.unwrap();
        assert!(written <= BYTES_MAX + 2 * 1024, "{written}");
    }

    #[tokio::test]
    async fn a_closed_port_is_a_kms_error_at_once() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = dial(&address, Duration::from_millis(500)).await.unwrap_err();
        assert_eq!(error.class, KmsErrorClass::KmsError);
    }
}
