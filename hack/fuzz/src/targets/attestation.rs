//! Attestation documents. Raw bytes: what verifies says what a genuine document said. Signed: the
//! input is a payload, signed by a test leaf, and verification answers exactly as the rules say.

use sigil_verifier::{Document, TrustRoot, VerifyTime, check_allowing_debug, verify};

use crate::Target;
use crate::fixtures::{
    DOCUMENTS, INTERMEDIATE, LEAF, LEAF_VALID_MS, QEMU_DOCUMENT, ROOT, TEST_ROOT, document,
    enveloped, payload, signed,
};

pub(crate) const RAW: Target = Target {
    name: "attestation",
    input_bytes_max: 17 * 1024,
    memory_bytes_max: 128 * 1024,
    check: raw,
    seeds: || {
        let ours = signed(&payload(&document()));
        [&DOCUMENTS[..], &[QEMU_DOCUMENT, &ours]]
            .concat()
            .iter()
            .map(|seed| seed.to_vec())
            .collect()
    },
};

pub(crate) const SIGNED: Target = Target {
    name: "attestation-signed",
    input_bytes_max: 17 * 1024,
    memory_bytes_max: 256 * 1024,
    check: resigned,
    seeds: || {
        let mut debug = document();
        debug.pcrs = [(0, [0; 48]), (3, [3; 48])].into_iter().collect();
        let mut early = document();
        early.timestamp_ms = *LEAF_VALID_MS.start() - 1;
        let mut bound = document();
        bound.nonce = Some(vec![7; 32]);
        bound.public_key = Some(vec![8; 294]);
        bound.user_data = Some(Vec::new());
        [document(), debug, early, bound].iter().map(payload).collect()
    },
};

/// No mutation of a genuine document verifies under AWS' root as anything but that document.
fn raw(input: &[u8]) {
    let parsed = Document::parse_unverified(input);
    if let Ok(document) = &parsed {
        one_meaning(document);
    }
    for root in [TrustRoot::aws(), TEST_ROOT.clone()] {
        let checked = check_allowing_debug(input, &root, VerifyTime::AtDocument);
        let verified = verify(input, &root, VerifyTime::AtDocument);
        let Ok(checked) = checked else {
            assert!(verified.is_err(), "verified, though its checks fail");
            continue;
        };
        assert_eq!(parsed.as_ref(), Ok(&checked.document));
        assert_eq!(verified.is_ok(), !checked.document.is_debug());
        assert_eq!(checked.chain_time_ms, checked.document.timestamp_ms);
        if root == TrustRoot::aws() {
            let known = DOCUMENTS.map(Document::parse_unverified);
            assert!(known.contains(&Ok(checked.document)), "AWS never said this");
        }
    }
}

fn resigned(payload: &[u8]) {
    // Most inputs are no payload; they are not worth a signature.
    let Ok(parsed) = Document::parse_unverified(&enveloped(payload, &[0; 96])) else { return };
    one_meaning(&parsed);
    let bytes = signed(payload);
    let verified = verify(&bytes, &TEST_ROOT, VerifyTime::AtDocument);
    let good = parsed.certificate == LEAF
        && parsed.cabundle == [ROOT, INTERMEDIATE]
        && LEAF_VALID_MS.contains(&parsed.timestamp_ms)
        && (0..=2).any(|index| parsed.pcr(index).is_some_and(|pcr| pcr != [0; 48]));
    assert_eq!(verified.is_ok(), good, "{verified:?}");
    if let Ok(document) = verified {
        assert_eq!(document, parsed);
        if let Ok(data) = document.user_data() {
            assert_eq!(Some(data.encode()), document.user_data, "one spelling");
        }
    }
}

/// A document written anew in one fixed form reads as the same document.
fn one_meaning(document: &Document) {
    let again = Document::parse_unverified(&enveloped(&payload(document), &[0; 96]));
    assert_eq!(again.as_ref(), Ok(document));
}
