//! The id that a request has in its answer and in every log line about it.

use std::cell::Cell;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header, in requests and answers. A name that is known beforehand is not parsed with each.
pub(crate) static HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Characters of an id that a caller gives.
const CHARACTERS_MAX: usize = 64;

/// The id of a request with these headers.
pub(crate) fn of(headers: &HeaderMap) -> Arc<str> {
    accept_or_make(headers.get(&HEADER).map(HeaderValue::as_bytes))
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
    Arc::from(&*const_hex::Buffer::<8>::new().format(&next().to_be_bytes()))
}

thread_local! {
    static STATE: Cell<u64> = Cell::new({
        let mut bytes = [0; 8];
        // Ids that repeat would confuse logs, and nothing else.
        let _ = aws_lc_rs::rand::fill(&mut bytes);
        u64::from_be_bytes(bytes)
    });
}

/// SplitMix64 (Steele, Lea, Flood 2014): an id names a request and guards nothing, and the library's
/// generator would cost a tenth of a request.
fn next() -> u64 {
    let state = STATE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    STATE.set(state);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
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
