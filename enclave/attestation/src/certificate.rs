//! The two extensions that AWS' process asks to be checked and webpki leaves alone: key usage, and
//! the path length of a leaf. Reads DER (X.690) of certificates whose form webpki has accepted.

const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const INTEGER: u8 = 0x02;
/// `[3]` of TBSCertificate (RFC 5280, section 4.1).
const EXTENSIONS: u8 = 0xa3;

/// 2.5.29.15
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
/// 2.5.29.19
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];

/// Bit 0 of KeyUsage (RFC 5280, section 4.2.1.3).
pub(crate) const DIGITAL_SIGNATURE: u8 = 0x80;
/// Bit 5 of KeyUsage.
pub(crate) const KEY_CERT_SIGN: u8 = 0x04;

/// True if the certificate says that its key may be used for `usage`. One that does not say is no.
pub(crate) fn may(certificate: &[u8], usage: u8) -> bool {
    let bits = extension(certificate, KEY_USAGE).and_then(|value| element(value, BIT_STRING));
    // The first byte counts the unused bits of the last.
    bits.and_then(|bits| bits.get(1)).is_some_and(|bits| bits & usage != 0)
}

/// True if basic constraints name a path length.
pub(crate) fn has_path_length(certificate: &[u8]) -> bool {
    let constraints = extension(certificate, BASIC_CONSTRAINTS).and_then(read);
    constraints.is_some_and(|(_, fields, _)| element(fields, INTEGER).is_some())
}

/// The value of an extension.
fn extension<'a>(certificate: &'a [u8], id: &[u8]) -> Option<&'a [u8]> {
    let (_, certificate, _) = read(certificate)?;
    let (_, tbs, _) = read(certificate)?;
    let (_, mut extensions, _) = read(element(tbs, EXTENSIONS)?)?;
    while let Some((_, extension, rest)) = read(extensions) {
        let (_, name, fields) = read(extension)?;
        if name == id {
            return element(fields, OCTET_STRING);
        }
        extensions = rest;
    }
    None
}

/// The first element of a tag among those that follow each other.
fn element(mut bytes: &[u8], wanted: u8) -> Option<&[u8]> {
    loop {
        let (tag, value, rest) = read(bytes)?;
        if tag == wanted {
            return Some(value);
        }
        bytes = rest;
    }
}

/// Tag and value of the first element, and what follows it. Certificates have at most 1,024 bytes,
/// so lengths have at most two.
fn read(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (length, rest) = match bytes.get(1..)? {
        [0x82, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        [0x81, length, rest @ ..] | [length @ ..=0x7f, rest @ ..] => (usize::from(*length), rest),
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((*bytes.first()?, value, rest))
}
