//! Documents that AWS' modules signed, see `testdata/PROVENANCE.md`.
#![allow(clippy::unwrap_used, reason = "a test")]

use aws_lc_rs::digest::{SHA256, digest};
use proptest::prelude::*;
use sigil_attestation::{
    Document, DocumentError, TrustRoot, VerifyError, VerifyTime, check_allowing_debug, verify,
    verify_live,
};
use sigil_enclave_insecure::nsm::test_root_der;

const TURNKEY: &[u8] = include_bytes!("../testdata/01-turnkey-rust-sdk-provisioning-2026-06.cose");
const TURNKEY_MS: u64 = 1_782_779_620_694;
const DEBUG: &[u8] = include_bytes!("../testdata/04-anjuna-full-debug-2024-01.cose");
const EVERVAULT: &[u8] = include_bytes!("../testdata/06-evervault-prod-pcr8-nonce256-2022-10.cose");
const EVERVAULT_MS: u64 = 1_665_651_482_136;
const QEMU: &[u8] = include_bytes!("../testdata/qemu-unsigned.cbor");
const HOUR_MS: u64 = 3_600_000;

fn at(now_ms: u64) -> VerifyTime {
    VerifyTime::At { now_ms }
}

#[test]
fn the_embedded_root_is_the_published_one() {
    let published = "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b";
    let root = TrustRoot::aws();
    assert_eq!(const_hex::encode(digest(&SHA256, root.der())), published);
    assert!(root.is_aws());
    assert_eq!(TrustRoot::from_der(root.der().to_vec()), Ok(root));
    assert!(!TrustRoot::from_der(test_root_der().to_vec()).unwrap().is_aws());
    assert!(TrustRoot::from_der(vec![0x30, 0]).is_err());
}

#[test]
fn roots_are_read_as_pem_or_der() {
    let der = TrustRoot::aws().der().to_vec();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("root.der");
    std::fs::write(&file, &der).unwrap();
    let pem = std::process::Command::new("openssl")
        .args(["x509", "-inform", "DER", "-outform", "PEM", "-in"])
        .arg(&file)
        .output()
        .unwrap()
        .stdout;
    assert_eq!(TrustRoot::from_pem_or_der(&der), Ok(TrustRoot::aws()));
    assert_eq!(TrustRoot::from_pem_or_der(&pem), Ok(TrustRoot::aws()));
    let two = [&pem[..], &pem].concat();
    for bad in [&two[..], &pem[..pem.len() / 2], b"", b"-----BEGIN nothing", &der[..100]] {
        assert!(TrustRoot::from_pem_or_der(bad).is_err());
    }
}

#[test]
fn documents_are_good_at_their_own_time() {
    let root = TrustRoot::aws();
    for (bytes, timestamp_ms, pcr0, public_key, nonce) in [
        (TURNKEY, TURNKEY_MS, "ea7cec511c07e6c4", Some(130), None),
        (EVERVAULT, EVERVAULT_MS, "f4d48b81a460c991", None, Some(256)),
    ] {
        for time in [VerifyTime::AtDocument, at(timestamp_ms), at(timestamp_ms + HOUR_MS)] {
            let document = verify(bytes, &root, time).unwrap();
            assert_eq!(document.timestamp_ms, timestamp_ms);
            assert!(const_hex::encode(document.pcr(0).unwrap()).starts_with(pcr0));
            assert_eq!(document.public_key.as_ref().map(Vec::len), public_key);
            assert_eq!(document.nonce.as_ref().map(Vec::len), nonce);
        }
        let late = verify(bytes, &root, at(timestamp_ms + 4 * HOUR_MS));
        assert_eq!(late, Err(VerifyError::CertExpired));
        let early = verify(bytes, &root, at(timestamp_ms - 24 * HOUR_MS));
        assert_eq!(early, Err(VerifyError::CertNotValidYet));
        let checked = check_allowing_debug(bytes, &root, VerifyTime::AtDocument).unwrap();
        assert_eq!((checked.chain_time_ms, checked.document.is_debug()), (timestamp_ms, false));
    }
    let turnkey = Document::parse_unverified(TURNKEY).unwrap();
    assert_eq!(turnkey.pcrs.iter().count(), 32);
    assert!(turnkey.pcr(31).is_some());
}

#[test]
fn a_nonce_is_compared_and_age_counts() {
    let root = TrustRoot::aws();
    let nonce = Document::parse_unverified(EVERVAULT).unwrap().nonce.unwrap();
    let live = |now_ms, nonce: &[u8], age_ms_max| {
        verify_live(EVERVAULT, &root, now_ms, nonce, age_ms_max).map(|document| document.nonce)
    };
    assert_eq!(live(EVERVAULT_MS + 1_000, &nonce, 1_000), Ok(Some(nonce.clone())));
    assert_eq!(live(EVERVAULT_MS + 1_001, &nonce, 1_000), Err(VerifyError::TooOld));
    assert_eq!(live(EVERVAULT_MS, &nonce[1..], 1_000), Err(VerifyError::Nonce));
    assert_eq!(live(EVERVAULT_MS, &[], 1_000), Err(VerifyError::Nonce));
    let absent = verify_live(TURNKEY, &root, TURNKEY_MS, b"nonce", 1_000);
    assert_eq!(absent.map(drop), Err(VerifyError::Nonce));
    let empty = verify_live(TURNKEY, &root, TURNKEY_MS, b"", 1_000);
    assert_eq!(empty.map(drop), Err(VerifyError::Nonce));
}

#[test]
fn debug_mode_is_refused_although_other_registers_are_set() {
    let root = TrustRoot::aws();
    let document = Document::parse_unverified(DEBUG).unwrap();
    assert!(document.pcr(3).is_some_and(|pcr| pcr != [0; 48]));
    assert_eq!(verify(DEBUG, &root, VerifyTime::AtDocument), Err(VerifyError::Debug));
    let shown = check_allowing_debug(DEBUG, &root, VerifyTime::AtDocument).unwrap();
    assert!(shown.document.is_debug());
    assert_eq!(shown.document, document);
}

#[test]
fn an_emulators_document_is_refused() {
    for root in [TrustRoot::aws(), TrustRoot::from_der(test_root_der().to_vec()).unwrap()] {
        let refused = verify(QEMU, &root, VerifyTime::AtDocument);
        assert_eq!(refused, Err(VerifyError::Document(DocumentError::Algorithm)));
    }
}

#[test]
fn another_root_is_refused() {
    let root = TrustRoot::from_der(test_root_der().to_vec()).unwrap();
    assert_eq!(verify(TURNKEY, &root, VerifyTime::AtDocument), Err(VerifyError::OtherRoot));
}

/// Refused whatever else holds: debug mode is let through, and the time is the document's own.
fn refused(bytes: &[u8]) -> bool {
    check_allowing_debug(bytes, &TrustRoot::aws(), VerifyTime::AtDocument).is_err()
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
    let trailing = verify(&longer, &TrustRoot::aws(), VerifyTime::AtDocument);
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
        let read = verify(&bytes, &TrustRoot::aws(), VerifyTime::AtDocument);
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
