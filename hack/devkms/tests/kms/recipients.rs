//! Who gets a DEK: documents and policy, through the enclave's own client.

use devkms::FaultMode;
use serde_json::{Value, json};
use sigil_enclave::nsm::{DocumentRequest, Nsm as _};
use sigil_enclave_insecure::nsm::{SoftwareNsm, TestDocument, TestRoot, Validity, system_clock};
use sigil_image_authoring::measure::{self, ProcessPcrs};

use crate::support::{Bench, base64, context, unix_s};

fn request(bench: &Bench, document: Option<&[u8]>) -> Value {
    let mut body = json!({
        "EncryptionContext": context(),
        "KeyId": bench.kms.key_arn,
        "KeySpec": "AES_256",
    });
    if let Some(document) = document {
        body["Recipient"] = json!({
            "AttestationDocument": base64(document),
            "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
        });
    }
    body
}

/// The error code, or "ok".
async fn asked(bench: &Bench, body: &Value) -> String {
    let (status, answer) = bench.call(&bench.kms.credentials(), "GenerateDataKey", body).await;
    if let Some(code) = answer.get("__type").and_then(Value::as_str) {
        assert_eq!(status, 400);
        return code.to_owned();
    }
    assert_eq!(status, 200);
    assert!(answer.get("Plaintext").is_none(), "a recipient gets no plaintext");
    assert!(answer.get("CiphertextForRecipient").is_some());
    "ok".to_owned()
}

#[tokio::test]
async fn only_the_measured_enclave_is_allowed() {
    let bench = Bench::start();
    assert_eq!(asked(&bench, &request(&bench, Some(&bench.document()))).await, "ok");
    assert_eq!(asked(&bench, &request(&bench, None)).await, "AccessDeniedException");
    let right = bench.pcrs;
    for wrong in [
        ProcessPcrs { pcr0: [1; 48], ..right },
        ProcessPcrs { pcr3: [1; 48], ..right },
        measure::process(b"another executable", b"pins"),
    ] {
        let nsm = SoftwareNsm::with_pcrs(wrong, system_clock()).unwrap();
        let public_key = Some(bench.recipient.spki_der());
        let asks = DocumentRequest { public_key, ..DocumentRequest::default() };
        let document = nsm.document(asks).unwrap();
        let code = asked(&bench, &request(&bench, Some(&document))).await;
        assert_eq!(code, "AccessDeniedException");
    }
    let mut body = request(&bench, Some(&bench.document()));
    body["EncryptionContext"]["app"] = json!("another");
    assert_eq!(asked(&bench, &body).await, "AccessDeniedException");
    body["EncryptionContext"] = json!({});
    assert_eq!(asked(&bench, &body).await, "AccessDeniedException");
}

#[tokio::test]
async fn documents_that_do_not_verify_are_refused() {
    let bench = Bench::start();
    let now_ms = unix_s() * 1_000;
    let chain_at = |ms| TestRoot::committed().unwrap().issue(Validity::aws(ms)).unwrap();
    let document_at = |ms| TestDocument::new(ms, bench.pcrs);
    let spki = bench.recipient.spki_der();
    let with_key = |mut document: TestDocument, key: Option<&[u8]>, chain| {
        document.public_key(key).sign(chain).unwrap()
    };
    let chain = chain_at(now_ms - 400_000);
    let fresh = with_key(document_at(now_ms), Some(spki), &chain);
    assert_eq!(asked(&bench, &request(&bench, Some(&fresh))).await, "ok");
    let mut damaged = fresh.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let other_root = TestRoot::other(now_ms).unwrap().issue(Validity::aws(now_ms)).unwrap();
    let debug = ProcessPcrs { pcr0: [0; 48], pcr1: [0; 48], pcr2: [0; 48], ..bench.pcrs };
    for (what, document) in [
        ("empty", Vec::new()),
        ("garbage", vec![0xa0; 100]),
        ("damaged", damaged),
        ("old", with_key(document_at(now_ms - 301_000), Some(spki), &chain)),
        ("future", with_key(document_at(now_ms + 60_000), Some(spki), &chain)),
        ("other root", with_key(document_at(now_ms), Some(spki), &other_root)),
        ("debug", with_key(TestDocument::new(now_ms, debug), Some(spki), &chain)),
        ("no key", with_key(document_at(now_ms), None, &chain)),
        ("no RSA key", with_key(document_at(now_ms), Some(b"key"), &chain)),
    ] {
        let code = asked(&bench, &request(&bench, Some(&document))).await;
        assert_eq!(code, "ValidationException", "{what}");
    }
    let mut body = request(&bench, Some(&fresh));
    body["Recipient"]["KeyEncryptionAlgorithm"] = json!("RSAES_OAEP_SHA_1");
    assert_eq!(asked(&bench, &body).await, "ValidationException");
    body["Recipient"] = json!({ "AttestationDocument": "*", "KeyEncryptionAlgorithm": "x" });
    assert_eq!(asked(&bench, &body).await, "ValidationException");
}

#[tokio::test]
async fn a_lie_needs_a_verified_request_too() {
    let bench = Bench::start();
    bench.kms.set_fault(FaultMode::PlaintextOnly).unwrap();
    let wrong = ProcessPcrs { pcr0: [1; 48], ..bench.pcrs };
    let nsm = SoftwareNsm::with_pcrs(wrong, system_clock()).unwrap();
    let public_key = Some(bench.recipient.spki_der());
    let asks = DocumentRequest { public_key, ..DocumentRequest::default() };
    let document = nsm.document(asks).unwrap();
    let code = asked(&bench, &request(&bench, Some(&document))).await;
    assert_eq!(code, "AccessDeniedException");
}
