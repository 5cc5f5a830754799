//! Builds documents byte by byte, good ones and every kind of bad one.

use std::convert::Infallible;

use minicbor::Encoder;
use sigil_enclave::nsm::NsmError;
use sigil_image_authoring::measure::{Pcr, ProcessPcrs};

use super::authority::Chain;

/// {1: -35}: ES384.
const PROTECTED: &[u8] = &[0xa1, 0x01, 0x38, 0x22];
/// Registers that a document names.
const PCRS: u8 = 16;

type EncodeError = minicbor::encode::Error<Infallible>;

/// A document before it is signed. The fields of the payload are kept as CBOR, so that tests can
/// leave out, repeat, replace and reorder them.
#[derive(Clone, Debug)]
pub struct TestDocument {
    /// Key and CBOR of its value, in the order of the payload. `certificate` and `cabundle` are
    /// filled in by [`TestDocument::sign`] where they are empty.
    pub fields: Vec<(String, Vec<u8>)>,
    /// The protected header.
    pub protected: Vec<u8>,
    /// The unprotected header, CBOR.
    pub unprotected: Vec<u8>,
    /// Tag 18 in front.
    pub tagged: bool,
    /// The payload as a map of definite length; AWS used one until 2025.
    pub definite: bool,
}

impl TestDocument {
    /// A good document of this time with these registers and nothing to bind.
    pub fn new(timestamp_ms: u64, pcrs: ProcessPcrs) -> Self {
        let ProcessPcrs { pcr0, pcr1, pcr2, pcr3 } = pcrs;
        let mut registers = vec![(0, pcr0), (1, pcr1), (2, pcr2), (3, pcr3)];
        registers.extend((4..PCRS).map(|index| (index, [0; 48])));
        let null = || cbor(|e| e.null().map(drop));
        let fields = [
            ("module_id", cbor(|e| e.str("i-00000000000000000-enc0000000000000000").map(drop))),
            ("digest", cbor(|e| e.str("SHA384").map(drop))),
            ("timestamp", cbor(|e| e.u64(timestamp_ms).map(drop))),
            ("pcrs", Self::pcrs_cbor(&registers)),
            ("certificate", Vec::new()),
            ("cabundle", Vec::new()),
            ("public_key", null()),
            ("user_data", null()),
            ("nonce", null()),
        ];
        Self::of_fields(fields.map(|(key, value)| (key.to_owned(), value)).to_vec())
    }

    /// A document of these fields, in this order.
    pub fn of_fields(fields: Vec<(String, Vec<u8>)>) -> Self {
        Self {
            fields,
            protected: PROTECTED.to_vec(),
            unprotected: vec![0xa0],
            tagged: false,
            definite: false,
        }
    }

    /// Replaces the value of a field.
    pub fn set(&mut self, key: &str, cbor: impl AsRef<[u8]>) -> &mut Self {
        for (_, value) in self.fields.iter_mut().filter(|(name, _)| name == key) {
            *value = cbor.as_ref().to_vec();
        }
        self
    }

    /// Replaces the registers.
    pub fn pcrs(&mut self, registers: &[(u8, Pcr)]) -> &mut Self {
        self.set("pcrs", Self::pcrs_cbor(registers))
    }

    /// Binds a public key, or null.
    pub fn public_key(&mut self, bytes: Option<&[u8]>) -> &mut Self {
        self.set("public_key", optional(bytes))
    }

    /// Binds user data, or null.
    pub fn user_data(&mut self, bytes: Option<&[u8]>) -> &mut Self {
        self.set("user_data", optional(bytes))
    }

    /// Binds a nonce, or null.
    pub fn nonce(&mut self, bytes: Option<&[u8]>) -> &mut Self {
        self.set("nonce", optional(bytes))
    }

    /// Signs with a chain's leaf.
    ///
    /// # Errors
    /// No randomness.
    pub fn sign(&self, chain: &Chain) -> Result<Vec<u8>, NsmError> {
        let payload = self.payload(chain);
        let message = cbor(|e| {
            e.array(4)?.str("Signature1")?.bytes(&self.protected)?.bytes(&[])?.bytes(&payload)?;
            Ok(())
        });
        let signature = chain.sign(&message)?;
        Ok(self.assemble(&payload, &signature))
    }

    /// The outer structure around any payload and signature.
    pub fn assemble(&self, payload: &[u8], signature: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        if self.tagged {
            out.push(0xd2);
        }
        out.push(0x84);
        out.extend(cbor(|e| e.bytes(&self.protected).map(drop)));
        out.extend_from_slice(&self.unprotected);
        out.extend(cbor(|e| e.bytes(payload).map(drop)));
        out.extend(cbor(|e| e.bytes(signature).map(drop)));
        out
    }

    /// The payload.
    pub fn payload(&self, chain: &Chain) -> Vec<u8> {
        let mut out = match u64::try_from(self.fields.len()) {
            Ok(length) if self.definite => cbor(|e| e.map(length).map(drop)),
            _ => vec![0xbf],
        };
        for (key, value) in &self.fields {
            out.extend(cbor(|e| e.str(key).map(drop)));
            match key.as_str() {
                "certificate" if value.is_empty() => {
                    out.extend(cbor(|e| e.bytes(&chain.certificate).map(drop)));
                }
                "cabundle" if value.is_empty() => {
                    out.extend(Self::cabundle_cbor(&chain.cabundle));
                }
                _ => out.extend_from_slice(value),
            }
        }
        if !self.definite {
            out.push(0xff);
        }
        out
    }

    /// CBOR of a `cabundle`.
    pub fn cabundle_cbor(certificates: &[Vec<u8>]) -> Vec<u8> {
        cbor(|e| {
            e.array(u64::try_from(certificates.len()).unwrap_or(u64::MAX))?;
            for certificate in certificates {
                e.bytes(certificate)?;
            }
            Ok(())
        })
    }

    /// CBOR of `pcrs`.
    pub fn pcrs_cbor(registers: &[(u8, Pcr)]) -> Vec<u8> {
        cbor(|e| {
            e.map(u64::try_from(registers.len()).unwrap_or(u64::MAX))?;
            for (index, value) in registers {
                e.u8(*index)?.bytes(value)?;
            }
            Ok(())
        })
    }
}

fn optional(bytes: Option<&[u8]>) -> Vec<u8> {
    cbor(|e| match bytes {
        Some(bytes) => e.bytes(bytes).map(drop),
        None => e.null().map(drop),
    })
}

/// Writes to memory, which cannot fail: the only source of an error is `Infallible`.
fn cbor(write: impl FnOnce(&mut Encoder<Vec<u8>>) -> Result<(), EncodeError>) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    drop(write(&mut encoder));
    encoder.into_writer()
}
