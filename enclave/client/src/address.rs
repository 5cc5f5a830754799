//! Enclave addresses as URIs: `vsock://CID:PORT`, `unix://PATH`, `unix:PATH`, `unix:@ABSTRACT`,
//! `vhost-vsock://PATH:PORT`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where an enclave listens. An address is not an identity: see `boot_id`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EnclaveAddress {
    /// A context id and port of AF_VSOCK.
    Vsock {
        /// Context id of the enclave.
        cid: u32,
        /// Port, 5000 by convention.
        port: u32,
    },
    /// A unix socket with a path (development).
    UnixPath(PathBuf),
    /// A unix socket with an abstract name, of the network namespace (development).
    UnixAbstract(String),
    /// A port of a machine whose vsock is a unix socket of this host (QEMU); see [`crate::vhost`].
    VhostVsock {
        /// The unix socket.
        path: PathBuf,
        /// Port, 5000 by convention.
        port: u32,
    },
}

/// A text that is none of the address forms.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no enclave address: expected vsock://CID:PORT, unix://PATH, unix:PATH, unix:@NAME \
     or vhost-vsock://PATH:PORT"
)]
pub struct AddressError(String);

impl FromStr for EnclaveAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || AddressError(text.to_owned());
        // One spelling: neither a sign nor leading zeros.
        let number = |digits: &str| match digits.parse::<u32>() {
            Ok(number) if number.to_string() == digits => Ok(number),
            _ => Err(error()),
        };
        if let Some(rest) = text.strip_prefix("vsock://") {
            let (cid, port) = rest.split_once(':').ok_or_else(error)?;
            return Ok(Self::Vsock { cid: number(cid)?, port: number(port)? });
        }
        let is_path = |path: &&str| !path.is_empty() && !path.contains('\0');
        if let Some(rest) = text.strip_prefix("vhost-vsock://") {
            let (path, port) = rest.rsplit_once(':').ok_or_else(error)?;
            let path = Some(path).filter(is_path).ok_or_else(error)?;
            return Ok(Self::VhostVsock { path: path.into(), port: number(port)? });
        }
        let path = text
            .strip_prefix("unix://")
            .or_else(|| text.strip_prefix("unix:"))
            .filter(is_path)
            // Behind `unix:` it would read as another form.
            .filter(|path| !path.starts_with("//"))
            .ok_or_else(error)?;
        match path.strip_prefix('@') {
            Some("") => Err(error()),
            Some(name) => Ok(Self::UnixAbstract(name.to_owned())),
            None => Ok(Self::UnixPath(path.into())),
        }
    }
}

impl fmt::Display for EnclaveAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vsock { cid, port } => write!(f, "vsock://{cid}:{port}"),
            Self::UnixPath(path) => write!(f, "unix:{}", path.display()),
            Self::UnixAbstract(name) => write!(f, "unix:@{name}"),
            Self::VhostVsock { path, port } => {
                write!(f, "vhost-vsock://{}:{port}", path.display())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_reads_back() {
        for text in [
            "vsock://16:5000",
            "unix:/run/e.sock",
            "unix:@sigil",
            "vhost-vsock:///run/a:b/vm.vsock:5000",
        ] {
            assert_eq!(text.parse::<EnclaveAddress>().unwrap().to_string(), text);
        }
        let long = "unix:///run/e.sock".parse::<EnclaveAddress>().unwrap();
        assert_eq!(long, EnclaveAddress::UnixPath("/run/e.sock".into()));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "vsock://16",
            "vsock://x:1",
            "vsock://-1:1",
            "vsock://+1:1",
            "vsock://16:05000",
            "unix:////run/e.sock",
            "unix:",
            "unix:@",
            "tcp://a:1",
            "vhost-vsock:///run/vm.vsock",
            "vhost-vsock://:5000",
            "vhost-vsock:///run/vm.vsock:x",
        ] {
            assert!(text.parse::<EnclaveAddress>().is_err(), "{text}");
        }
    }
}
