//! Requests of the public contract on both faces. The first byte chooses the operation. What one face
//! takes the other takes too, and both mean the same; what is refused is refused in plain words.

use prost::Message;
use serde_json::{Value, json};
use sigil_dataplane::trial::{
    Create, Refused, Sign, grpc_batch, grpc_create, grpc_frames, grpc_sign, http_batch,
    http_create, http_sign,
};
use sigil_dataplane::v1;

use crate::Target;

/// JSON bodies.
pub(crate) const HTTP: Target = Target {
    name: "contract-http",
    input_bytes_max: 8 * 1024,
    memory_bytes_max: 2 * 1024 * 1024,
    check: check_http,
    seeds: http_seeds,
};

/// Messages, and frames of a stream.
pub(crate) const GRPC: Target = Target {
    name: "contract-grpc",
    input_bytes_max: 8 * 1024,
    memory_bytes_max: 4 * 1024 * 1024,
    check: check_grpc,
    seeds: grpc_seeds,
};

/// Bytes of a message in [`grpc_frames`].
const MESSAGE_BYTES_MAX: usize = 1_024;
/// Bytes of a sentence for the caller.
const DETAIL_BYTES_MAX: usize = 512;
/// gRPC codes with which a stream of frames may end: OK, INVALID_ARGUMENT, OUT_OF_RANGE, UNIMPLEMENTED,
/// INTERNAL.
const ENDS: [i32; 5] = [0, 3, 11, 12, 13];

fn check_http(input: &[u8]) {
    let Some((kind, body)) = input.split_first() else { return };
    match kind {
        b'c' => {
            if let Some(taken) = taken(http_create(body)) {
                means_create(&json(body), &taken);
                assert_eq!(grpc_create(&to_create(&taken)), Some(Ok(taken)));
            }
        }
        b's' => {
            if let Some(taken) = taken(http_sign(body)) {
                means_sign(&json(body), &taken);
                assert_eq!(grpc_sign(&to_sign(&taken).encode_to_vec()), Some(Ok(taken)));
            }
        }
        _ => {
            let Some(results) = taken(http_batch(body)) else { return };
            let body = json(body);
            let requests = body["requests"].as_array().expect("a list");
            assert!(requests.len() == results.len() && (1..=256).contains(&results.len()));
            for (request, result) in requests.iter().zip(results) {
                if let Some(taken) = taken(result) {
                    means_sign(request, &taken);
                }
            }
        }
    }
}

fn check_grpc(input: &[u8]) {
    let Some((kind, message)) = input.split_first() else { return };
    match kind {
        b'c' => {
            if let Some(taken) = grpc_create(message).and_then(taken) {
                assert_eq!(http_create(from_create(&taken).to_string().as_bytes()), Ok(taken));
            }
        }
        b's' => {
            if let Some(taken) = grpc_sign(message).and_then(taken) {
                assert_eq!(http_sign(from_sign(&taken).to_string().as_bytes()), Ok(taken));
            }
        }
        b'b' => {
            let Some(results) = grpc_batch(message).and_then(taken) else { return };
            assert!((1..=256).contains(&results.len()));
            let results: Vec<_> = results.into_iter().filter_map(taken).collect();
            let requests: Vec<_> = results.iter().map(from_sign).collect();
            if !requests.is_empty() {
                let body = json!({ "requests": requests }).to_string();
                assert_eq!(http_batch(body.as_bytes()), Ok(results.into_iter().map(Ok).collect()));
            }
        }
        pieces => frames(message, usize::from(*pieces)),
    }
}

/// Where the network cuts a stream makes no difference.
fn frames(body: &[u8], piece: usize) {
    let (tags, end) = grpc_frames(body, piece, MESSAGE_BYTES_MAX);
    assert!(ENDS.contains(&end), "ended with {end}");
    assert!(tags.len() * 5 <= body.len(), "each has a frame");
    assert_eq!(grpc_frames(body, body.len(), MESSAGE_BYTES_MAX), (tags, end));
}

/// What was taken; what was refused is looked at.
fn taken<T>(result: Result<T, Refused>) -> Option<T> {
    let refused = match result {
        Ok(taken) => return Some(taken),
        Err(refused) => refused,
    };
    assert_eq!(refused.code, "INVALID_ARGUMENT");
    let field = refused.field.expect("what is wrong");
    for text in [&refused.detail, &field] {
        assert!(text.len() <= DETAIL_BYTES_MAX, "{text}");
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
    let problem: Value = serde_json::from_str(&refused.problem).expect("JSON");
    assert_eq!(problem["field"], field);
    assert_eq!(problem["detail"], refused.detail);
    None
}

fn json(body: &[u8]) -> Value {
    serde_json::from_slice(body).expect("another reader takes it too")
}

/// What another reader finds is what was meant.
fn means_create(body: &Value, taken: &Create) {
    known(body, &["keyspace", "idempotencyKey", "challenge", "policy", "tenantId"]);
    assert_eq!(body["keyspace"].as_str().unwrap_or("default"), taken.keyspace);
    assert_eq!(body["idempotencyKey"].as_str(), taken.idempotency_key.as_deref());
    assert_eq!(unhex(body["challenge"].as_str().unwrap_or_default()), taken.challenge);
    assert!(taken.challenge.len() <= 64);
}

fn means_sign(body: &Value, taken: &Sign) {
    known(body, &["keyId", "digest", "der", "authorization", "tenantId"]);
    assert_eq!(body["keyId"], *taken.key_id);
    assert_eq!(unhex(body["digest"].as_str().expect("a text")), taken.digest);
    assert_eq!(body["der"].as_bool().unwrap_or(false), taken.der);
}

fn known(body: &Value, fields: &[&str]) {
    let body = body.as_object().expect("an object");
    assert!(body.keys().all(|field| fields.contains(&field.as_str())));
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.strip_prefix("0x").unwrap_or(text).as_bytes();
    let value = |digit: u8| char::from(digit).to_digit(16).expect("a hex digit");
    let pairs = digits.chunks(2).map(|pair| value(pair[0]) << 4 | value(pair[1]));
    pairs.map(|byte| u8::try_from(byte).expect("two digits")).collect()
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

fn from_create(create: &Create) -> Value {
    let mut body = json!({ "keyspace": create.keyspace, "challenge": hex(&create.challenge) });
    if let Some(key) = &create.idempotency_key {
        body["idempotencyKey"] = json!(key);
    }
    body
}

fn from_sign(sign: &Sign) -> Value {
    json!({ "keyId": sign.key_id, "digest": hex(&sign.digest), "der": sign.der })
}

fn to_create(create: &Create) -> Vec<u8> {
    let message = v1::CreateRequest {
        keyspace: create.keyspace.clone(),
        idempotency_key: create.idempotency_key.clone().unwrap_or_default(),
        challenge: create.challenge.clone().into(),
        ..v1::CreateRequest::default()
    };
    message.encode_to_vec()
}

fn to_sign(sign: &Sign) -> v1::SignRequest {
    v1::SignRequest {
        key_id: sign.key_id.clone(),
        digest: sign.digest.to_vec().into(),
        der: sign.der,
        ..v1::SignRequest::default()
    }
}

/// A request that is taken.
fn a_sign() -> Sign {
    Sign { key_id: "k1aaaaaaaaaaaaaaaaaaaaaaaaaa".to_owned(), digest: [0xab; 32], der: true }
}

fn a_create() -> Create {
    Create {
        keyspace: "payments".to_owned(),
        idempotency_key: Some("order-7".to_owned()),
        challenge: vec![0xc0, 0xff, 0xee],
    }
}

fn with(kind: u8, bytes: &[u8]) -> Vec<u8> {
    [&[kind], bytes].concat()
}

fn http_seeds() -> Vec<Vec<u8>> {
    let sign = from_sign(&a_sign());
    let every = json!({ "keyId": a_sign().key_id, "digest": format!("0x{}", "Ab".repeat(32)),
        "der": false, "authorization": "", "tenantId": "" });
    let wrong = json!({ "keyId": "k1", "digest": "00", "other": null });
    [
        (b'c', from_create(&a_create())),
        (b'c', json!({})),
        (b'c', json!({ "keyspace": "a\u{e9}\n", "policy": "00", "tenantId": "x" })),
        (b's', sign.clone()),
        (b's', every.clone()),
        (b's', wrong.clone()),
        (b'b', json!({ "requests": [sign, every, wrong] })),
        (b'b', json!({ "requests": [] })),
    ]
    .map(|(kind, body)| with(kind, body.to_string().as_bytes()))
    .into()
}

fn grpc_seeds() -> Vec<Vec<u8>> {
    let sign = to_sign(&a_sign());
    let wrong = v1::SignRequest { tenant_id: "x".to_owned(), ..sign.clone() };
    let batch = v1::SignBatchRequest { requests: vec![sign.clone(), wrong] };
    let streamed = |tag| {
        let message = v1::SignStreamRequest { tag, request: Some(sign.clone()) }.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap_or(0).to_be_bytes();
        [&[0], length.as_slice(), &message].concat()
    };
    vec![
        with(b'c', &to_create(&a_create())),
        with(b's', &sign.encode_to_vec()),
        with(b'b', &batch.encode_to_vec()),
        with(1, &[streamed(1), streamed(u64::MAX)].concat()),
        with(200, &[streamed(7), vec![1, 0, 0, 0, 1, 0]].concat()),
        with(9, &[0, 0xff, 0xff, 0xff, 0xff]),
    ]
}
