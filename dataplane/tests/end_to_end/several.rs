//! Several signatures in one request: a batch, a stream. Each has its own answer, whatever happens to
//! the others.

use std::collections::BTreeMap;

use bytes::Bytes;
use devkms::FaultMode;
use futures_util::stream;
use serde_json::{Value, json};
use sigil_dataplane::v1;
use v1::sign_result::Result as Either;

use crate::support::{Bench, eventually};

const UNKNOWN: &str = "k1aaaaaaaaaaaaaaaaaaaaaaaaaa";

fn request(key_id: &str, digest: impl Into<Vec<u8>>) -> v1::SignRequest {
    v1::SignRequest {
        key_id: key_id.to_owned(),
        digest: Bytes::from(digest.into()),
        ..v1::SignRequest::default()
    }
}

fn tagged(tag: u64, key_id: &str) -> v1::SignStreamRequest {
    let digest = [tag.to_be_bytes(); 4].concat();
    v1::SignStreamRequest { tag, request: Some(request(key_id, digest)) }
}

fn signature(result: Option<v1::SignResult>) -> Result<Bytes, v1::Error> {
    match result.and_then(|result| result.result).expect("a result") {
        Either::Signed(signed) => Ok(signed.signature),
        Either::Error(error) => Err(error),
    }
}

#[tokio::test]
async fn a_batch_gives_each_request_its_own_result_on_both_faces() {
    let bench = Bench::start().await;
    let created = bench.create(&json!({})).await;
    let key_id = created["keyId"].as_str().unwrap();
    let alone = bench.sign(key_id, [7; 32]).await;
    let digest = "07".repeat(32);
    let body = json!({ "requests": [
        { "keyId": key_id, "digest": digest, "der": true },
        { "keyId": key_id, "digest": "07" },
        { "keyId": UNKNOWN, "digest": digest },
        { "keyId": key_id, "digest": digest, "tenantId": "t" },
        { "keyId": key_id, "digest": digest },
    ] });
    let answer = bench.post("/sign/batch", &body).await.unwrap();
    assert_eq!(answer.status, 200);
    let results = answer.json()["results"].clone();
    assert_eq!(results.as_array().unwrap().len(), 5);
    assert_eq!(results[0]["signed"], alone);
    assert_eq!(results[4]["signed"]["signature"], alone["signature"]);
    for (at, code, field) in [
        (1, "INVALID_ARGUMENT", "digest"),
        (2, "KEY_NOT_FOUND", "keyId"),
        (3, "INVALID_ARGUMENT", "tenantId"),
    ] {
        let error = &results[at]["error"];
        assert_eq!((&error["code"], &error["field"]), (&json!(code), &json!(field)), "{error}");
        assert!(results[at]["signed"].is_null());
    }
    for (class, count) in [("2xx", 2), ("4xx", 3)] {
        let line = format!(r#"http_grpc_requests_total{{method="sign_batch",code="{class}"}}"#);
        assert_eq!(bench.metric(&line).await.to_string(), count.to_string(), "{class}");
    }

    let mut grpc = bench.grpc().await;
    let requests =
        vec![request(key_id, [7; 32]), request(key_id, [7; 31]), request(UNKNOWN, [7; 32])];
    let answer = grpc.sign_batch(v1::SignBatchRequest { requests }).await.unwrap().into_inner();
    let results: Vec<_> = answer.results.into_iter().map(|it| signature(Some(it))).collect();
    assert_eq!(
        const_hex::encode(results[0].as_ref().unwrap()),
        alone["signature"].as_str().unwrap()
    );
    for (result, code) in results[1..].iter().zip(["INVALID_ARGUMENT", "KEY_NOT_FOUND"]) {
        assert_eq!(result.as_ref().unwrap_err().code, code);
    }
}

#[tokio::test]
async fn a_batch_travels_in_full_messages_and_has_a_bound() {
    let bench = Bench::start().await;
    let created = bench.create(&json!({})).await;
    let key_id = created["keyId"].as_str().unwrap();
    bench.assert_signs(&created).await;
    bench.every_keyspace_tested().await;
    let mut grpc = bench.grpc().await;
    let of = |count: u16| v1::SignBatchRequest {
        requests: (0..count).map(|n| request(key_id, [n.to_be_bytes(); 16].concat())).collect(),
    };
    let before = bench.pool_metric("boundary_crossings_total").await;
    let answer = grpc.sign_batch(of(256)).await.unwrap().into_inner();
    let messages = bench.pool_metric("boundary_crossings_total").await - before;
    assert!((8.0..=12.0).contains(&messages), "{messages} messages for 256 digests");
    let mut signatures: Vec<_> =
        answer.results.into_iter().map(|result| signature(Some(result)).unwrap()).collect();
    signatures.sort();
    signatures.dedup();
    assert_eq!(signatures.len(), 256);
    for count in [0, 257] {
        let status = grpc.sign_batch(of(count)).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert_eq!(status.metadata().get("sigil-field").unwrap(), "requests");
    }
}

#[tokio::test]
async fn a_stream_answers_every_request_once_with_its_tag() {
    const REQUESTS: u64 = 3_000;
    let bench = Bench::start().await;
    let created = bench.create(&json!({})).await;
    let key_id = created["keyId"].as_str().unwrap().to_owned();
    let mut grpc = bench.grpc().await;
    // Every tenth is wrong in one of three ways; none ends the stream.
    let wrong = |tag: u64| tag % 10 == 9;
    let id = key_id.clone();
    let requests = stream::iter((0..REQUESTS).map(move |tag| match tag % 30 {
        9 => tagged(tag, UNKNOWN),
        19 => v1::SignStreamRequest { tag, request: Some(request(&id, [1; 31])) },
        29 => v1::SignStreamRequest { tag, request: None },
        _ => tagged(tag, &id),
    }));
    let mut answers = grpc.sign_stream(requests).await.unwrap().into_inner();
    let mut seen = BTreeMap::new();
    while let Some(answer) = answers.message().await.unwrap() {
        let before = seen.insert(answer.tag, signature(answer.result));
        assert!(before.is_none(), "{} was answered twice", answer.tag);
    }
    assert_eq!(seen.len() as u64, REQUESTS);
    for (tag, result) in &seen {
        match (result, tag % 30) {
            (Ok(_), _) => assert!(!wrong(*tag), "{tag}"),
            (Err(error), 9) => assert_eq!(error.code, "KEY_NOT_FOUND"),
            (Err(error), 19) => assert_eq!(error.field, "digest"),
            (Err(error), 29) => assert_eq!(error.field, "request"),
            (Err(error), _) => panic!("{tag}: {error:?}"),
        }
    }
    let digest: [u8; 32] = [1_234_u64.to_be_bytes(); 4].concat().try_into().unwrap();
    let alone = bench.sign(&key_id, digest).await;
    assert_eq!(
        const_hex::encode(seen[&1_234].as_ref().unwrap()),
        alone["signature"].as_str().unwrap()
    );
}

#[tokio::test]
async fn a_locked_key_says_so_in_a_batch_and_on_a_stream_and_signs_later() {
    let bench = Bench::start().await;
    let created = bench.create(&json!({})).await;
    let key_id = created["keyId"].as_str().unwrap();
    bench.assert_signs(&created).await;
    bench.kms.set_fault(FaultMode::Http500).unwrap();
    bench.launcher.kill_child();
    let body = json!({ "requests": [{ "keyId": key_id, "digest": "07".repeat(32) }] });
    let locked = eventually("the batch says that the key is locked", async || {
        let error: Value =
            bench.post("/sign/batch", &body).await.unwrap().json()["results"][0]["error"].clone();
        (error["code"] == "UNLOCK_REQUIRED").then_some(error)
    })
    .await;
    assert!((50..=200).contains(&locked["retryAfterMs"].as_u64().unwrap()), "{locked}");
    let mut grpc = bench.grpc().await;
    let requests = stream::iter(vec![tagged(5, key_id)]);
    let mut answers = grpc.sign_stream(requests).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let error = signature(answer.result).unwrap_err();
    assert_eq!((answer.tag, error.code.as_str()), (5, "UNLOCK_REQUIRED"));
    assert!((50..=200).contains(&error.retry_after_ms), "{error:?}");
    let debug = bench.admin("GET", "/debug/unlock").await.unwrap().json().to_string();
    assert!(debug.contains(&error.unlock_request_id), "{debug}");
    assert!(answers.message().await.unwrap().is_none());
    bench.kms.set_fault(FaultMode::Off).unwrap();
    eventually("the batch signs", async || {
        let result = bench.post("/sign/batch", &body).await.unwrap().json()["results"][0].clone();
        result["signed"]["signature"].is_string().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_killed_enclave_leaves_no_request_of_a_stream_without_an_answer() {
    const REQUESTS: u64 = 20_000;
    const KILLED_AT: u64 = 2_000;
    let bench = Bench::start().await;
    let created = bench.create(&json!({})).await;
    let key_id = created["keyId"].as_str().unwrap().to_owned();
    bench.assert_signs(&created).await;
    let mut grpc = bench.grpc().await;
    let id = key_id.clone();
    let requests = stream::iter((0..REQUESTS).map(move |tag| tagged(tag, &id)));
    let mut answers = grpc.sign_stream(requests).await.unwrap().into_inner();
    let (mut seen, mut refused) = (vec![false; usize::try_from(REQUESTS).unwrap()], 0);
    let mut count = 0;
    while let Some(answer) = answers.message().await.unwrap() {
        let seen = &mut seen[usize::try_from(answer.tag).unwrap()];
        assert!(!std::mem::replace(seen, true), "{} was answered twice", answer.tag);
        if let Err(error) = signature(answer.result) {
            assert!(error.retry_after_ms > 0, "only retryable: {error:?}");
            refused += 1;
        }
        count += 1;
        if count == KILLED_AT {
            bench.launcher.kill_child();
        }
    }
    assert!(seen.iter().all(|seen| *seen), "every request has its answer");
    assert!(refused > 0, "the enclave was away");
    bench.assert_signs(&created).await;
}

#[tokio::test]
async fn a_stop_signal_ends_an_open_stream_honestly() {
    let mut bench = Bench::start().await;
    let created = bench.create(&json!({})).await;
    let key_id = created["keyId"].as_str().unwrap().to_owned();
    bench.assert_signs(&created).await;
    let mut grpc = bench.grpc().await;
    let (send, requests) = tokio::sync::mpsc::channel(8);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut answers = grpc.sign_stream(requests).await.unwrap().into_inner();
    send.send(tagged(1, &key_id)).await.unwrap();
    let answer = answers.message().await.unwrap().unwrap();
    assert!(signature(answer.result).is_ok());
    bench.dataplane.terminate();
    let status = answers.message().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
    assert_eq!(status.metadata().get("sigil-code").unwrap(), "RETRY_LATER");
    let ended = eventually("the end", async || bench.dataplane.ended()).await;
    assert!(ended.success(), "{ended}");
}
