//! What applications see when everything works, and what they are refused.

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};
use sigil_dataplane::v1;
use sigil_enclave_insecure::nsm::test_root_der;
use sigil_verifier::{
    PcrAllowList, SignedStatement, Statement, StatementKind, TrustRoot, verify_statement,
};

use crate::support::Bench;

fn verified(bench: &Bench, proof: &Value) -> Statement {
    use base64::Engine;
    let hex = |field: &str| const_hex::decode(proof[field].as_str().unwrap()).unwrap();
    let document = base64::engine::general_purpose::STANDARD
        .decode(proof["document"].as_str().unwrap())
        .unwrap();
    let signed = SignedStatement {
        statement: hex("statement"),
        signature: hex("signature").try_into().unwrap(),
        document,
    };
    let root = TrustRoot::from_der(test_root_der().to_vec()).unwrap();
    let image = sigil_verifier::Measurement {
        pcr0: bench.measurements.pcr0,
        pcr1: bench.measurements.pcr1,
        pcr2: bench.measurements.pcr2,
    };
    verify_statement(&signed, &root, &PcrAllowList::new(vec![image])).unwrap().0
}

#[tokio::test]
async fn a_key_is_born_proved_listed_and_signs_on_both_faces() {
    let bench = Bench::start().await;
    let created = bench.create(&json!({ "challenge": "c0ffee" })).await;
    let key_id = created["keyId"].as_str().unwrap();
    assert_eq!(created["keyspace"], "default");

    let birth = verified(&bench, &created["birth"]);
    assert_eq!((birth.kind, &birth.challenge[..]), (StatementKind::Birth, &[0xc0, 0xff, 0xee][..]));
    assert_eq!(const_hex::encode(birth.public_key), created["publicKey"].as_str().unwrap());
    bench.assert_signs(&created).await;

    let stored = bench.get(&format!("/keys/{key_id}/attestation")).await.json();
    assert_eq!(stored, created["birth"]);
    let proof = bench.get(&format!("/keys/{key_id}/attestation?nonce=0xabcd")).await.json();
    let possession = verified(&bench, &proof);
    assert_eq!(possession.kind, StatementKind::Possession);
    assert_eq!(possession.challenge, [0xab, 0xcd]);
    assert_eq!(possession.public_key, birth.public_key);

    let key = bench.get(&format!("/keys/{key_id}")).await.json();
    assert_eq!((&key["keyId"], &key["publicKey"]), (&created["keyId"], &created["publicKey"]));
    assert_eq!(bench.listed().await, [key]);

    let mut grpc = bench.grpc().await;
    let request = v1::SignRequest {
        key_id: key_id.to_owned(),
        digest: Bytes::from_static(&[0x42; 32]),
        ..v1::SignRequest::default()
    };
    let signed = grpc.sign(request).await.unwrap().into_inner();
    let over_http = bench.sign(key_id, [0x42; 32]).await;
    assert_eq!(const_hex::encode(&signed.signature), over_http["signature"].as_str().unwrap());
    let second = grpc.create(v1::CreateRequest::default()).await.unwrap().into_inner();
    let got = grpc
        .get_key(v1::GetKeyRequest {
            key_id: second.key_id.clone(),
            ..v1::GetKeyRequest::default()
        })
        .await
        .unwrap();
    assert_eq!(got.into_inner().key.unwrap().public_key, second.public_key);
    let listed = grpc.list_keys(v1::ListKeysRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.keys.len(), 2);
}

#[tokio::test]
async fn an_idempotent_create_gives_one_key_and_refuses_other_parameters() {
    let bench = Bench::start().await;
    let body = json!({ "idempotencyKey": "order-17", "challenge": "01" });
    let first = bench.create(&body).await;
    assert_eq!(bench.create(&body).await, first);
    for other in [
        json!({ "idempotencyKey": "order-17", "challenge": "02" }),
        json!({ "idempotencyKey": "order-17" }),
    ] {
        let answer = bench.post("/create", &other).await.unwrap();
        assert_eq!(answer.status, 409);
        assert_eq!(
            (answer.text("code").as_str(), answer.text("field").as_str()),
            ("KEY_CONFLICT", "idempotencyKey")
        );
    }
    // Another keyspace is another name, and so another key.
    let elsewhere =
        json!({ "idempotencyKey": "order-17", "challenge": "01", "keyspace": "payments" });
    assert_ne!(bench.create(&elsewhere).await["keyId"], first["keyId"]);
    assert_eq!(bench.listed().await.len(), 1);
}

#[tokio::test]
async fn racing_creates_with_one_idempotency_key_give_one_key() {
    let bench = Bench::start().await;
    bench.create(&json!({})).await;
    let body = json!({ "idempotencyKey": "race" });
    let answers = futures_util::future::join_all((0..16).map(|_| bench.create(&body))).await;
    assert!(answers.iter().all(|answer| answer == &answers[0]));
    assert_eq!(bench.listed().await.len(), 2);
}

#[tokio::test]
async fn bad_requests_are_refused_over_the_wire_with_their_field() {
    let bench = Bench::start().await;
    let created = bench.create(&json!({})).await;
    let key_id = created["keyId"].as_str().unwrap();
    let unknown = "k1aaaaaaaaaaaaaaaaaaaaaaaaaa";
    let digest = "11".repeat(32);
    let sign = |key_id: &str, digest: &str| json!({ "keyId": key_id, "digest": digest });
    let cases = [
        ("/sign", sign(key_id, &"11".repeat(31)), 400, "digest"),
        ("/sign", sign(key_id, &"11".repeat(33)), 400, "digest"),
        ("/sign", sign(key_id, &"1".repeat(63)), 400, "digest"),
        ("/sign", sign(key_id, &"zz".repeat(32)), 400, "digest"),
        ("/sign", sign(&key_id.to_uppercase(), &digest), 400, "keyId"),
        ("/sign", sign("k1", &digest), 400, "keyId"),
        ("/sign", sign(unknown, &digest), 404, "keyId"),
        ("/create", json!({ "extra": 1 }), 400, "extra"),
        ("/create", json!({ "policy": "01" }), 400, "policy"),
        ("/create", json!({ "tenantId": "t" }), 400, "tenantId"),
        ("/create", json!({ "keyspace": "elsewhere" }), 400, "keyspace"),
        ("/create", json!({ "challenge": "a".repeat(70_000) }), 413, "body"),
        ("/nothing", json!({}), 404, "path"),
        ("/keys", json!({}), 405, "method"),
    ];
    for (path, body, status, field) in cases {
        let answer = bench.post(path, &body).await.unwrap();
        let problem = answer.json();
        assert_eq!(
            (answer.status.as_u16(), problem["field"].as_str()),
            (status, Some(field)),
            "{path} {body}"
        );
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert_eq!(answer.header("x-request-id"), problem["requestId"].as_str().unwrap());
        assert!(problem.get("signature").is_none());
    }
    let doubled = format!(r#"{{"keyId":"{key_id}","digest":"{digest}","digest":"{digest}"}}"#);
    let request = Request::post("/sign").header("host", "x").header("x-request-id", "mine-1");
    let answer = bench.http(request.body(doubled.into()).unwrap()).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.text("field").as_str()), (400, "digest"));
    assert_eq!(answer.header("x-request-id"), "mine-1");

    let mut grpc = bench.grpc().await;
    let short = v1::SignRequest {
        key_id: key_id.to_owned(),
        digest: Bytes::from_static(&[1; 31]),
        ..v1::SignRequest::default()
    };
    let status = grpc.sign(short).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert_eq!(status.metadata().get("sigil-field").unwrap(), "digest");
    assert_eq!(status.metadata().get("sigil-code").unwrap(), "INVALID_ARGUMENT");
    let long = v1::CreateRequest { challenge: vec![0; 70_000].into(), ..Default::default() };
    let status = grpc.create(long).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert_eq!(status.metadata().get("sigil-field").unwrap(), "body");
}

#[tokio::test]
async fn warm_signatures_never_reach_kms() {
    let bench = Bench::start().await;
    let created = bench.create(&json!({})).await;
    bench.assert_signs(&created).await;
    // The other keyspace is unlocked in the background.
    bench.every_keyspace_tested().await;
    let before = bench.kms.counters().total();
    for n in 0..200_u8 {
        bench.sign(created["keyId"].as_str().unwrap(), [n; 32]).await;
    }
    assert_eq!(bench.kms.counters().total(), before);
}

#[tokio::test]
async fn probes_metrics_and_status_say_what_is() {
    let bench = Bench::start().await;
    bench.create(&json!({})).await;
    assert_eq!(bench.admin("GET", "/readyz").await.unwrap().status, 200);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", bench.dataplane.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");
    let status = bench.every_keyspace_tested().await;
    assert_eq!(status["attested"], true);
    assert_eq!(status["trusted"], false, "the test root is not AWS's");
    assert_eq!(status["measurements"]["pcr0"], const_hex::encode(bench.measurements.pcr0));
    assert_eq!(status["keyspaces"]["default"]["unlocked"], true);
    let created = r#"http_grpc_requests_total{method="create",code="2xx"}"#;
    assert!(bench.metric(created).await >= 1.0);
    assert!(bench.pool_metric("active_conns").await >= 2.0);
}

#[tokio::test]
async fn a_stop_signal_ends_it_cleanly_and_a_bad_configuration_does_not_start() {
    let mut bench = Bench::start().await;
    bench.create(&json!({})).await;
    bench.dataplane.terminate();
    let status = crate::support::eventually("the end", async || bench.dataplane.ended()).await;
    assert!(status.success(), "{status}");
    assert!(bench.admin("GET", "/livez").await.is_err());

    let config = std::fs::read_to_string(bench.path("dataplane.yaml")).unwrap();
    let config =
        config.replace("workers: 1", "wrokers: 1").replace("unlock: {", "unlock: {workers: 0, ");
    std::fs::write(bench.path("bad.yaml"), config).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_sigil-dataplane"))
        .args(["check-config", "--config"])
        .arg(bench.path("bad.yaml"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("wrokers: unknown key") && said.contains("2 error"), "{said}");
    assert!(said.contains("unlock.workers: 0 is not in"), "{said}");
}

#[tokio::test]
async fn concurrent_signatures_share_messages_to_the_enclave() {
    const SIGNATURES: u16 = 300;
    let bench = Bench::start().await;
    let created = bench.create(&json!({})).await;
    bench.assert_signs(&created).await;
    bench.every_keyspace_tested().await;
    let before = bench.pool_metric("boundary_crossings_total").await;
    // Together: how many are there at once is not left to how fast the machine runs their sender.
    let grpc = bench.grpc_gathered(SIGNATURES.into()).await;
    let calls = (0..SIGNATURES).map(|n| {
        let mut grpc = grpc.clone();
        let request = v1::SignRequest {
            key_id: created["keyId"].as_str().unwrap().to_owned(),
            digest: Bytes::copy_from_slice(&[u8::try_from(n % 256).unwrap(); 32]),
            ..v1::SignRequest::default()
        };
        async move { grpc.sign(request).await.unwrap().into_inner() }
    });
    let signed = futures_util::future::join_all(calls).await;
    // Deterministic: the same digest has the same signature, whatever batch it was in.
    assert_eq!(signed[0].signature, signed[256].signature);
    assert_ne!(signed[0].signature, signed[1].signature);
    let messages = bench.pool_metric("boundary_crossings_total").await - before;
    // 80 % fewer than one for each.
    assert!(
        messages * 5.0 <= f64::from(SIGNATURES),
        "{messages} messages for {SIGNATURES} signatures"
    );
}
