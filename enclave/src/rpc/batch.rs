//! The messages of the `Sign` stream: a batch is checked before anything of it is kept, and its
//! answers are written once, into the message that goes out.

use sigil_enclave_protocol::bounds::BATCH_ITEMS_MAX;
use sigil_enclave_protocol::v1::ErrorCode;
use sigil_enclave_protocol::wire::{WireType, decode_varint, field, put_bytes, put_number};

use super::check;
use super::reply::Refused;
use crate::keys::KeyName;
use crate::signer::Signature;

/// Bytes of a result: its head and tag, the signature, recovery id and public key.
pub(super) const RESULT_BYTES_MAX: usize = 2 + 6 + 66 + 2 + 35;

/// A `SignBatch` that was received: the tag of each item, and the item or why it is refused.
pub type Batch = Box<[(u32, Result<Item, ErrorCode>)]>;

/// A `SignItem` within all bounds.
#[derive(Debug, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub name: KeyName,
    /// What is signed.
    pub digest: [u8; 32],
    /// The blob, if it came along.
    pub blob: Option<Box<[u8]>>,
}

/// Reads a `SignBatch` as prost would. None if it is none, or if it has too many items: what comes
/// after the last of [`BATCH_ITEMS_MAX`] is not looked at.
pub fn read(mut message: &[u8]) -> Option<Batch> {
    let mut items = Vec::with_capacity(BATCH_ITEMS_MAX);
    let mut known = None;
    while !message.is_empty() {
        match field(&mut message)? {
            (1, WireType::LengthDelimited, item) if items.len() < BATCH_ITEMS_MAX => {
                let (tag, fields) = read_item(item)?;
                items.push((tag, check::item(fields, &mut known)));
            }
            (1, ..) => return None,
            _ => {}
        }
    }
    Some(items.into())
}

/// The tag of a `SignItem`, and its fields from the second on.
fn read_item(mut item: &[u8]) -> Option<(u32, [&[u8]; 5])> {
    let (mut tag, mut fields) = (0, [&[][..]; 5]);
    while !item.is_empty() {
        match field(&mut item)? {
            (1, WireType::Varint, mut value) => tag = decode_varint(&mut value).ok()?,
            (number @ 2..=6, WireType::LengthDelimited, value) => {
                *fields.get_mut(number as usize - 2)? = value;
            }
            (1..=6, ..) => return None,
            _ => {}
        }
    }
    // Of a longer number protobuf takes the low bits.
    Some((u32::try_from(tag & u64::from(u32::MAX)).ok()?, fields))
}

/// Adds an answer to a `SignBatchResult`, byte for byte as prost writes it.
pub(super) fn put(out: &mut Vec<u8>, tag: u32, signed: Result<(&Signature, &[u8; 33]), Refused>) {
    // One byte for its length, which is written last.
    out.extend_from_slice(&[1 << 3 | 2, 0]);
    let start = out.len();
    put_number(out, 1, tag);
    match signed {
        Ok((signature, public_key)) => {
            put_bytes(out, 3, &signature.compact);
            put_number(out, 4, signature.recovery_id.into());
            put_bytes(out, 5, public_key);
        }
        Err(Refused { code, dek_id }) => {
            put_number(out, 2, code as u32);
            put_bytes(out, 6, dek_id.as_ref().map_or(&[], |id| id));
        }
    }
    // At most RESULT_BYTES_MAX, which is below 128.
    let length = u8::try_from(out.len() - start).unwrap_or_default();
    out.get_mut(start - 1).into_iter().for_each(|byte| *byte = length);
}

#[cfg(test)]
mod tests;
