//! The id that a request has in its answer and in every log line about it.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};

/// Characters of an id that a caller gives.
const CHARACTERS_MAX: usize = 64;

/// The id of a request with these headers.
pub(crate) fn of(headers: &HeaderMap) -> Arc<str> {
    accept_or_make(headers.get("x-request-id").map(HeaderValue::as_bytes))
}

/// The caller's id if it is short and plain, else a new one of 16 hex digits.
fn accept_or_make(given: Option<&[u8]>) -> Arc<str> {
    let plain = |text: &&[u8]| {
        (1..=CHARACTERS_MAX).contains(&text.len())
            && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
    };
    if let Some(text) = given.filter(plain).and_then(|text| std::str::from_utf8(text).ok()) {
        return text.into();
    }
    let mut bytes = [0_u8; 8];
    // An id that repeats would confuse logs, and nothing else.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    Arc::from(&*const_hex::Buffer::<8>::new().format(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_ids_are_kept_and_others_replaced() {
        assert_eq!(&*accept_or_make(Some(b"order-17_a.b")), "order-17_a.b");
        for bad in [&b""[..], b"a b", b"a\nb", "é".as_bytes(), &[b'a'; 65]] {
            let made = accept_or_make(Some(bad));
            assert!(made.len() == 16 && made.bytes().all(|b| b.is_ascii_hexdigit()), "{made}");
        }
        assert_ne!(accept_or_make(None), accept_or_make(None));
    }
}
