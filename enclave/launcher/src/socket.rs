//! Unix sockets by path or abstract name (`@name`).

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream};
use std::path::PathBuf;
use std::str::FromStr;

use sigil_enclave_protocol::EnclaveAddress;
use tokio::net::{UnixListener, UnixStream};

/// Name of a unix socket: `@NAME` is abstract and belongs to the network namespace, anything else
/// is a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketName {
    /// An abstract name.
    Abstract(String),
    /// A path of the file system.
    Path(PathBuf),
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

/// Connects to an enclave that is a process of this machine.
///
/// # Errors
/// Nobody listens there, or the address is one of vsock.
pub fn connect(address: &EnclaveAddress) -> io::Result<UnixStream> {
    let stream = match address {
        EnclaveAddress::UnixAbstract(name) => {
            StdStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?
        }
        EnclaveAddress::UnixPath(path) => StdStream::connect(path)?,
        EnclaveAddress::Vsock { .. } => {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "an enclave process listens on a unix socket",
            ));
        }
    };
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}
