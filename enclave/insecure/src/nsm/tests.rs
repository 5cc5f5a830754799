use std::sync::atomic::{AtomicU64, Ordering};

use sigil_verifier::{Document, TrustRoot, VerifyTime, verify, verify_live};

use super::*;

const START_MS: u64 = 1_800_000_000_123;

fn at(clock: &Arc<AtomicU64>) -> WallClock {
    let clock = Arc::clone(clock);
    Arc::new(move || clock.load(Ordering::SeqCst))
}

fn pcrs() -> ProcessPcrs {
    measure::process(b"executable", b"pins")
}

fn root() -> TrustRoot {
    TrustRoot::from_der(test_root_der().to_vec()).unwrap()
}

#[test]
fn documents_verify_and_say_what_was_asked() {
    let clock = Arc::new(AtomicU64::new(START_MS));
    let nsm = SoftwareNsm::with_pcrs(pcrs(), at(&clock)).unwrap();
    let request = DocumentRequest {
        user_data: Some(b"data"),
        nonce: Some(b"nonce"),
        public_key: Some(b"key"),
    };
    let bytes = nsm.document(request).unwrap();
    let document = verify_live(&bytes, &root(), START_MS, b"nonce", 0).unwrap();
    assert_eq!(document.timestamp_ms, START_MS);
    assert_eq!(document.user_data.as_deref(), Some(&b"data"[..]));
    assert_eq!(document.public_key.as_deref(), Some(&b"key"[..]));
    let measured = pcrs();
    let expected = [measured.pcr0, measured.pcr1, measured.pcr2, measured.pcr3];
    for (index, pcr) in (0..).zip(expected) {
        assert_eq!(document.pcr(index), Some(pcr));
    }
    assert_eq!(document.pcrs.iter().count(), 16);
    let empty = nsm.document(DocumentRequest::default()).unwrap();
    let document = verify(&empty, &root(), VerifyTime::AtDocument).unwrap();
    assert_eq!((document.user_data, document.nonce, document.public_key), (None, None, None));
}

#[test]
fn leaves_are_renewed_before_they_end_and_not_earlier() {
    let clock = Arc::new(AtomicU64::new(START_MS));
    let nsm = SoftwareNsm::with_pcrs(pcrs(), at(&clock)).unwrap();
    let leaf_at = |now_ms| {
        clock.store(now_ms, Ordering::SeqCst);
        let bytes = nsm.document(DocumentRequest::default()).unwrap();
        verify(&bytes, &root(), VerifyTime::At { now_ms }).unwrap().certificate
    };
    let hour_ms = 3_600_000;
    let first = leaf_at(START_MS);
    assert_eq!(leaf_at(START_MS + 2 * hour_ms), first);
    let second = leaf_at(START_MS + 3 * hour_ms - 60_000);
    assert_ne!(second, first);
    // Months later, with no document in between.
    assert_ne!(leaf_at(START_MS + 2_000 * hour_ms), second);
}

#[test]
fn the_modules_bounds_hold() {
    let nsm = SoftwareNsm::with_pcrs(pcrs(), system_clock()).unwrap();
    let long = [0; 1_025];
    for request in [
        DocumentRequest { user_data: Some(&long[..513]), ..DocumentRequest::default() },
        DocumentRequest { nonce: Some(&long[..513]), ..DocumentRequest::default() },
        DocumentRequest { public_key: Some(&long), ..DocumentRequest::default() },
    ] {
        assert!(nsm.document(request).is_err());
    }
    let [first, second] = [(); 2].map(|()| nsm.entropy().unwrap());
    assert_ne!(first.expose_secret(), second.expose_secret());
}

#[test]
fn the_shape_is_that_of_a_real_document() {
    let real = include_bytes!(
        "../../../attestation/testdata/01-turnkey-rust-sdk-provisioning-2026-06.cose"
    );
    let ours = SoftwareNsm::with_pcrs(pcrs(), system_clock())
        .unwrap()
        .document(DocumentRequest::default())
        .unwrap();
    // Array of four, protected header, empty unprotected header, payload of two length bytes.
    assert_eq!(ours[..8], real[..8]);
    assert_eq!(ours[10], real[10], "payload map of indefinite length");
    let keys = |bytes: &[u8]| {
        let mut found: Vec<_> = ["module_id", "digest", "timestamp", "pcrs", "certificate"]
            .into_iter()
            .chain(["cabundle", "public_key", "user_data", "nonce"])
            .map(|key| {
                let key = minicbor::to_vec(key).unwrap();
                (bytes.windows(key.len()).position(|window| window == key).unwrap(), key)
            })
            .collect();
        found.sort();
        found.into_iter().map(|(_, key)| key).collect::<Vec<_>>()
    };
    assert_eq!(keys(&ours), keys(real));
    let chain = |bytes: &[u8]| Document::parse_unverified(bytes).unwrap().cabundle.len();
    assert_eq!(chain(&ours), chain(real));
}
