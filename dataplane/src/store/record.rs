//! Bytes of the store's records: deterministic CBOR maps with unsigned integer keys, key 0 is the
//! version. Pure. Format: `docs/formats.md`, "Store records".

use bytes::Bytes;
use minicbor::decode::Error as CborError;
use minicbor::{Decoder, Encoder};

const VERSION: u8 = 1;

/// Bytes that are not a record of this version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not the expected map, or not in its one encoding.
    #[error("malformed record: {0}")]
    Malformed(String),
    /// A version that this program does not read.
    #[error("record version {0} is newer than this program")]
    Version(u8),
}

/// A wrapped DEK as its enclave made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DekRecord {
    /// Identity of the DEK.
    pub dek_id: [u8; 16],
    /// The keyspace it belongs to.
    pub keyspace: String,
    /// KMS `CiphertextBlob`.
    pub wrapped_dek: Bytes,
    /// The birth document; empty when it was lost.
    pub birth_document: Bytes,
    /// The KMS key that wrapped it.
    pub kms_key_arn: String,
}

/// Which DEK seals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CurrentRecord {
    /// Identity of the DEK.
    pub dek_id: [u8; 16],
}

/// An attestation document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentRecord {
    /// COSE_Sign1 bytes.
    pub document: Bytes,
}

/// A sealed key. With KMS, this one record restores the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// Identity of the key.
    pub key_id: [u8; 16],
    /// The keyspace it belongs to.
    pub keyspace: String,
    /// The sealed blob.
    pub blob: Bytes,
    /// The DEK that seals it.
    pub dek_id: [u8; 16],
    /// A copy of the wrapped DEK.
    pub wrapped_dek: Bytes,
    /// The birth statement.
    pub statement: Bytes,
    /// Its Ed25519 signature, 64 bytes.
    pub signature: Bytes,
    /// SHA-256 of the document that binds the statement key.
    pub document_hash: [u8; 32],
    /// When it was made, Unix ms.
    pub created_ms: u64,
    /// Hash of the parameters of an idempotent create; empty otherwise.
    pub parameters_hash: Bytes,
    /// The KMS key that wrapped the DEK.
    pub kms_key_arn: String,
}

// === impl DekRecord ===

impl DekRecord {
    /// The one encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut map = MapWriter::new(6);
        map.bytes(1, &self.dek_id);
        map.text(2, &self.keyspace);
        map.bytes(3, &self.wrapped_dek);
        map.bytes(4, &self.birth_document);
        map.text(5, &self.kms_key_arn);
        map.out
    }

    /// Reads the one encoding.
    ///
    /// # Errors
    /// Anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut map = MapReader::new(bytes, 6)?;
        let record = Self {
            dek_id: map.fixed(1)?,
            keyspace: map.text(2)?,
            wrapped_dek: map.bytes(3)?,
            birth_document: map.bytes(4)?,
            kms_key_arn: map.text(5)?,
        };
        canonical(bytes, &record.encode()).map(|()| record)
    }
}

// === impl CurrentRecord ===

impl CurrentRecord {
    /// The one encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut map = MapWriter::new(2);
        map.bytes(1, &self.dek_id);
        map.out
    }

    /// Reads the one encoding.
    ///
    /// # Errors
    /// Anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut map = MapReader::new(bytes, 2)?;
        let record = Self { dek_id: map.fixed(1)? };
        canonical(bytes, &record.encode()).map(|()| record)
    }
}

// === impl DocumentRecord ===

impl DocumentRecord {
    /// The one encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut map = MapWriter::new(2);
        map.bytes(1, &self.document);
        map.out
    }

    /// Reads the one encoding.
    ///
    /// # Errors
    /// Anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut map = MapReader::new(bytes, 2)?;
        let record = Self { document: map.bytes(1)? };
        canonical(bytes, &record.encode()).map(|()| record)
    }
}

// === impl KeyRecord ===

impl KeyRecord {
    /// The one encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut map = MapWriter::new(12);
        map.bytes(1, &self.key_id);
        map.text(2, &self.keyspace);
        map.bytes(3, &self.blob);
        map.bytes(4, &self.dek_id);
        map.bytes(5, &self.wrapped_dek);
        map.bytes(6, &self.statement);
        map.bytes(7, &self.signature);
        map.bytes(8, &self.document_hash);
        map.number(9, self.created_ms);
        map.bytes(10, &self.parameters_hash);
        map.text(11, &self.kms_key_arn);
        map.out
    }

    /// Reads the one encoding.
    ///
    /// # Errors
    /// Anything else, or a blob whose header names another key, keyspace or DEK.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut map = MapReader::new(bytes, 12)?;
        let record = Self {
            key_id: map.fixed(1)?,
            keyspace: map.text(2)?,
            blob: map.bytes(3)?,
            dek_id: map.fixed(4)?,
            wrapped_dek: map.bytes(5)?,
            statement: map.bytes(6)?,
            signature: map.bytes(7)?,
            document_hash: map.fixed(8)?,
            created_ms: map.number(9)?,
            parameters_hash: map.bytes(10)?,
            kms_key_arn: map.text(11)?,
        };
        canonical(bytes, &record.encode())?;
        record.public_key().map(|_| record)
    }

    /// The public key in the blob's header, compressed SEC1. The enclave alone can prove it.
    ///
    /// # Errors
    /// The blob's header names another key, keyspace or DEK than the record.
    pub fn public_key(&self) -> Result<[u8; 33], RecordError> {
        let error = || RecordError::Malformed("the blob belongs to another record".to_owned());
        let (_app, rest) = self.app_and_rest().ok_or_else(error)?;
        let (keyspace, rest) = length_prefixed(rest).ok_or_else(error)?;
        let (dek_id, rest) = rest.split_first_chunk::<16>().ok_or_else(error)?;
        let (key_id, rest) = rest.split_first_chunk::<16>().ok_or_else(error)?;
        let (public_key, _) = rest.split_first_chunk::<33>().ok_or_else(error)?;
        let same = keyspace == self.keyspace.as_bytes()
            && *dek_id == self.dek_id
            && *key_id == self.key_id;
        if same { Ok(*public_key) } else { Err(error()) }
    }

    /// The app in the blob's header. An enclave opens blobs of its own app only.
    pub(crate) fn app(&self) -> Option<&str> {
        std::str::from_utf8(self.app_and_rest()?.0).ok()
    }

    fn app_and_rest(&self) -> Option<(&[u8], &[u8])> {
        length_prefixed(self.blob.strip_prefix(b"SGK1\x01\x01\x00")?)
    }
}

fn length_prefixed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

fn canonical(given: &[u8], encoded: &[u8]) -> Result<(), RecordError> {
    if given == encoded {
        Ok(())
    } else {
        Err(RecordError::Malformed("not in deterministic encoding".to_owned()))
    }
}

/// Writes a map. Writing to a `Vec` cannot fail, hence the ignored results.
struct MapWriter {
    out: Vec<u8>,
}

impl MapWriter {
    fn new(entries: u64) -> Self {
        let mut writer = Self { out: Vec::with_capacity(512) };
        let _ = writer.encoder().map(entries).and_then(|e| e.u8(0)?.u8(VERSION));
        writer
    }

    fn encoder(&mut self) -> Encoder<&mut Vec<u8>> {
        Encoder::new(&mut self.out)
    }

    fn bytes(&mut self, key: u8, value: &[u8]) {
        let _ = self.encoder().u8(key).and_then(|e| e.bytes(value));
    }

    fn text(&mut self, key: u8, value: &str) {
        let _ = self.encoder().u8(key).and_then(|e| e.str(value));
    }

    fn number(&mut self, key: u8, value: u64) {
        let _ = self.encoder().u8(key).and_then(|e| e.u64(value));
    }
}

struct MapReader<'b> {
    decoder: Decoder<'b>,
}

impl<'b> MapReader<'b> {
    fn new(bytes: &'b [u8], entries: u64) -> Result<Self, RecordError> {
        let mut decoder = Decoder::new(bytes);
        let found = decoder.map().map_err(malformed)?;
        if decoder.u8().map_err(malformed)? != 0 {
            return Err(RecordError::Malformed("no version".to_owned()));
        }
        let version = decoder.u8().map_err(malformed)?;
        if version != VERSION {
            return Err(RecordError::Version(version));
        }
        if found != Some(entries) {
            return Err(RecordError::Malformed("another number of entries".to_owned()));
        }
        Ok(Self { decoder })
    }

    fn key(&mut self, key: u8) -> Result<(), RecordError> {
        let found = self.decoder.u8().map_err(malformed)?;
        if found == key { Ok(()) } else { Err(RecordError::Malformed(format!("no entry {key}"))) }
    }

    fn bytes(&mut self, key: u8) -> Result<Bytes, RecordError> {
        self.key(key)?;
        self.decoder.bytes().map(Bytes::copy_from_slice).map_err(malformed)
    }

    fn fixed<const N: usize>(&mut self, key: u8) -> Result<[u8; N], RecordError> {
        self.key(key)?;
        let bytes = self.decoder.bytes().map_err(malformed)?;
        bytes.try_into().map_err(|_| RecordError::Malformed(format!("entry {key}: length")))
    }

    fn text(&mut self, key: u8) -> Result<String, RecordError> {
        self.key(key)?;
        self.decoder.str().map(ToOwned::to_owned).map_err(malformed)
    }

    fn number(&mut self, key: u8) -> Result<u64, RecordError> {
        self.key(key)?;
        self.decoder.u64().map_err(malformed)
    }
}

#[allow(clippy::needless_pass_by_value, reason = "shape of map_err")]
fn malformed(error: CborError) -> RecordError {
    RecordError::Malformed(error.to_string())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A record whose blob header fits it; the sealed part is filler.
    pub(crate) fn key_record(key_id: [u8; 16], keyspace: &str) -> KeyRecord {
        let lp = |text: &str| {
            let length = u16::try_from(text.len()).unwrap().to_be_bytes();
            [&length, text.as_bytes()].concat()
        };
        let mut blob = b"SGK1\x01\x01\x00".to_vec();
        blob.extend(lp("app"));
        blob.extend(lp(keyspace));
        blob.extend([7; 16]);
        blob.extend(key_id);
        blob.extend([2; 33]);
        blob.extend([0; 138]);
        KeyRecord {
            key_id,
            keyspace: keyspace.to_owned(),
            blob: blob.into(),
            dek_id: [7; 16],
            wrapped_dek: vec![9; 184].into(),
            statement: vec![1; 300].into(),
            signature: vec![3; 64].into(),
            document_hash: [4; 32],
            created_ms: 1_700_000_000_000,
            parameters_hash: Bytes::new(),
            kms_key_arn: "arn:aws:kms:us-east-1:111122223333:key/x".to_owned(),
        }
    }

    #[test]
    fn a_key_record_stays_under_a_kibibyte_and_reads_back() {
        let record = key_record([5; 16], "default");
        let bytes = record.encode();
        assert!(bytes.len() < 1_024, "{}", bytes.len());
        assert_eq!(KeyRecord::decode(&bytes), Ok(record));
    }

    #[test]
    fn the_encoding_is_fixed() {
        assert_eq!(
            const_hex::encode(CurrentRecord { dek_id: [0xab; 16] }.encode()),
            format!("a20001 0150{}", "ab".repeat(16)).replace(' ', "")
        );
    }

    #[test]
    fn a_newer_version_has_its_own_error() {
        let mut bytes = CurrentRecord { dek_id: [1; 16] }.encode();
        bytes[2] = 2;
        assert_eq!(CurrentRecord::decode(&bytes), Err(RecordError::Version(2)));
    }

    #[test]
    fn a_blob_of_another_key_is_refused() {
        for change in [
            |record: &mut KeyRecord| record.key_id[0] ^= 1,
            |record: &mut KeyRecord| record.dek_id[0] ^= 1,
            |record: &mut KeyRecord| record.keyspace.push('x'),
            |record: &mut KeyRecord| record.blob = Bytes::new(),
        ] {
            let mut record = key_record([5; 16], "default");
            change(&mut record);
            assert!(matches!(KeyRecord::decode(&record.encode()), Err(RecordError::Malformed(_))));
        }
    }

    proptest! {
        #[test]
        fn what_decodes_is_what_was_encoded(bytes: Vec<u8>, cut in 0_usize..300, flip: u8) {
            let record = DekRecord {
                dek_id: [1; 16],
                keyspace: "default".to_owned(),
                wrapped_dek: bytes.into(),
                birth_document: Bytes::from_static(b"document"),
                kms_key_arn: "arn".to_owned(),
            };
            let good = record.encode();
            prop_assert_eq!(DekRecord::decode(&good).unwrap(), record);
            let mut bad = good.clone();
            bad.truncate(cut.min(good.len() - 1));
            prop_assert!(DekRecord::decode(&bad).is_err());
            let mut changed = good.clone();
            let at = cut % good.len();
            changed[at] ^= flip;
            // A flipped byte is either refused or decodes to what encodes to just these bytes.
            if let Ok(other) = DekRecord::decode(&changed) {
                prop_assert_eq!(other.encode(), changed);
            }
        }
    }
}
