//! Documents at a verifier's own time, fresh and with its nonce; roots from files.
#![allow(clippy::unwrap_used, reason = "a test")]

use sigil_enclave_insecure::nsm::{TestDocument, TestRoot, Validity, test_root_der};
use sigil_image_authoring::measure::process;
use sigil_verifier::{
    Document, LiveError, TrustRoot, VerifyError, VerifyTime, check_allowing_debug,
    root_from_pem_or_der, verify, verify_live,
};

/// Documents that AWS' modules signed, see `enclave/attestation/testdata/PROVENANCE.md`.
const TURNKEY: &[u8] =
    include_bytes!("../../attestation/testdata/01-turnkey-rust-sdk-provisioning-2026-06.cose");
const TURNKEY_MS: u64 = 1_782_779_620_694;
const EVERVAULT: &[u8] =
    include_bytes!("../../attestation/testdata/06-evervault-prod-pcr8-nonce256-2022-10.cose");
const EVERVAULT_MS: u64 = 1_665_651_482_136;

const NOW_MS: u64 = 1_800_000_000_500;
const SECOND_MS: u64 = 1_000;

fn document() -> TestDocument {
    TestDocument::new(NOW_MS, process(b"executable", b"pins"))
}

fn root() -> TrustRoot {
    TrustRoot::from_der(test_root_der().to_vec()).unwrap()
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
    assert_eq!(root_from_pem_or_der(&der), Ok(TrustRoot::aws()));
    assert_eq!(root_from_pem_or_der(&pem), Ok(TrustRoot::aws()));
    let two = [&pem[..], &pem].concat();
    for bad in [&two[..], &pem[..pem.len() / 2], b"", b"-----BEGIN nothing", &der[..100]] {
        assert!(root_from_pem_or_der(bad).is_err());
    }
}

#[test]
fn a_nonce_is_compared_and_age_counts() {
    let root = TrustRoot::aws();
    let nonce = Document::parse_unverified(EVERVAULT).unwrap().nonce.unwrap();
    let live = |now_ms, nonce: &[u8], age_ms_max| {
        verify_live(EVERVAULT, &root, now_ms, nonce, age_ms_max).map(|document| document.nonce)
    };
    assert_eq!(live(EVERVAULT_MS + 1_000, &nonce, 1_000), Ok(Some(nonce.clone())));
    assert_eq!(live(EVERVAULT_MS + 1_001, &nonce, 1_000), Err(LiveError::TooOld));
    assert_eq!(live(EVERVAULT_MS, &nonce[1..], 1_000), Err(LiveError::Nonce));
    assert_eq!(live(EVERVAULT_MS, &[], 1_000), Err(LiveError::Nonce));
    let absent = verify_live(TURNKEY, &root, TURNKEY_MS, b"nonce", 1_000);
    assert_eq!(absent.map(drop), Err(LiveError::Nonce));
    let empty = verify_live(TURNKEY, &root, TURNKEY_MS, b"", 1_000);
    assert_eq!(empty.map(drop), Err(LiveError::Nonce));
}

#[test]
fn clocks_are_allowed_half_a_minute() {
    let chain = TestRoot::committed().unwrap().issue(Validity::aws(NOW_MS)).unwrap();
    let bytes = document().sign(&chain).unwrap();
    let at = |now_ms| verify(&bytes, &root(), VerifyTime::At { now_ms }).map(drop);
    // Certificates count whole seconds: the leaf began half a second before the document.
    let leaf_ms = NOW_MS - 500;
    assert_eq!(at(leaf_ms), Ok(()));
    assert_eq!(at(leaf_ms - 30 * SECOND_MS), Ok(()));
    assert_eq!(at(leaf_ms - 31 * SECOND_MS), Err(VerifyError::CertNotValidYet));
    let end_ms = leaf_ms + (3 * 3_600 + 3) * SECOND_MS;
    assert_eq!(at(end_ms), Ok(()));
    assert_eq!(at(end_ms + SECOND_MS), Err(VerifyError::CertExpired));
}

#[test]
fn live_documents_from_the_future_are_refused() {
    // A leaf that began an hour ago, so that only the timestamp speaks.
    let leaf = Validity::aws(NOW_MS - 3_600 * SECOND_MS);
    let chain = TestRoot::committed().unwrap().issue(leaf).unwrap();
    let bytes = document().nonce(Some(b"nonce")).sign(&chain).unwrap();
    let live = |now_ms, age_ms| verify_live(&bytes, &root(), now_ms, b"nonce", age_ms).map(drop);
    assert_eq!(live(NOW_MS, 0), Ok(()));
    assert_eq!(live(NOW_MS - 30 * SECOND_MS, 0), Ok(()));
    assert_eq!(live(NOW_MS - 30 * SECOND_MS - 1, 0), Err(LiveError::FromFuture));
    assert_eq!(live(NOW_MS + 1, 0), Err(LiveError::TooOld));
}

#[test]
fn the_time_of_the_chain_is_the_documents_the_verifiers_or_half_a_minute_later() {
    let chain = TestRoot::committed().unwrap().issue(Validity::aws(NOW_MS)).unwrap();
    let bytes = document().sign(&chain).unwrap();
    let at = |time| check_allowing_debug(&bytes, &root(), time).unwrap().chain_time_ms;
    assert_eq!(at(VerifyTime::AtDocument), NOW_MS);
    assert_eq!(at(VerifyTime::At { now_ms: NOW_MS + 7 }), NOW_MS + 7);
    let behind_ms = NOW_MS - 10 * SECOND_MS;
    assert_eq!(at(VerifyTime::At { now_ms: behind_ms }), behind_ms + 30 * SECOND_MS);
}
