//! Byte streams to an enclave: vsock, or in development a unix socket or the vsock of a machine of QEMU.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use sigil_enclave_client::EnclaveAddress;
use sigil_enclave_client::vhost::ask_for_port;
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
            EnclaveAddress::UnixPath(path) => {
                connect_now(&SocketAddrUnix::new(path.as_path())?).map(Self::Unix)
            }
            EnclaveAddress::UnixAbstract(name) => connect_abstract(name).map(Self::Unix),
            EnclaveAddress::VhostVsock { path, port } => {
                let mut stream = connect_now(&SocketAddrUnix::new(path.as_path())?)?;
                ask_for_port(&mut stream, *port).await?;
                Ok(Self::Unix(stream))
            }
        }
    }
}

/// Connects to an abstract unix socket.
pub(crate) fn connect_abstract(name: &str) -> io::Result<UnixStream> {
    connect_now(&SocketAddrUnix::new_abstract_name(name.as_bytes())?)
}

/// Accepted into the listener's queue, or refused. A blocking connect would wait, thread and all, while
/// the queue is full, as that of a stopped process is; there is nothing to poll for either.
fn connect_now(address: &SocketAddrUnix) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, address).map_err(|error| match error {
        Errno::AGAIN => io::Error::new(io::ErrorKind::ConnectionRefused, "its queue is full"),
        error => error.into(),
    })?;
    UnixStream::from_std(socket.into())
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

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{bind, listen};

    #[tokio::test]
    async fn a_listener_that_accepts_nothing_refuses_and_never_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("enclave.sock");
        let name = format!("sigil-test-full-{}", std::process::id());
        for (bound, address) in [
            (SocketAddrUnix::new(&path).unwrap(), EnclaveAddress::UnixPath(path.clone())),
            (
                SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap(),
                EnclaveAddress::UnixAbstract(name.clone()),
            ),
        ] {
            let flags = SocketFlags::CLOEXEC;
            let listener =
                socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
            bind(&listener, &bound).unwrap();
            listen(&listener, 1).unwrap();
            let mut waiting = Vec::new();
            let refused = loop {
                match EnclaveStream::connect(&address).await {
                    Ok(stream) => waiting.push(stream),
                    Err(error) => break error,
                }
                assert!(waiting.len() < 8, "the queue of 1 never fills");
            };
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            assert!(!waiting.is_empty());
        }
    }
}
