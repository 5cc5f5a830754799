//! A second reader of BER (X.690), independent of the enclave's: generic, recursive, and generous.
//! It rewrites what it reads with definite lengths, so that the enclave's reader can be asked
//! whether both spellings mean the same.

/// Deeper than any envelope; recursion ends here.
const DEPTH_MAX: usize = 16;

/// A value.
enum Value<'a> {
    Primitive(&'a [u8]),
    Constructed(Vec<(u8, Self)>),
}

/// The same value with definite lengths, and chunks of encrypted content joined into one.
pub(crate) fn normalized(bytes: &[u8]) -> Option<Vec<u8>> {
    let (tag, value, rest) = read(bytes, DEPTH_MAX)?;
    rest.is_empty().then(|| {
        let mut out = Vec::new();
        write(&mut out, tag, &value);
        out
    })
}

fn read(bytes: &[u8], depth: usize) -> Option<(u8, Value<'_>, &[u8])> {
    let depth = depth.checked_sub(1)?;
    let (&[tag, length], rest) = bytes.split_first_chunk()?;
    let constructed = tag & 0x20 != 0;
    if length == 0x80 {
        let mut rest = constructed.then_some(rest)?;
        let mut values = Vec::new();
        while !rest.starts_with(&[0, 0]) {
            let (tag, value, after) = read(rest, depth)?;
            values.push((tag, value));
            rest = after;
        }
        return Some((tag, Value::Constructed(values), rest.get(2..)?));
    }
    let (length, rest) = if length < 0x80 {
        (usize::from(length), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
        let length = digits.iter().try_fold(0_usize, |length, digit| {
            length.checked_mul(256)?.checked_add(usize::from(*digit))
        })?;
        (length, rest)
    };
    let (mut inner, rest) = rest.split_at_checked(length)?;
    if !constructed {
        return Some((tag, Value::Primitive(inner), rest));
    }
    let mut values = Vec::new();
    while !inner.is_empty() {
        let (tag, value, after) = read(inner, depth)?;
        values.push((tag, value));
        inner = after;
    }
    Some((tag, Value::Constructed(values), rest))
}

fn write(out: &mut Vec<u8>, tag: u8, value: &Value<'_>) {
    let mut inner = Vec::new();
    let mut tag = tag;
    match value {
        Value::Primitive(bytes) => inner.extend_from_slice(bytes),
        Value::Constructed(values) => {
            // `[0]` of octet strings is chunked content (RFC 5652, section 6.1): joined.
            let chunks = !values.is_empty() && values.iter().all(|(tag, _)| *tag == 0x04);
            if tag == 0xa0 && chunks {
                tag = 0x80;
            }
            for (inner_tag, value) in values {
                match value {
                    Value::Primitive(bytes) if tag == 0x80 => inner.extend_from_slice(bytes),
                    _ => write(&mut inner, *inner_tag, value),
                }
            }
        }
    }
    out.push(tag);
    let [high, low] = u16::try_from(inner.len()).expect("shorter than an input").to_be_bytes();
    match inner.len() {
        0..=0x7f => out.push(low),
        0x80..=0xff => out.extend([0x81, low]),
        _ => out.extend([0x82, high, low]),
    }
    out.append(&mut inner);
}
