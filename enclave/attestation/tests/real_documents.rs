//! Documents that AWS' modules signed, see `testdata/PROVENANCE.md`.
#![allow(clippy::unwrap_used, reason = "a test")]

use aws_lc_rs::digest::{SHA256, digest};
use proptest::prelude::*;
use sigil_attestation::{
    Document, DocumentError, TrustRoot, VerifyError, check_allowing_debug, verify,
};
use sigil_enclave_insecure::nsm::test_root_der;

const TURNKEY: &[u8] = include_bytes!("../testdata/01-turnkey-rust-sdk-provisioning-2026-06.cose");
const TURNKEY_MS: u64 = 1_782_779_620_694;
const DEBUG: &[u8] = include_bytes!("../testdata/04-anjuna-full-debug-2024-01.cose");
const EVERVAULT: &[u8] = include_bytes!("../testdata/06-evervault-prod-pcr8-nonce256-2022-10.cose");
const EVERVAULT_MS: u64 = 1_665_651_482_136;
const QEMU: &[u8] = include_bytes!("../testdata/qemu-unsigned.cbor");
const HOUR_MS: u64 = 3_600_000;

/// Verifies at a time.
fn verify_at(bytes: &[u8], root: &TrustRoot, at_ms: u64) -> Result<Document, VerifyError> {
    check_allowing_debug(bytes, root, Some(at_ms))
}

#[test]
fn the_embedded_root_is_the_published_one() {
    let published = "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b";
    let root = TrustRoot::aws();
    assert_eq!(const_hex::encode(digest(&SHA256, root.der())), published);
    assert_eq!(TrustRoot::from_der(root.der().to_vec()), Ok(root));
    assert_ne!(TrustRoot::from_der(test_root_der().to_vec()), Ok(TrustRoot::aws()));
    assert!(TrustRoot::from_der(vec![0x30, 0]).is_err());
}

#[test]
fn documents_are_good_at_their_own_time() {
    let root = TrustRoot::aws();
    for (bytes, timestamp_ms, pcr0, public_key, nonce) in [
        (TURNKEY, TURNKEY_MS, "ea7cec511c07e6c4", Some(130), None),
        (EVERVAULT, EVERVAULT_MS, "f4d48b81a460c991", None, Some(256)),
    ] {
        let later = [timestamp_ms, timestamp_ms + HOUR_MS].map(|ms| verify_at(bytes, &root, ms));
        for document in later.into_iter().chain([verify(bytes, &root)]) {
            let document = document.unwrap();
            assert_eq!(document.timestamp_ms, timestamp_ms);
            assert!(const_hex::encode(document.pcr(0).unwrap()).starts_with(pcr0));
            assert_eq!(document.public_key.as_ref().map(Vec::len), public_key);
            assert_eq!(document.nonce.as_ref().map(Vec::len), nonce);
        }
        let late = verify_at(bytes, &root, timestamp_ms + 4 * HOUR_MS);
        assert_eq!(late, Err(VerifyError::CertExpired));
        let early = verify_at(bytes, &root, timestamp_ms - 24 * HOUR_MS);
        assert_eq!(early, Err(VerifyError::CertNotValidYet));
        assert!(!check_allowing_debug(bytes, &root, None).unwrap().is_debug());
    }
    let turnkey = Document::parse_unverified(TURNKEY).unwrap();
    assert_eq!(turnkey.pcrs.iter().count(), 32);
    assert!(turnkey.pcr(31).is_some());
}

#[test]
fn debug_mode_is_refused_although_other_registers_are_set() {
    let root = TrustRoot::aws();
    let document = Document::parse_unverified(DEBUG).unwrap();
    assert!(document.pcr(3).is_some_and(|pcr| pcr != [0; 48]));
    assert_eq!(verify(DEBUG, &root), Err(VerifyError::Debug));
    let shown = check_allowing_debug(DEBUG, &root, None).unwrap();
    assert!(shown.is_debug());
    assert_eq!(shown, document);
}

#[test]
fn an_emulators_document_is_refused() {
    for root in [TrustRoot::aws(), TrustRoot::from_der(test_root_der().to_vec()).unwrap()] {
        let refused = verify(QEMU, &root);
        assert_eq!(refused, Err(VerifyError::Document(DocumentError::Algorithm)));
    }
}

#[test]
fn another_root_is_refused() {
    let root = TrustRoot::from_der(test_root_der().to_vec()).unwrap();
    assert_eq!(verify(TURNKEY, &root), Err(VerifyError::OtherRoot));
}

/// Refused whatever else holds: debug mode is let through, and the time is the document's own.
fn refused(bytes: &[u8]) -> bool {
    check_allowing_debug(bytes, &TrustRoot::aws(), None).is_err()
}

/// Every byte of each document: one bit of it, and all of them; of one document every bit, too.
#[test]
fn every_flipped_byte_is_refused() {
    for (name, document) in [("turnkey", TURNKEY), ("debug", DEBUG), ("evervault", EVERVAULT)] {
        assert!(!refused(document), "{name}: the unchanged document");
        std::thread::scope(|scope| {
            for half in 0..2 {
                scope.spawn(move || {
                    for at in (half..document.len()).step_by(2) {
                        let bits = if document == EVERVAULT { 0..8 } else { at % 8..at % 8 + 1 };
                        for flipped in bits.map(|bit| 1 << bit).chain([0xff]) {
                            let mut bytes = document.to_vec();
                            bytes[at] ^= flipped;
                            assert!(refused(&bytes), "{name}: byte {at} ^ {flipped:#x}");
                        }
                    }
                });
            }
        });
    }
}

#[test]
fn every_cut_and_every_longer_document_is_refused() {
    for document in [TURNKEY, DEBUG, EVERVAULT, QEMU] {
        for at in 0..document.len() {
            assert!(refused(&document[..at]), "cut at {at}");
            assert!(refused(&document[at + 1..]), "without the first {at}");
        }
        assert!(refused(&[document, &[0]].concat()));
        assert!(refused(&[document, document].concat()));
    }
    let longer = [EVERVAULT, &[0]].concat();
    let trailing = verify(&longer, &TrustRoot::aws());
    assert_eq!(trailing, Err(VerifyError::Document(DocumentError::TrailingBytes)));
}

/// ECDSA lets anybody write (r, n - s) for (r, s), and tag 18 is free: so the bytes of a document are
/// no name for it. What it says is the same.
#[test]
fn the_other_signature_and_the_tag_say_the_same() {
    const ORDER: &str = "ffffffffffffffffffffffffffffffffffffffffffffffff\
                         c7634d81f4372ddf581a0db248b0a77aecec196accc52973";
    let order: [u8; 48] = const_hex::decode_to_array(ORDER).unwrap();
    let (rest, s) = EVERVAULT.split_at(EVERVAULT.len() - 48);
    let mut borrow = 0;
    let mut other = [0; 48];
    for at in (0..48).rev() {
        let difference = i16::from(order[at]) - i16::from(s[at]) - borrow;
        borrow = i16::from(difference < 0);
        other[at] = u8::try_from(difference + 256 * borrow).unwrap();
    }
    let document = Document::parse_unverified(EVERVAULT).unwrap();
    for bytes in [[rest, &other].concat(), [&[0xd2], EVERVAULT].concat()] {
        let read = verify(&bytes, &TrustRoot::aws());
        assert_eq!(read.as_ref(), Ok(&document));
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(Document::parse_unverified(&bytes).is_err());
    }

    #[test]
    fn mutated_documents_never_panic(
        document in prop::sample::select(vec![TURNKEY, DEBUG, EVERVAULT, QEMU]),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = document.to_vec();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        // Whether it parses depends on what was hit; that it returns is the point.
        if let Ok(parsed) = Document::parse_unverified(&bytes) {
            prop_assert!(!parsed.cabundle.is_empty());
            prop_assert!(parsed.certificate.len() <= 1_024);
        }
    }
}
