//! Sockets that are bound before anything is served, so that a taken port ends the start.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::peer::Peer;
use crate::config::ListenAddress;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1_024;

/// A bound socket that no runtime owns yet.
#[derive(Debug)]
pub(crate) enum Bound {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// A listener of the current runtime.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A client's connection.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Binds `address` once for each of `count` workers; gives the address that was really bound.
pub(crate) fn bind_all(
    address: &ListenAddress,
    count: usize,
) -> io::Result<(Vec<Bound>, ListenAddress)> {
    match address {
        ListenAddress::Tcp(address) => {
            let first = bind_tcp(*address)?;
            let actual = first.local_addr()?;
            let mut bound = vec![Bound::Tcp(first)];
            for _ in 1..count {
                bound.push(Bound::Tcp(bind_tcp(actual)?));
            }
            Ok((bound, ListenAddress::Tcp(actual)))
        }
        ListenAddress::Unix(path) => {
            let first = bind_unix(path)?;
            // Unix sockets have no SO_REUSEPORT: workers accept from one queue.
            let mut bound = Vec::with_capacity(count);
            for _ in 1..count {
                bound.push(Bound::Unix(first.try_clone()?));
            }
            bound.push(Bound::Unix(first));
            Ok((bound, ListenAddress::Unix(path.clone())))
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

fn bind_unix(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    // A socket that a dead process left behind refuses connections; a live one must not be robbed.
    if std::os::unix::net::UnixStream::connect(path)
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    {
        std::fs::remove_file(path)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

// === impl Bound ===

impl Bound {
    /// Hands the socket to the current runtime.
    pub(crate) fn listen(self) -> io::Result<Listener> {
        match self {
            Self::Tcp(listener) => TcpListener::from_std(listener).map(Listener::Tcp),
            Self::Unix(listener) => UnixListener::from_std(listener).map(Listener::Unix),
        }
    }
}

// === impl Listener ===

impl Listener {
    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Self::Unix(listener) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

// === impl Stream ===

impl Stream {
    /// Who is at the other end, before any TLS.
    pub(crate) fn peer(&self) -> io::Result<Peer> {
        match self {
            Self::Tcp(_) => Ok(Peer::Loopback),
            Self::Unix(stream) => Ok(Peer::Unix { uid: stream.peer_cred()?.uid() }),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn workers_share_one_port_that_is_taken_for_others() {
        let any = ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
        let (bound, actual) = bind_all(&any, 3).unwrap();
        assert_eq!(bound.len(), 3);
        let ListenAddress::Tcp(address) = actual else { panic!("not TCP: {actual}") };
        assert_ne!(address.port(), 0);
        let foreign = std::net::TcpListener::bind(address);
        assert_eq!(foreign.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let listeners: Vec<_> = bound.into_iter().map(|socket| socket.listen().unwrap()).collect();
        let client = TcpStream::connect(address).await.unwrap();
        let accepts = listeners.iter().map(|listener| Box::pin(listener.accept()));
        let (accepted, _, _) = futures_util::future::select_all(accepts).await;
        assert!(matches!(accepted, Ok(Stream::Tcp(_))));
        drop(client);
    }

    #[tokio::test]
    async fn a_dead_socket_file_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let address = ListenAddress::Unix(folder.path().join("public.sock"));
        let (first, _) = bind_all(&address, 2).unwrap();
        assert_eq!(bind_all(&address, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        let (mut bound, _) = bind_all(&address, 1).unwrap();
        let listener = bound.pop().unwrap().listen().unwrap();
        let _client = UnixStream::connect(folder.path().join("public.sock")).await.unwrap();
        let peer = listener.accept().await.unwrap().peer().unwrap();
        assert_eq!(peer, Peer::Unix { uid: rustix::process::geteuid().as_raw() });
        let mode = std::fs::metadata(folder.path().join("public.sock")).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
    }
}
