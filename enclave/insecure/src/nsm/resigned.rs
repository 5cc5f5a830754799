//! The answers of a module that measures and does not sign, as QEMU's, under the test root. Every
//! field but certificate and chain stays as the module gave it, the registers above all.

use minicbor::Decoder;
use sigil_enclave::nsm::{DocumentRequest, Nsm, NsmError};
use sigil_enclave::secret::Secret32;

use super::{Chains, TestDocument};

/// A module whose documents are signed anew.
pub struct ResigningNsm<N> {
    module: N,
    chains: Chains,
}

impl<N: Nsm> ResigningNsm<N> {
    /// Wraps a module.
    ///
    /// # Errors
    /// The committed root is damaged.
    pub fn new(module: N) -> Result<Self, NsmError> {
        Ok(Self { module, chains: Chains::new()? })
    }
}

impl<N: Nsm> Nsm for ResigningNsm<N> {
    fn document(&self, request: DocumentRequest<'_>) -> Result<Vec<u8>, NsmError> {
        let given = self.module.document(request)?;
        let malformed = |error| NsmError(format!("its document is malformed: {error}"));
        let (fields, timestamp_ms) = payload(&given).map_err(malformed)?;
        let timestamp_ms = timestamp_ms.ok_or(NsmError("its document has no timestamp".into()))?;
        let document = TestDocument::of_fields(fields);
        document.sign(&*self.chains.at(timestamp_ms)?)
    }

    fn entropy(&self) -> Result<Secret32, NsmError> {
        self.module.entropy()
    }
}

type Fields = Vec<(String, Vec<u8>)>;

/// The payload's fields as CBOR, without those that the signer fills in, and its timestamp.
fn payload(document: &[u8]) -> Result<(Fields, Option<u64>), minicbor::decode::Error> {
    let mut outer = Decoder::new(document);
    outer.array()?;
    outer.skip()?;
    outer.skip()?;
    let payload = outer.bytes()?;
    let mut decoder = Decoder::new(payload);
    let count = decoder.map()?.unwrap_or_default();
    let mut fields = Vec::new();
    let mut timestamp_ms = None;
    for _ in 0..count {
        let key = decoder.str()?.to_owned();
        let start = decoder.position();
        decoder.skip()?;
        let value = payload.get(start..decoder.position()).unwrap_or_default();
        if key == "timestamp" {
            timestamp_ms = Some(Decoder::new(value).u64()?);
        }
        let signers = key == "certificate" || key == "cabundle";
        fields.push((key, if signers { Vec::new() } else { value.to_vec() }));
    }
    Ok((fields, timestamp_ms))
}

#[cfg(test)]
mod tests {
    use sigil_verifier::{TrustRoot, VerifyError, VerifyTime, verify};

    use super::*;
    use crate::nsm::{system_clock, test_root_der};

    /// Made by QEMU 10.0.13, see `enclave/attestation/testdata/PROVENANCE.md`.
    const OF_QEMU: &[u8] = include_bytes!("../../../attestation/testdata/qemu-unsigned.cbor");

    struct Qemu(Vec<u8>);

    impl Nsm for Qemu {
        fn document(&self, _: DocumentRequest<'_>) -> Result<Vec<u8>, NsmError> {
            Ok(self.0.clone())
        }

        fn entropy(&self) -> Result<Secret32, NsmError> {
            Ok(Secret32::copy_from(&[7; 32]).unwrap())
        }
    }

    /// The document as if it were made now: the test root is younger than it.
    fn of_qemu_now() -> Vec<u8> {
        let name = b"timestamp\x1b";
        let mut document = OF_QEMU.to_vec();
        let at = document.windows(name.len()).position(|bytes| bytes == name).unwrap() + name.len();
        document[at..at + 8].copy_from_slice(&system_clock()().to_be_bytes());
        document
    }

    #[test]
    fn an_unsigned_document_verifies_under_the_test_root_with_the_modules_registers() {
        let root = TrustRoot::from_der(test_root_der().to_vec()).unwrap();
        let given = of_qemu_now();
        let unsigned = verify(&given, &root, VerifyTime::AtDocument);
        assert!(matches!(unsigned, Err(VerifyError::Document(_))), "{unsigned:?}");
        let nsm = ResigningNsm::new(Qemu(given.clone())).unwrap();
        let signed = nsm.document(DocumentRequest::default()).unwrap();
        let document = verify(&signed, &root, VerifyTime::AtDocument).unwrap();
        let (fields, timestamp_ms) = payload(&given).unwrap();
        assert_eq!(Some(document.timestamp_ms), timestamp_ms);
        let registers = fields.iter().find(|(key, _)| key == "pcrs").unwrap().1.clone();
        let pcr0 = document.pcr(0).unwrap();
        assert!(registers.windows(48).any(|bytes| bytes == pcr0) && pcr0 != [0; 48]);
        assert_eq!(nsm.entropy().unwrap().expose_secret(), &[7; 32]);
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for given in [b"".as_slice(), b"\x84", b"\x84\x40\xa0\x41\xa0\x40", &OF_QEMU[..40]] {
            let nsm = ResigningNsm::new(Qemu(given.to_vec())).unwrap();
            assert!(nsm.document(DocumentRequest::default()).is_err(), "{given:?}");
        }
    }
}
