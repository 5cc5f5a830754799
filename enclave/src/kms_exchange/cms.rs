//! Reader of the one CMS structure (RFC 5652) that KMS makes: `EnvelopedData` for one recipient,
//! in BER. KMS writes indefinite lengths and the content in chunks; definite lengths and primitive
//! content are read too. Nothing is recursive: the depth is that of the code.

use super::recipient::RSA_BYTES;

/// Bytes of an envelope, from the KMS API model.
const ENVELOPE_BYTES_MAX: usize = 6_144;
/// Bytes of encrypted content: 32 and their padding to whole blocks.
const CONTENT_BYTES_MAX: usize = 48;

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const NULL: u8 = 0x05;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0]`, primitive.
const CONTEXT_0_PRIMITIVE: u8 = 0x80;
/// `[0]` and `[1]`, constructed.
const CONTEXT_0: u8 = 0xa0;
const CONTEXT_1: u8 = 0xa1;
/// Length byte of a value that ends with [`END_OF_CONTENTS`].
const INDEFINITE: u8 = 0x80;
const END_OF_CONTENTS: [u8; 2] = [0, 0];

/// 1.2.840.113549.1.7.3
const ENVELOPED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x03];
/// 1.2.840.113549.1.7.1
const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
/// 1.2.840.113549.1.1.7
const RSAES_OAEP: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x07];
/// 1.2.840.113549.1.1.8
const MGF1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08];
/// 2.16.840.1.101.3.4.2.1
const SHA_256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
/// 2.16.840.1.101.3.4.1.42
const AES_256_CBC: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x2a];
/// Version of `EnvelopedData` and of `KeyTransRecipientInfo` when the recipient is named by its
/// key identifier.
const VERSION: &[u8] = &[2];

/// What is in an envelope.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Envelope<'a> {
    /// SHA-256 of the recipient's SubjectPublicKeyInfo.
    pub(super) key_identifier: [u8; 32],
    /// The content key under RSAES-OAEP.
    pub(super) encrypted_key: &'a [u8],
    /// Of AES-256-CBC.
    pub(super) iv: [u8; 16],
    /// The encrypted content, all chunks together.
    pub(super) content: Vec<u8>,
}

/// Not the structure that KMS makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// What is left of the input, or of one value of definite length.
struct Reader<'a>(&'a [u8]);

/// Reads an envelope and nothing after it.
pub(super) fn parse(bytes: &[u8]) -> Result<Envelope<'_>, Malformed> {
    if bytes.len() > ENVELOPE_BYTES_MAX {
        return Err(Malformed);
    }
    let mut reader = Reader(bytes);
    let envelope = reader.within(SEQUENCE, |info| {
        info.exactly(OID, ENVELOPED_DATA)?;
        info.within(CONTEXT_0, |explicit| explicit.within(SEQUENCE, enveloped_data))
    })?;
    reader.finish()?;
    Ok(envelope)
}

fn enveloped_data<'a>(reader: &mut Reader<'a>) -> Result<Envelope<'a>, Malformed> {
    reader.exactly(INTEGER, VERSION)?;
    let (key_identifier, encrypted_key) =
        reader.within(SET, |recipients| recipients.within(SEQUENCE, recipient_info))?;
    let (iv, content) = reader.within(SEQUENCE, encrypted_content)?;
    Ok(Envelope { key_identifier, encrypted_key, iv, content })
}

fn recipient_info<'a>(reader: &mut Reader<'a>) -> Result<([u8; 32], &'a [u8]), Malformed> {
    reader.exactly(INTEGER, VERSION)?;
    let key_identifier = reader.array(CONTEXT_0_PRIMITIVE)?;
    reader.within(SEQUENCE, |algorithm| {
        algorithm.exactly(OID, RSAES_OAEP)?;
        algorithm.within(SEQUENCE, oaep_parameters)
    })?;
    let encrypted_key = reader.value(OCTET_STRING)?;
    if encrypted_key.len() != RSA_BYTES {
        return Err(Malformed);
    }
    Ok((key_identifier, encrypted_key))
}

/// Hash and mask function, both with SHA-256, and no label.
fn oaep_parameters(reader: &mut Reader<'_>) -> Result<(), Malformed> {
    reader.within(CONTEXT_0, |hash| hash.within(SEQUENCE, sha_256))?;
    reader.within(CONTEXT_1, |mask| {
        mask.within(SEQUENCE, |mgf| {
            mgf.exactly(OID, MGF1)?;
            mgf.within(SEQUENCE, sha_256)
        })
    })
}

/// Its parameters are NULL or absent (RFC 4055, section 2.1): KMS writes NULL, others do not.
fn sha_256(reader: &mut Reader<'_>) -> Result<(), Malformed> {
    reader.exactly(OID, SHA_256)?;
    if reader.next_is(NULL) { reader.exactly(NULL, &[]) } else { Ok(()) }
}

fn encrypted_content(reader: &mut Reader<'_>) -> Result<([u8; 16], Vec<u8>), Malformed> {
    reader.exactly(OID, DATA)?;
    let iv = reader.within(SEQUENCE, |algorithm| {
        algorithm.exactly(OID, AES_256_CBC)?;
        algorithm.array(OCTET_STRING)
    })?;
    if reader.next_is(CONTEXT_0_PRIMITIVE) {
        let mut content = Vec::new();
        append(&mut content, reader.value(CONTEXT_0_PRIMITIVE)?)?;
        return Ok((iv, content));
    }
    let content = reader.within(CONTEXT_0, |chunks| {
        let mut content = Vec::new();
        while chunks.next_is(OCTET_STRING) {
            append(&mut content, chunks.value(OCTET_STRING)?)?;
        }
        Ok(content)
    })?;
    Ok((iv, content))
}

/// An empty chunk says nothing, so none is accepted: the loop over chunks is bounded by it.
fn append(content: &mut Vec<u8>, chunk: &[u8]) -> Result<(), Malformed> {
    if chunk.is_empty() || content.len().saturating_add(chunk.len()) > CONTENT_BYTES_MAX {
        return Err(Malformed);
    }
    content.extend_from_slice(chunk);
    Ok(())
}

impl<'a> Reader<'a> {
    /// Reads a constructed value with `read`, which must use it up.
    fn within<T>(
        &mut self,
        tag: u8,
        read: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<T, Malformed> {
        self.tag(tag)?;
        if self.0.first() == Some(&INDEFINITE) {
            self.byte()?;
            let value = read(self)?;
            if self.take(END_OF_CONTENTS.len())? != END_OF_CONTENTS {
                return Err(Malformed);
            }
            return Ok(value);
        }
        let length = self.length()?;
        let mut inner = Self(self.take(length)?);
        let value = read(&mut inner)?;
        inner.finish()?;
        Ok(value)
    }

    /// Reads a primitive value.
    fn value(&mut self, tag: u8) -> Result<&'a [u8], Malformed> {
        self.tag(tag)?;
        let length = self.length()?;
        self.take(length)
    }

    fn array<const N: usize>(&mut self, tag: u8) -> Result<[u8; N], Malformed> {
        self.value(tag)?.try_into().map_err(|_| Malformed)
    }

    fn exactly(&mut self, tag: u8, value: &[u8]) -> Result<(), Malformed> {
        if self.value(tag)? == value { Ok(()) } else { Err(Malformed) }
    }

    fn tag(&mut self, tag: u8) -> Result<(), Malformed> {
        if self.byte()? == tag { Ok(()) } else { Err(Malformed) }
    }

    /// A definite length in its shortest form, below 65,536.
    fn length(&mut self) -> Result<usize, Malformed> {
        let (length, shortest) = match self.byte()? {
            short @ 0..=0x7f => (usize::from(short), true),
            0x81 => {
                let length = usize::from(self.byte()?);
                (length, length > 0x7f)
            }
            0x82 => {
                let length = usize::from(u16::from_be_bytes([self.byte()?, self.byte()?]));
                (length, length > 0xff)
            }
            _ => return Err(Malformed),
        };
        if shortest { Ok(length) } else { Err(Malformed) }
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.take(1)?.first().copied().ok_or(Malformed)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn next_is(&self, tag: u8) -> bool {
        self.0.first() == Some(&tag)
    }

    fn finish(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests;
