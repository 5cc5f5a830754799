//! Byte streams to an enclave: vsock, or a unix socket in development.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::pin::Pin;
use std::task::{Context, Poll};

use sigil_enclave_protocol::EnclaveAddress;
use sigil_enclave_protocol::bounds::VSOCK_WRITE_BYTES_MAX;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio_vsock::{VsockAddr, VsockStream};

/// A connection to an enclave.
#[derive(Debug)]
pub(crate) enum EnclaveStream {
    Vsock(VsockStream),
    Unix(UnixStream),
}

impl EnclaveStream {
    pub(crate) async fn connect(address: &EnclaveAddress) -> io::Result<Self> {
        match address {
            EnclaveAddress::Vsock { cid, port } => {
                VsockStream::connect(VsockAddr::new(*cid, *port)).await.map(Self::Vsock)
            }
            EnclaveAddress::UnixPath(path) => UnixStream::connect(path).await.map(Self::Unix),
            EnclaveAddress::UnixAbstract(name) => connect_abstract(name).map(Self::Unix),
        }
    }
}

/// Connects to an abstract unix socket. Such a connect never waits: it is accepted into the
/// listener's queue or refused.
pub(crate) fn connect_abstract(name: &str) -> io::Result<UnixStream> {
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

impl AsyncRead for EnclaveStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Vsock(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for EnclaveStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Vsock(stream) => {
                let capped = bytes.get(..VSOCK_WRITE_BYTES_MAX).unwrap_or(bytes);
                Pin::new(stream).poll_write(cx, capped)
            }
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Vsock(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Vsock(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
