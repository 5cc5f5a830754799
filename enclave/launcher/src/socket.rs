//! Unix sockets by path or abstract name (`@name`).

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener};
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use sigil_enclave_client::EnclaveAddress;
use sigil_enclave_client::vhost::ask_for_port;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio_vsock::{VsockAddr, VsockStream};

/// Name of a unix socket: `@NAME` is abstract and belongs to the network namespace, anything else
/// is a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketName {
    /// An abstract name.
    Abstract(String),
    /// A path of the file system.
    Path(PathBuf),
}

/// The name of an abstract unix socket, as `@NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbstractName(pub String);

impl FromStr for AbstractName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse()? {
            SocketName::Abstract(name) => Ok(Self(name)),
            SocketName::Path(_) => Err("expected `@NAME`".to_owned()),
        }
    }
}

impl AbstractName {
    /// Listens.
    ///
    /// # Errors
    /// The name is in use.
    pub fn listen(&self) -> io::Result<UnixListener> {
        SocketName::Abstract(self.0.clone()).listen()
    }
}

impl FromStr for SocketName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix('@') {
            Some("") => Err("an abstract socket needs a name after `@`".to_owned()),
            Some(name) => Ok(Self::Abstract(name.to_owned())),
            None if text.is_empty() => Err("a socket needs a path or `@name`".to_owned()),
            None => Ok(Self::Path(text.into())),
        }
    }
}

impl SocketName {
    /// Listens. A path left behind by an earlier process is removed first; access is for the owner.
    ///
    /// # Errors
    /// The name is in use or cannot be made.
    pub fn listen(&self) -> io::Result<UnixListener> {
        let listener = match self {
            Self::Abstract(name) => StdListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?,
            Self::Path(path) => {
                match std::fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                let listener = StdListener::bind(path)?;
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
                listener
            }
        };
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener)
    }
}

/// A connection to an enclave.
#[derive(Debug)]
pub enum EnclaveStream {
    /// To a process of this machine.
    Unix(UnixStream),
    /// To a virtual machine.
    Vsock(VsockStream),
}

impl EnclaveStream {
    /// The process at the other end, if it is one of this machine.
    pub fn peer(&self) -> Option<i32> {
        match self {
            Self::Unix(stream) => stream.peer_cred().ok()?.pid(),
            Self::Vsock(_) => None,
        }
    }
}

/// Connects to an enclave, up to its first byte.
///
/// # Errors
/// Nobody listens there, or nobody answers for the guest's port.
pub async fn open(address: &EnclaveAddress) -> io::Result<EnclaveStream> {
    if let EnclaveAddress::Vsock { cid, port } = address {
        let stream = VsockStream::connect(VsockAddr::new(*cid, *port)).await?;
        return Ok(EnclaveStream::Vsock(stream));
    }
    let mut stream = connect(address)?;
    if let EnclaveAddress::VhostVsock { port, .. } = address {
        ask_for_port(&mut stream, *port).await?;
    }
    Ok(EnclaveStream::Unix(stream))
}

impl AsyncRead for EnclaveStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Vsock(stream) => Pin::new(stream).poll_read(cx, buffer),
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
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Vsock(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Vsock(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Vsock(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Connects to the process of this machine that is an enclave or holds one's vsock.
///
/// # Errors
/// Nobody listens there, the listener's queue is full (`WouldBlock`), or the address is one of vsock.
pub fn connect(address: &EnclaveAddress) -> io::Result<UnixStream> {
    let address = match address {
        EnclaveAddress::UnixAbstract(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
        EnclaveAddress::UnixPath(path) | EnclaveAddress::VhostVsock { path, .. } => {
            SocketAddrUnix::new(path.as_path())?
        }
        EnclaveAddress::Vsock { .. } => {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this launcher's enclave listens on a unix socket",
            ));
        }
    };
    // A blocking connect would wait while the listener's queue is full; this one is refused then.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &address)?;
    UnixStream::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{bind, listen};

    #[test]
    fn an_abstract_name_is_no_path() {
        assert_eq!("@vsock".parse(), Ok(AbstractName("vsock".to_owned())));
        for text in ["", "@", "/run/vm.vsock"] {
            assert!(text.parse::<AbstractName>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_full_queue_is_an_error_and_never_a_wait() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("enclave.sock");
        let flags = SocketFlags::CLOEXEC;
        let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&listener, 1).unwrap();
        let address = EnclaveAddress::UnixPath(path);
        let mut waiting = Vec::new();
        let full = loop {
            match connect(&address) {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
            assert!(waiting.len() < 8, "the queue of 1 never fills");
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    }
}
