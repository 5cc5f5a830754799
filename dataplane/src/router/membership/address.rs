//! Where a member is reached: `host:port`, or in development `unix:/path`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Bytes of an address, as in the SignerRing.
const ADDRESS_BYTES_MAX: usize = 259;
/// Bytes of a unix socket's path, by Linux (`sun_path`, with its end).
const PATH_BYTES_MAX: usize = 107;

/// Where a member is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PeerAddress {
    /// A name or an IP address (an IPv6 one in brackets), and a port that is not 0.
    Tcp {
        /// Without brackets.
        host: String,
        /// 1..=65535.
        port: u16,
    },
    /// A socket on the same machine, for development.
    Unix(PathBuf),
}

// === impl PeerAddress ===

impl PeerAddress {
    /// Whether bytes to it never leave the machine, whoever answers for its name.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp { host, .. } => {
                host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
            }
            Self::Unix(_) => true,
        }
    }
}

impl FromStr for PeerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is neither host:port nor unix:/path");
        if text.len() > ADDRESS_BYTES_MAX {
            return Err(format!("longer than {ADDRESS_BYTES_MAX} bytes"));
        }
        if let Some(path) = text.strip_prefix("unix:") {
            let fits = path.starts_with('/') && path.len() <= PATH_BYTES_MAX;
            return if fits && !path.contains('\0') {
                Ok(Self::Unix(path.into()))
            } else {
                Err(wrong())
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let decimal = port.bytes().all(|byte| byte.is_ascii_digit()) && !port.starts_with('0');
        let port = port.parse().ok().filter(|_| decimal).ok_or_else(wrong)?;
        if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            let address: std::net::Ipv6Addr = inner.parse().map_err(|_| wrong())?;
            return Ok(Self::Tcp { host: address.to_string(), port });
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if host.is_empty() || !host.bytes().all(allowed) {
            return Err(wrong());
        }
        Ok(Self::Tcp { host: host.to_owned(), port })
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_one_spelling_and_know_whether_they_leave_the_machine() {
        for (text, local) in [
            ("10.0.0.7:8443", false),
            ("node-1.signer.payments.svc:8443", false),
            ("localhost:8443", false),
            ("127.0.0.1:8443", true),
            ("[::1]:8443", true),
            ("[fd00::7]:1", false),
            ("unix:/run/signer.sock", true),
        ] {
            let address: PeerAddress = text.parse().unwrap();
            assert_eq!((address.to_string().as_str(), address.is_local()), (text, local));
        }
        for bad in [
            "",
            ":1",
            "host",
            "host:",
            "host:0",
            "host:01",
            "host:+1",
            "host:65536",
            "::1:80",
            "[::1]",
            "[host]:1",
            "a b:1",
            "http://host:1",
            "unix:run",
            "unix:",
            "host:1/path",
        ] {
            assert!(bad.parse::<PeerAddress>().is_err(), "{bad}");
        }
        let long = format!("unix:/{}", "x".repeat(PATH_BYTES_MAX));
        assert!(long.parse::<PeerAddress>().is_err());
    }
}
