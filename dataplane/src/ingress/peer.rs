//! Who is at the other end of a connection, as far as the connection itself shows. What a request says
//! about its sender (a token, say) is not here.

use std::fmt;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use webpki::EndEntityCert;

/// DER tags of a subject's parts (X.690, 8.1.2; X.520).
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
/// `id-at-commonName`, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// Bytes of a name; longer ones are somebody's mistake, and they go into logs.
const NAME_BYTES_MAX: usize = 512;

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Cleartext TCP, which only a loopback listener takes: any process of this machine.
    Loopback,
    /// A process of this user on this machine, by the kernel's word.
    Unix {
        /// Effective user when it connected.
        uid: u32,
    },
    /// TLS without a certificate of the client.
    Anonymous,
    /// TLS, and the client has the key of a certificate that a trusted authority issued.
    Certificate(Subject),
}

/// The one name that a verified certificate gives its holder: its first URI (as SPIFFE has it), else its
/// first DNS name, else its common name. Shown and compared as `uri:NAME`, `dns:NAME` or `cn:NAME`, so
/// that a name of one kind never passes for one of another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Subject(Arc<str>);

// === impl Peer ===

impl Peer {
    /// Whether a web page in a browser of this machine could be it: it reaches loopback by any name that
    /// its author chose, and has neither a unix socket nor a certificate for that name.
    pub(crate) fn may_be_a_web_page(&self) -> bool {
        matches!(self, Self::Loopback)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => f.write_str("loopback"),
            Self::Unix { uid } => write!(f, "unix:{uid}"),
            Self::Anonymous => f.write_str("anonymous"),
            Self::Certificate(subject) => subject.fmt(f),
        }
    }
}

// === impl Subject ===

impl Subject {
    /// Of a certificate that was verified; none if it names nobody in a way that can be told.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let read = EndEntityCert::try_from(certificate).ok()?;
        let uri = read.valid_uri_names().next().map(|name| ("uri", name));
        let found = uri.or_else(|| read.valid_dns_names().next().map(|name| ("dns", name)));
        let (kind, name) = match found {
            Some(found) => found,
            None => ("cn", common_name(read.subject())?),
        };
        let printable = !name.is_empty() && !name.chars().any(char::is_control);
        (printable && name.len() <= NAME_BYTES_MAX).then(|| Self(format!("{kind}:{name}").into()))
    }

    /// `uri:NAME`, `dns:NAME` or `cn:NAME`.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The common name of an X.501 name (RFC 5280, 4.1.2.4) if there is exactly one.
fn common_name(mut name: &[u8]) -> Option<&str> {
    let mut found = None;
    while !name.is_empty() {
        let (mut set, rest) = element(name, SET)?;
        name = rest;
        while !set.is_empty() {
            let (attribute, rest) = element(set, SEQUENCE)?;
            set = rest;
            let (kind, value) = element(attribute, OBJECT_IDENTIFIER)?;
            if kind != COMMON_NAME {
                continue;
            }
            let text = element(value, UTF8_STRING).or_else(|| element(value, PRINTABLE_STRING));
            let text = std::str::from_utf8(text?.0).ok()?;
            if found.replace(text).is_some() {
                return None;
            }
        }
    }
    found
}

/// The content of the element with `tag` at the start of `der`, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81 => rest.split_first().map(|(&length, rest)| (usize::from(length), rest))?,
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    (first == tag).then(|| rest.split_at_checked(length)).flatten()
}

#[cfg(test)]
mod tests {
    use rcgen::string::Ia5String;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn subject(names: &[SanType], common_names: &[&str]) -> Option<String> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = names.to_vec();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Example");
        for name in common_names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Subject::of(certificate.der()).map(|subject| subject.to_string())
    }

    #[test]
    fn a_certificate_gives_one_name_whose_kind_shows() {
        let name = |text: &str| Ia5String::try_from(text).unwrap();
        let uri = SanType::URI(name("spiffe://example.org/ns/payments/sa/api"));
        let (first, second) =
            (SanType::DnsName(name("a.example")), SanType::DnsName(name("b.example")));
        let all = [first.clone(), uri, second.clone()];
        let spiffe = "uri:spiffe://example.org/ns/payments/sa/api";
        assert_eq!(subject(&all, &["x"]).as_deref(), Some(spiffe));
        assert_eq!(subject(&[first, second], &["x"]).as_deref(), Some("dns:a.example"));
        assert_eq!(subject(&[], &["batch job é"]).as_deref(), Some("cn:batch job é"));
        // A common name cannot pose as a name of another kind.
        assert_eq!(subject(&[], &["uri:x"]).as_deref(), Some("cn:uri:x"));
    }

    #[test]
    fn a_certificate_that_names_nobody_gives_no_subject() {
        assert_eq!(subject(&[], &[]), None);
        assert_eq!(subject(&[], &[""]), None);
        assert_eq!(subject(&[], &["two\nlines"]), None);
        assert_eq!(subject(&[], &[&"x".repeat(NAME_BYTES_MAX + 1)]), None);
        assert_eq!(Subject::of(&CertificateDer::from(vec![0x30, 0])), None);
    }

    #[test]
    fn a_name_that_is_cut_or_has_two_common_names_gives_none() {
        let attribute = |text: &str| {
            let mut der = vec![OBJECT_IDENTIFIER, 3];
            der.extend_from_slice(COMMON_NAME);
            der.extend([UTF8_STRING, u8::try_from(text.len()).unwrap()]);
            der.extend_from_slice(text.as_bytes());
            let wrap =
                |tag, der: Vec<u8>| [vec![tag, u8::try_from(der.len()).unwrap()], der].concat();
            wrap(SET, wrap(SEQUENCE, der))
        };
        let one = attribute("a");
        assert_eq!(common_name(&one), Some("a"));
        assert_eq!(common_name(&[one.clone(), attribute("b")].concat()), None);
        for cut in 1..one.len() {
            assert_eq!(common_name(&one[..cut]), None, "{cut}");
        }
        let long = "x".repeat(300);
        let mut element_ = vec![UTF8_STRING, 0x82, 1, 44];
        element_.extend_from_slice(long.as_bytes());
        assert_eq!(element(&element_, UTF8_STRING), Some((long.as_bytes(), &[][..])));
        assert_eq!(element(&[UTF8_STRING, 0x81, 1, 7], UTF8_STRING), Some((&[7][..], &[][..])));
        assert_eq!(element(&[UTF8_STRING, 0x84, 0, 0, 0, 1, 7], UTF8_STRING), None);
    }
}
