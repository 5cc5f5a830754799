//! CBOR to [`Document`].

use std::collections::BTreeMap;

use minicbor::Decoder;
use minicbor::data::{Tag, Type};

use super::{Document, DocumentError, Pcr, Pcrs, Signed};
use crate::bounds::{
    CABUNDLE_CERTIFICATES_MAX, CERTIFICATE_BYTES_MAX, DOCUMENT_BYTES_MAX, FIELD_BYTES_MAX,
    MODULE_ID_BYTES_MAX, PCR_INDEX_MAX,
};

type Result<T> = std::result::Result<T, DocumentError>;

/// {1: -35}: ES384 (RFC 9053, section 2.1) and no other parameter.
pub(crate) const PROTECTED: [u8; 4] = [0xa1, 0x01, 0x38, 0x22];
const COSE_SIGN1_TAG: u64 = 18;

/// Reads the outer structure (RFC 9052, section 4.2) and its payload.
pub(super) fn cose_sign1(bytes: &[u8]) -> Result<Signed<'_>> {
    if bytes.len() > DOCUMENT_BYTES_MAX {
        return Err(DocumentError::TooLarge);
    }
    let cose = |_| DocumentError::Cose;
    let mut decoder = Decoder::new(bytes);
    if decoder.datatype().map_err(cose)? == Type::Tag
        && decoder.tag().map_err(cose)? != Tag::new(COSE_SIGN1_TAG)
    {
        return Err(DocumentError::Cose);
    }
    if decoder.array().map_err(cose)? != Some(4) {
        return Err(DocumentError::Cose);
    }
    if decoder.bytes().map_err(cose)? != PROTECTED {
        return Err(DocumentError::Algorithm);
    }
    if decoder.map().map_err(cose)? != Some(0) {
        return Err(DocumentError::Unprotected);
    }
    let payload = decoder.bytes().map_err(cose)?;
    let signature = decoder.bytes().map_err(cose)?;
    let signature = signature.try_into().map_err(|_| DocumentError::SignatureLength)?;
    if decoder.position() != bytes.len() {
        return Err(DocumentError::TrailingBytes);
    }
    Ok(Signed { document: document(payload)?, payload, signature })
}

/// The fields as they are found.
#[derive(Default)]
struct Fields {
    module_id: Option<String>,
    digest: Option<()>,
    timestamp_ms: Option<u64>,
    pcrs: Option<Pcrs>,
    certificate: Option<Vec<u8>>,
    cabundle: Option<Vec<Vec<u8>>>,
    public_key: Option<Nullable>,
    user_data: Option<Nullable>,
    nonce: Option<Nullable>,
}

/// A value that may be null; its key may also be absent.
struct Nullable(Option<Vec<u8>>);

fn document(payload: &[u8]) -> Result<Document> {
    let mut decoder = Decoder::new(payload);
    let mut fields = Fields::default();
    let length = decoder.map().map_err(|_| DocumentError::Malformed("payload"))?;
    let mut items = Items::new(length);
    while items.next(&mut decoder, "payload")? {
        let key = decoder.str().map_err(|_| DocumentError::Malformed("payload"))?;
        field(&mut fields, key, &mut decoder)?;
    }
    if decoder.position() != payload.len() {
        return Err(DocumentError::TrailingBytes);
    }
    fields.digest.ok_or(DocumentError::Missing("digest"))?;
    Ok(Document {
        module_id: fields.module_id.ok_or(DocumentError::Missing("module_id"))?,
        timestamp_ms: fields.timestamp_ms.ok_or(DocumentError::Missing("timestamp"))?,
        pcrs: fields.pcrs.ok_or(DocumentError::Missing("pcrs"))?,
        certificate: fields.certificate.ok_or(DocumentError::Missing("certificate"))?,
        cabundle: fields.cabundle.ok_or(DocumentError::Missing("cabundle"))?,
        public_key: fields.public_key.and_then(|field| field.0),
        user_data: fields.user_data.and_then(|field| field.0),
        nonce: fields.nonce.and_then(|field| field.0),
    })
}

fn field(fields: &mut Fields, key: &str, decoder: &mut Decoder<'_>) -> Result<()> {
    match key {
        "module_id" => once(&mut fields.module_id, "module_id", module_id(decoder)?),
        "digest" => once(&mut fields.digest, "digest", digest(decoder)?),
        "timestamp" => once(&mut fields.timestamp_ms, "timestamp", timestamp(decoder)?),
        "pcrs" => once(&mut fields.pcrs, "pcrs", pcrs(decoder)?),
        "certificate" => {
            let value = bounded(decoder, "certificate", 1, CERTIFICATE_BYTES_MAX)?;
            once(&mut fields.certificate, "certificate", value)
        }
        "cabundle" => once(&mut fields.cabundle, "cabundle", cabundle(decoder)?),
        "public_key" => {
            once(&mut fields.public_key, "public_key", optional(decoder, "public_key", 1)?)
        }
        "user_data" => once(&mut fields.user_data, "user_data", optional(decoder, "user_data", 0)?),
        "nonce" => once(&mut fields.nonce, "nonce", optional(decoder, "nonce", 0)?),
        "nitrotpm_pcrs" => Err(DocumentError::NitroTpm),
        // The grammar is closed. A new key may change what the others mean, so it fails closed.
        _ => Err(DocumentError::UnknownKey),
    }
}

fn once<T>(field: &mut Option<T>, name: &'static str, value: T) -> Result<()> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(DocumentError::Duplicate(name)),
    }
}

fn module_id(decoder: &mut Decoder<'_>) -> Result<String> {
    let text = decoder.str().map_err(|_| DocumentError::Malformed("module_id"))?;
    if text.is_empty() || text.len() > MODULE_ID_BYTES_MAX {
        return Err(DocumentError::OutOfBounds("module_id"));
    }
    Ok(text.to_owned())
}

fn digest(decoder: &mut Decoder<'_>) -> Result<()> {
    match decoder.str().map_err(|_| DocumentError::Malformed("digest"))? {
        "SHA384" => Ok(()),
        _ => Err(DocumentError::Digest),
    }
}

fn timestamp(decoder: &mut Decoder<'_>) -> Result<u64> {
    match decoder.u64().map_err(|_| DocumentError::Malformed("timestamp"))? {
        0 => Err(DocumentError::OutOfBounds("timestamp")),
        timestamp_ms => Ok(timestamp_ms),
    }
}

fn pcrs(decoder: &mut Decoder<'_>) -> Result<Pcrs> {
    let malformed = |_| DocumentError::Malformed("pcrs");
    let mut registers = BTreeMap::new();
    let mut items = Items::new(decoder.map().map_err(malformed)?);
    while items.next(decoder, "pcrs")? {
        let index = decoder.u8().map_err(malformed)?;
        let value = decoder.bytes().map_err(malformed)?;
        let value = Pcr::try_from(value).map_err(|_| DocumentError::OutOfBounds("pcrs"))?;
        if index > PCR_INDEX_MAX {
            return Err(DocumentError::OutOfBounds("pcrs"));
        }
        if registers.insert(index, value).is_some() {
            return Err(DocumentError::Duplicate("pcrs"));
        }
    }
    if registers.is_empty() {
        return Err(DocumentError::OutOfBounds("pcrs"));
    }
    Ok(Pcrs(registers))
}

fn cabundle(decoder: &mut Decoder<'_>) -> Result<Vec<Vec<u8>>> {
    let length = decoder.array().map_err(|_| DocumentError::Malformed("cabundle"))?;
    let mut certificates = Vec::new();
    let mut items = Items::new(length);
    while items.next(decoder, "cabundle")? {
        if certificates.len() == CABUNDLE_CERTIFICATES_MAX {
            return Err(DocumentError::OutOfBounds("cabundle"));
        }
        certificates.push(bounded(decoder, "cabundle", 1, CERTIFICATE_BYTES_MAX)?);
    }
    if certificates.is_empty() {
        return Err(DocumentError::OutOfBounds("cabundle"));
    }
    Ok(certificates)
}

fn optional(decoder: &mut Decoder<'_>, name: &'static str, min: usize) -> Result<Nullable> {
    let malformed = |_| DocumentError::Malformed(name);
    if decoder.datatype().map_err(malformed)? == Type::Null {
        decoder.null().map_err(malformed)?;
        return Ok(Nullable(None));
    }
    bounded(decoder, name, min, FIELD_BYTES_MAX).map(|bytes| Nullable(Some(bytes)))
}

fn bounded(
    decoder: &mut Decoder<'_>,
    name: &'static str,
    min: usize,
    max: usize,
) -> Result<Vec<u8>> {
    let bytes = decoder.bytes().map_err(|_| DocumentError::Malformed(name))?;
    if (min..=max).contains(&bytes.len()) {
        Ok(bytes.to_vec())
    } else {
        Err(DocumentError::OutOfBounds(name))
    }
}

/// Counts the items of a map or array of definite length, or looks for the break.
struct Items {
    left: Option<u64>,
}

impl Items {
    fn new(length: Option<u64>) -> Self {
        Self { left: length }
    }

    /// True if another item follows; every item consumes input, so this ends.
    fn next(&mut self, decoder: &mut Decoder<'_>, name: &'static str) -> Result<bool> {
        if let Some(left) = &mut self.left {
            let more = *left > 0;
            *left = left.saturating_sub(1);
            return Ok(more);
        }
        let kind = decoder.datatype().map_err(|_| DocumentError::Malformed(name))?;
        if kind == Type::Break {
            decoder.set_position(decoder.position().saturating_add(1));
            return Ok(false);
        }
        Ok(true)
    }
}
