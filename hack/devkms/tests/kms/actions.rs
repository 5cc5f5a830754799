//! The actions as an AWS client sees them.

use devkms::{BREAK_GLASS_ROLE, DATAPLANE_ROLE};
use serde_json::{Value, json};

use crate::support::{Bench, base64, call, context, policy};

/// A policy as AWS makes it by default, in effect: both roles may do everything.
fn everything() -> String {
    json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow",
        "Principal": { "AWS": [BREAK_GLASS_ROLE, DATAPLANE_ROLE] },
        "Action": "kms:*",
        "Resource": "*",
    }]})
    .to_string()
}

async fn ok(bench: &Bench, action: &str, body: &Value) -> Value {
    let (status, answer) = bench.call(&bench.kms.credentials(), action, body).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

async fn code(bench: &Bench, action: &str, body: &Value) -> String {
    let (status, answer) = bench.call(&bench.kms.credentials(), action, body).await;
    assert_eq!(status, 400, "{answer}");
    assert!(answer["message"].is_string());
    answer["__type"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn without_a_recipient_the_plaintext_is_in_the_answer() {
    let bench = Bench::start();
    bench.kms.put_policy(&everything()).unwrap();
    let arn = bench.kms.key_arn.clone();
    let context = context();
    let generate = json!({ "KeyId": arn, "KeySpec": "AES_256", "EncryptionContext": context });
    let generated = ok(&bench, "GenerateDataKey", &generate).await;
    assert_eq!(generated["KeyId"], arn.as_str());
    let blob = &generated["CiphertextBlob"];
    let uuid = arn.rsplit_once('/').unwrap().1;
    for key in [json!(null), json!(arn), json!(uuid)] {
        let decrypt = json!({ "CiphertextBlob": blob, "EncryptionContext": context, "KeyId": key });
        let decrypted = ok(&bench, "Decrypt", &decrypt).await;
        assert_eq!(decrypted["Plaintext"], generated["Plaintext"]);
        assert_eq!(decrypted["KeyId"], arn.as_str());
        assert_eq!(decrypted["EncryptionAlgorithm"], "SYMMETRIC_DEFAULT");
    }
    let plaintext = base64(b"a DEK of the attacker's choice!!");
    let encrypt = json!({ "KeyId": arn, "Plaintext": plaintext, "EncryptionContext": context });
    let encrypted = ok(&bench, "Encrypt", &encrypt).await;
    let decrypt =
        json!({ "CiphertextBlob": encrypted["CiphertextBlob"], "EncryptionContext": context });
    assert_eq!(ok(&bench, "Decrypt", &decrypt).await["Plaintext"], plaintext.as_str());
}

#[tokio::test]
async fn blobs_open_under_their_key_and_context_alone() {
    let bench = Bench::start();
    bench.kms.put_policy(&everything()).unwrap();
    let other = bench.kms.add_key().unwrap();
    let generate = json!({
        "KeyId": bench.kms.key_arn, "KeySpec": "AES_256", "EncryptionContext": context(),
    });
    let blob = ok(&bench, "GenerateDataKey", &generate).await["CiphertextBlob"].clone();
    let good = json!({ "CiphertextBlob": blob, "EncryptionContext": context() });
    ok(&bench, "Decrypt", &good).await;
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body
    };
    let other_context = json!({ "app": "pay", "dek_id": "00", "keyspace": "default" });
    let unknown = "arn:aws:kms:us-east-1:111122223333:key/0";
    for (body, expected) in [
        (with("KeyId", json!(other)), "IncorrectKeyException"),
        (with("KeyId", json!(unknown)), "NotFoundException"),
        (with("EncryptionContext", other_context), "InvalidCiphertextException"),
        (with("EncryptionContext", json!({})), "InvalidCiphertextException"),
        (with("CiphertextBlob", json!(base64(b"DKM1"))), "InvalidCiphertextException"),
        (with("CiphertextBlob", json!("*")), "ValidationException"),
        (with("EncryptionAlgorithm", json!("RSAES_OAEP_SHA_1")), "ValidationException"),
        (with("DryRun", json!(true)), "SerializationException"),
        (json!({}), "SerializationException"),
    ] {
        assert_eq!(code(&bench, "Decrypt", &body).await, expected, "{body}");
    }
    let spec = json!({ "KeyId": other, "KeySpec": "AES_128" });
    assert_eq!(code(&bench, "GenerateDataKey", &spec).await, "ValidationException");
    assert_eq!(code(&bench, "ReEncrypt", &good).await, "UnknownOperationException");
    assert_eq!(bench.kms.counters().get("-", "UnknownOperationException"), 1);
}

#[tokio::test]
async fn the_production_policy_denies_what_knows_no_attestation() {
    let bench = Bench::start();
    let arn = &bench.kms.key_arn;
    let encrypt = json!({ "KeyId": arn, "Plaintext": "AAAA", "EncryptionContext": context() });
    let generate = json!({ "KeyId": arn, "KeySpec": "AES_256", "EncryptionContext": context() });
    for (action, body) in [("Encrypt", &encrypt), ("GenerateDataKey", &generate)] {
        let (status, answer) = bench.call(&bench.kms.credentials(), action, body).await;
        assert_eq!((status, &answer["__type"]), (400, &json!("AccessDeniedException")));
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains("explicit deny"), "{message}");
    }
    let describe = json!({ "KeyId": arn });
    let (_, answer) = bench.call(&bench.kms.credentials(), "DescribeKey", &describe).await;
    let message = answer["message"].as_str().unwrap();
    assert!(message.contains("no resource-based policy allows the kms:DescribeKey"), "{message}");
}

#[tokio::test]
async fn the_break_glass_role_administers_and_cannot_lock_itself_out() {
    let bench = Bench::start();
    let admin = bench.kms.break_glass_credentials();
    let key = json!({ "KeyId": bench.kms.key_arn });
    let (status, answer) = bench.call(&admin, "DescribeKey", &key).await;
    assert_eq!((status, &answer["KeyMetadata"]["Origin"]), (200, &json!("AWS_KMS")));
    let (status, answer) = bench.call(&admin, "ListGrants", &key).await;
    assert_eq!((status, answer), (200, json!({ "Grants": [], "Truncated": false })));
    let (status, answer) = bench.call(&admin, "GetKeyPolicy", &key).await;
    assert_eq!(status, 200);
    let current: Value = serde_json::from_str(answer["Policy"].as_str().unwrap()).unwrap();
    let put: Value = serde_json::from_str(&policy(&bench.pcrs, &bench.kms.key_arn)).unwrap();
    assert_eq!(current, put);
    let put = |text: &str| json!({ "KeyId": bench.kms.key_arn, "Policy": text });
    let locked_out = everything().replace(BREAK_GLASS_ROLE, "arn:aws:iam::111122223333:role/x");
    for bad in ["{", &locked_out] {
        let (status, answer) = bench.call(&admin, "PutKeyPolicy", &put(bad)).await;
        assert_eq!((status, &answer["__type"]), (400, &json!("MalformedPolicyDocumentException")));
    }
    let (status, answer) = bench.call(&admin, "PutKeyPolicy", &put(&everything())).await;
    assert_eq!((status, answer), (200, Value::Null));
    ok(&bench, "DescribeKey", &key).await;
}

#[tokio::test]
async fn unsigned_and_malformed_requests_are_refused() {
    let bench = Bench::start();
    let mut stranger = bench.kms.credentials();
    stranger.access_key = "AKIASTRANGER00000000".to_owned();
    let (status, answer) = bench.call(&stranger, "Decrypt", &json!({})).await;
    assert_eq!((status, &answer["__type"]), (400, &json!("UnrecognizedClientException")));
    let mut wrong = bench.kms.credentials();
    wrong.secret = "another".to_owned();
    let (status, answer) = bench.call(&wrong, "Decrypt", &json!({})).await;
    assert_eq!((status, &answer["__type"]), (400, &json!("InvalidSignatureException")));
    let (addr, root) = (bench.kms.addr, &bench.kms.tls_root_der);
    let long = vec![b' '; 600 * 1024];
    for (body, expected) in [
        (b"not json".as_slice(), "SerializationException"),
        (b"[]", "SerializationException"),
        (&long, "ValidationException"),
    ] {
        let (status, answer) = call(addr, root, &bench.kms.credentials(), "Decrypt", body).await;
        assert_eq!((status, &answer["__type"]), (400, &json!(expected)));
    }
}
