//! Documents by the test signer: each rule broken alone, by a signer that has the right key.
#![allow(clippy::unwrap_used, reason = "a test")]

use rcgen::PKCS_ECDSA_P256_SHA256;
use sigil_attestation::{Document, DocumentError, TrustRoot, VerifyError, verify};
use sigil_enclave_insecure::nsm::{Chain, TestDocument, TestRoot, Validity, test_root_der};
use sigil_image_authoring::measure::{ProcessPcrs, process};

const NOW_MS: u64 = 1_800_000_000_500;

fn pcrs() -> ProcessPcrs {
    process(b"executable", b"pins")
}

fn root() -> TrustRoot {
    TrustRoot::from_der(test_root_der().to_vec()).unwrap()
}

fn chain() -> Chain {
    TestRoot::committed().unwrap().issue(Validity::aws(NOW_MS)).unwrap()
}

fn document() -> TestDocument {
    TestDocument::new(NOW_MS, pcrs())
}

fn check(document: &TestDocument) -> Result<Document, VerifyError> {
    verify(&document.sign(&chain()).unwrap(), &root())
}

fn refused(change: impl FnOnce(&mut TestDocument)) -> VerifyError {
    let mut document = document();
    change(&mut document);
    check(&document).unwrap_err()
}

fn bytes_cbor(length: usize) -> Vec<u8> {
    minicbor::to_vec(minicbor::bytes::ByteVec::from(vec![7; length])).unwrap()
}

#[test]
fn every_accepted_form_verifies() {
    for (tagged, definite) in [(false, false), (false, true), (true, false), (true, true)] {
        let form = TestDocument { tagged, definite, ..document() };
        assert_eq!(check(&form).unwrap().timestamp_ms, NOW_MS);
    }
    let mut document = document();
    // Maps and lists of indefinite length inside, fields in another order, an optional one absent.
    let register = [&[0x00, 0x58, 0x30][..], &[9; 48]].concat();
    document.set("pcrs", [&[0xbf][..], &register, &[0xff]].concat());
    let chain = chain();
    let list = TestDocument::cabundle_cbor(&chain.cabundle);
    document.set("cabundle", [&[0x9f][..], &list[1..], &[0xff]].concat());
    document.fields.reverse();
    document.fields.retain(|(key, _)| key != "nonce");
    let bytes = document.sign(&chain).unwrap();
    let read = verify(&bytes, &root()).unwrap();
    assert_eq!((read.pcr(0), read.pcr(1), read.nonce), (Some([9; 48]), None, None));
}

#[test]
fn the_longest_fields_are_read_and_longer_ones_refused() {
    for (key, longest) in [("public_key", 1_024), ("user_data", 1_024), ("nonce", 1_024)] {
        let mut longest_document = document();
        assert!(check(longest_document.set(key, bytes_cbor(longest))).is_ok(), "{key}");
        let error = refused(|document| {
            document.set(key, bytes_cbor(longest + 1));
        });
        assert_eq!(error, DocumentError::OutOfBounds(key).into());
    }
    assert!(check(document().user_data(Some(&[]))).is_ok());
    let empty = refused(|document| {
        document.public_key(Some(&[]));
    });
    assert_eq!(empty, DocumentError::OutOfBounds("public_key").into());
}

#[test]
fn fields_out_of_bounds_or_of_another_type_are_refused() {
    let text = |length| minicbor::to_vec("x".repeat(length)).unwrap();
    for (key, cbor) in [
        ("module_id", text(0)),
        ("module_id", text(129)),
        ("timestamp", vec![0]),
        ("certificate", bytes_cbor(0)),
        ("certificate", bytes_cbor(1_025)),
        ("cabundle", vec![0x80]),
        ("cabundle", vec![0x9f, 0xff]),
        ("cabundle", [&[0x88][..], &bytes_cbor(1).repeat(8)].concat()),
        ("cabundle", [&[0x81][..], &bytes_cbor(0)].concat()),
        ("pcrs", vec![0xa0]),
        ("pcrs", [&[0xa1, 0x00][..], &bytes_cbor(47)].concat()),
        ("pcrs", [&[0xa1, 0x00][..], &bytes_cbor(0)].concat()),
        ("pcrs", [&[0xa1, 0x18, 32][..], &bytes_cbor(48)].concat()),
    ] {
        let error = refused(|document| {
            document.set(key, cbor);
        });
        assert_eq!(error, DocumentError::OutOfBounds(key).into());
    }
    for key in ["module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle", "nonce"] {
        let error = refused(|document| {
            document.set(key, vec![0xf5]);
        });
        assert_eq!(error, DocumentError::Malformed(key).into());
    }
    for (key, cbor) in [
        // A length that no memory holds, and one that the document does not have.
        ("cabundle", vec![0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ("certificate", vec![0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ("pcrs", vec![0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ("timestamp", vec![0x20]),
        // Byte strings in chunks: never seen, not accepted.
        ("nonce", vec![0x5f, 0x41, 0x00, 0xff]),
        // Indexes above 255 and below 0.
        ("pcrs", [&[0xa1, 0x19, 0x01, 0x00][..], &bytes_cbor(48)].concat()),
        ("pcrs", [&[0xa1, 0x20][..], &bytes_cbor(48)].concat()),
    ] {
        let error = refused(|document| {
            document.set(key, cbor);
        });
        assert_eq!(error, DocumentError::Malformed(key).into());
    }
}

#[test]
fn duplicates_unknown_and_missing_keys_are_refused() {
    for index in 0..document().fields.len() {
        let (key, _) = document().fields.swap_remove(index);
        for definite in [true, false] {
            let error = refused(|document| {
                document.definite = definite;
                let again = document.fields[index].clone();
                document.fields.push(again);
            });
            assert!(
                matches!(error, VerifyError::Document(DocumentError::Duplicate(name)) if name == key),
                "{key}: {error}"
            );
        }
        let mut without = document();
        without.fields.retain(|(name, _)| *name != key);
        match key.as_str() {
            "public_key" | "user_data" | "nonce" => assert!(check(&without).is_ok()),
            _ => assert!(matches!(
                check(&without),
                Err(VerifyError::Document(DocumentError::Missing(name))) if name == key
            )),
        }
    }
    // A register twice, in maps of both kinds.
    let register = [&[0x00][..], &bytes_cbor(48)].concat();
    for (head, tail) in [(0xa2, &[][..]), (0xbf, &[0xff][..])] {
        let cbor = [&[head][..], &register, &register, tail].concat();
        let error = refused(|document| {
            document.set("pcrs", cbor);
        });
        assert_eq!(error, DocumentError::Duplicate("pcrs").into());
    }
    let error = refused(|document| document.fields.push(("extra".into(), vec![0xf6])));
    assert_eq!(error, DocumentError::UnknownKey.into());
}

#[test]
fn documents_of_other_makers_are_refused() {
    let error = refused(|document| {
        document.set("digest", minicbor::to_vec("SHA256").unwrap());
    });
    assert_eq!(error, DocumentError::Digest.into());
    let error = refused(|document| {
        let pcrs = document.fields.iter_mut().find(|(key, _)| key == "pcrs").unwrap();
        pcrs.0 = "nitrotpm_pcrs".to_owned();
    });
    assert_eq!(error, DocumentError::NitroTpm.into());
}

#[test]
fn headers_must_be_exactly_those_of_the_module() {
    for protected in [
        &[][..],
        &[0xa0],
        // ES256, ES384 with a key id, ES384 in a longer spelling.
        &[0xa1, 0x01, 0x26],
        &[0xa2, 0x01, 0x38, 0x22, 0x04, 0x41, 0x00],
        &[0xa1, 0x01, 0x39, 0x00, 0x22],
    ] {
        let error = refused(|document| document.protected = protected.to_vec());
        assert_eq!(error, DocumentError::Algorithm.into(), "{protected:?}");
    }
    for unprotected in [&[0xa1, 0x04, 0x41, 0x00][..], &[0xbf, 0xff]] {
        let error = refused(|document| document.unprotected = unprotected.to_vec());
        assert_eq!(error, DocumentError::Unprotected.into(), "{unprotected:?}");
    }
    let chain = chain();
    let payload = document().payload(&chain);
    let outer = |payload: &[u8], signature: &[u8]| {
        verify(&document().assemble(payload, signature), &root())
    };
    assert_eq!(outer(&payload, &[1; 95]), Err(DocumentError::SignatureLength.into()));
    assert_eq!(outer(&payload, &[1; 97]), Err(DocumentError::SignatureLength.into()));
    assert_eq!(outer(&payload, &[1; 96]), Err(VerifyError::Signature));
    assert_eq!(
        outer(&[&payload[..], &[0]].concat(), &[1; 96]),
        Err(DocumentError::TrailingBytes.into())
    );
    assert_eq!(outer(&vec![0; 16 * 1024], &[1; 96]), Err(DocumentError::TooLarge.into()));
    let mut tag = TestDocument { tagged: true, ..document() }.sign(&chain).unwrap();
    tag[0] = 0xd1;
    assert_eq!(verify(&tag, &root()), Err(DocumentError::Cose.into()));
}

#[test]
fn chains_must_lead_to_the_pinned_root() {
    let verify_under = |chain: &Chain| verify(&document().sign(chain).unwrap(), &root()).map(drop);
    let good = chain();
    assert_eq!(verify_under(&good), Ok(()));
    // A root of the same name with another key, alone and behind the pinned root.
    let mut other = TestRoot::other(NOW_MS).unwrap().issue(Validity::aws(NOW_MS)).unwrap();
    assert_eq!(verify_under(&other), Err(VerifyError::OtherRoot));
    other.cabundle[0] = test_root_der().to_vec();
    assert_eq!(verify_under(&other), Err(VerifyError::Chain));
    for missing in 1..4 {
        let mut broken = chain();
        broken.cabundle.remove(missing);
        assert_eq!(verify_under(&broken), Err(VerifyError::Chain), "without {missing}");
    }
    let mut rootless = chain();
    rootless.cabundle.remove(0);
    assert_eq!(verify_under(&rootless), Err(VerifyError::OtherRoot));
    // A leaf of another chain under the same root: its key did not sign.
    let mut foreign_leaf = chain();
    foreign_leaf.certificate.clone_from(&good.certificate);
    foreign_leaf.cabundle.clone_from(&good.cabundle);
    assert_eq!(verify_under(&foreign_leaf), Err(VerifyError::Signature));
    // An intermediate as leaf.
    let mut not_a_leaf = chain();
    not_a_leaf.certificate = not_a_leaf.cabundle.pop().unwrap();
    assert_eq!(verify_under(&not_a_leaf), Err(VerifyError::Chain));
    let p256 = TestRoot::committed().unwrap();
    let p256 = p256.issue_with(Validity::aws(NOW_MS), &PKCS_ECDSA_P256_SHA256).unwrap();
    assert_eq!(verify_under(&p256), Err(VerifyError::Chain));
}

#[test]
fn debug_means_the_first_three_registers() {
    let zeros = [0; 48];
    let ones = [1; 48];
    let debug = [(0, zeros), (1, zeros), (2, zeros), (3, ones), (4, ones)];
    assert_eq!(
        refused(|document| {
            document.pcrs(&debug);
        }),
        VerifyError::Debug
    );
    // Registers that are not there are no better than zeros.
    assert_eq!(
        refused(|document| {
            document.pcrs(&[(3, ones)]);
        }),
        VerifyError::Debug
    );
    for set in 0..3 {
        let mut registers = debug;
        registers[set].1 = ones;
        assert!(check(document().pcrs(&registers)).is_ok());
    }
}
