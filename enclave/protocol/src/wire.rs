//! protobuf by hand, for the messages of the `Sign` stream: prost would allocate for each field of
//! each item before anything is looked at. It reads and writes all others, and is what this and
//! its users are compared with. Format: <https://protobuf.dev/programming-guides/encoding/>.

use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, decode_key, encode_varint, skip_field};
pub use prost::encoding::{WireType, decode_varint};
use prost::{DecodeError, Message};

/// A message as it is on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Raw(pub Bytes);

impl Message for Raw {
    fn merge(&mut self, mut buf: impl Buf) -> Result<(), DecodeError> {
        self.0 = buf.copy_to_bytes(buf.remaining());
        Ok(())
    }

    /// Not called: `merge` takes all fields as they are.
    fn merge_field(
        &mut self,
        number: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        skip_field(wire_type, number, buf, context)
    }

    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.0);
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// Takes the next field of a message: its number, kind and value, without the length of one that has
/// it. None if the bytes are no message.
pub fn field<'a>(message: &mut &'a [u8]) -> Option<(u32, WireType, &'a [u8])> {
    let (number, wire_type) = decode_key(message).ok()?;
    if wire_type == WireType::LengthDelimited {
        let length = usize::try_from(decode_varint(message).ok()?).ok()?;
        return Some((number, wire_type, message.split_off(..length)?));
    }
    let value = *message;
    skip_field(wire_type, number, message, DecodeContext::default()).ok()?;
    Some((number, wire_type, value.get(..value.len() - message.len())?))
}

/// Writes a number unless it is zero. `number` is that of a field, below 16.
pub fn put_number(out: &mut Vec<u8>, number: u8, value: u32) {
    if value != 0 {
        out.push(number << 3);
        encode_varint(value.into(), out);
    }
}

/// Writes bytes unless there are none. `number` is that of a field, below 16.
pub fn put_bytes(out: &mut Vec<u8>, number: u8, value: &[u8]) {
    if !value.is_empty() {
        out.push(number << 3 | 2);
        encode_varint(value.len() as u64, out);
        out.extend_from_slice(value);
    }
}
