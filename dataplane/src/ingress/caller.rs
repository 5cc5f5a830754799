//! Callers are not authenticated yet, so whoever reaches the listener may ask. A web page on the same
//! machine must not be among them: its requests name their `Origin`, and after DNS rebinding their
//! `Host` is still the page's own name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Request;
use http::header::{HOST, ORIGIN};

use super::peer::Peer;
use crate::error::{Code, Error};

/// Refuses what only a browser sends. On a unix socket and inside TLS any host will do: no page of a
/// foreign name gets there.
pub(crate) fn check<B>(request: &Request<B>, peer: &Peer) -> Result<(), Error> {
    if request.headers().contains_key(ORIGIN) {
        return Err(denied("origin", "requests of web pages (with an Origin header) are refused"));
    }
    if !peer.may_be_a_web_page() {
        return Ok(());
    }
    // HTTP/2 has the name in the URI, HTTP/1.1 in the header, and either may have both.
    let in_uri = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    let mut names = request.headers().get_all(HOST).iter().map(http::HeaderValue::as_bytes);
    if in_uri.is_none_or(is_loopback) && names.all(is_loopback) {
        return Ok(());
    }
    Err(denied(
        "host",
        "the Host must be localhost, 127.0.0.0/8 or [::1]: this listener serves its own machine only",
    ))
}

fn denied(field: &'static str, detail: &'static str) -> Error {
    Error { field: Some(field.into()), ..Error::new(Code::PermissionDenied, detail) }
}

/// `host` or `host:port` of RFC 9110, section 7.2.
fn is_loopback(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let is_port = |port: &str| port.bytes().all(|digit| digit.is_ascii_digit());
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(address, rest)| {
            address.parse() == Ok(Ipv6Addr::LOCALHOST)
                && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))
        });
    }
    let (name, port) = host.split_once(':').unwrap_or((host, ""));
    let loopback = name.parse::<Ipv4Addr>().is_ok_and(|address| IpAddr::V4(address).is_loopback());
    is_port(port) && (loopback || name.eq_ignore_ascii_case("localhost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn web_pages_are_refused_by_origin_and_by_host() {
        let request = |name: &str, value: &str| {
            Request::post("/create").header(name, value).body(()).unwrap()
        };
        for origin in ["http://evil.example", "null", "http://127.0.0.1:8080"] {
            for peer in [Peer::Unix { uid: 7 }, Peer::Loopback, Peer::Anonymous] {
                let error = check(&request("origin", origin), &peer).unwrap_err();
                assert_eq!((error.code, error.status()), (Code::PermissionDenied, 403));
                assert_eq!(error.field.as_deref(), Some("origin"));
            }
        }
        for good in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1",
            "127.0.0.1:8080",
            "127.9.8.7",
            "[::1]",
            "[::1]:8080",
        ] {
            assert!(check(&request("host", good), &Peer::Loopback).is_ok(), "{good}");
        }
        for bad in [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "128.0.0.1",
            "[::2]",
            "[::1",
            "[::1]x",
            "localhost:x",
            "",
            "user@localhost",
        ] {
            let error = check(&request("host", bad), &Peer::Loopback).unwrap_err();
            assert_eq!(error.field.as_deref(), Some("host"), "{bad}");
            for peer in [Peer::Unix { uid: 7 }, Peer::Anonymous] {
                assert!(check(&request("host", bad), &peer).is_ok(), "{bad} from {peer}");
            }
        }
        let authority = |uri: &str| Request::post(uri).body(()).unwrap();
        assert!(check(&authority("http://localhost:8080/sign"), &Peer::Loopback).is_ok());
        assert!(check(&authority("http://evil.example/sign"), &Peer::Loopback).is_err());
        assert!(check(&authority("/sign"), &Peer::Loopback).is_ok(), "HTTP/1.0 has no host");
    }
}
