//! Who may do what, over certificates and tokens, on every verb of both faces; and the audit of it.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::stream;
use http::Request;
use serde_json::{Value, json};
use sigil_dataplane::v1;
use tonic::metadata::MetadataValue;

use crate::support::{Answer, Bench, Settings, TlsBench, eventually};

/// The cluster of the unit tests.
#[path = "../../src/auth/tests/cluster.rs"]
#[allow(dead_code, reason = "unit tests need more of it")]
mod cluster;

use cluster::{AUDIENCE, Cluster, ISSUER};

const MAKER: &str = "spiffe://example.org/ns/payments/sa/maker";
const SIGNER: &str = "spiffe://example.org/ns/payments/sa/signer";
const RULES: &str = "[
    {subjects: ['uri:spiffe://example.org/ns/payments/sa/maker'], keyspaces: ['*'],
     verbs: [create, sign, list, read]},
    {subjects: ['uri:spiffe://example.org/ns/payments/sa/signer'], keyspaces: [payments],
     verbs: [sign]}]";

fn sign(key_id: &str) -> Value {
    json!({ "keyId": key_id, "digest": "ab".repeat(32) })
}

fn request(key_id: &str) -> v1::SignRequest {
    let digest = Bytes::from_static(&[0xab; 32]);
    v1::SignRequest { key_id: key_id.to_owned(), digest, ..v1::SignRequest::default() }
}

fn code(result: Option<v1::SignResult>) -> String {
    match result.and_then(|result| result.result).unwrap() {
        v1::sign_result::Result::Signed(_) => "OK".to_owned(),
        v1::sign_result::Result::Error(error) => error.code,
    }
}

#[tokio::test]
async fn a_certificates_holder_does_what_the_rules_say_and_nothing_else_on_both_faces() {
    let tls = TlsBench::with_rules("required", RULES).await;
    let (maker, signer) = (tls.clients.client(MAKER), tls.clients.client(SIGNER));
    let make = async |keyspace: &str| {
        eventually("create", async || {
            let mut caller = tls.caller(Some(&maker), "http/1.1").await.unwrap();
            let body = json!({ "keyspace": keyspace, "idempotencyKey": "k" });
            let answer = caller.ask("/create", Some(&body)).await.unwrap();
            (answer.status == 200).then(|| answer.text("keyId"))
        })
        .await
    };
    let (allowed, forbidden) = (make("payments").await, make("default").await);

    let mut caller = tls.caller(Some(&signer), "h2").await.unwrap();
    assert_eq!(caller.ask("/sign", Some(&sign(&allowed))).await.unwrap().status, 200);
    let batch = json!({ "requests": [sign(&allowed), sign(&forbidden)] });
    let answer = caller.ask("/sign/batch", Some(&batch)).await.unwrap().json();
    assert!(answer["results"][0]["signed"].is_object(), "{answer}");
    assert_eq!(answer["results"][1]["error"]["code"], "PERMISSION_DENIED");
    for (path, body) in [
        ("/sign".to_owned(), Some(sign(&forbidden))),
        ("/create".to_owned(), Some(json!({ "keyspace": "payments" }))),
        ("/keys?keyspace=payments".to_owned(), None),
        (format!("/keys/{allowed}"), None),
        (format!("/keys/{allowed}/attestation"), None),
        (format!("/keys/{allowed}/attestation?nonce=00"), None),
    ] {
        let answer = caller.ask(&path, body.as_ref()).await.unwrap();
        assert_eq!(
            (answer.status.as_u16(), answer.text("code").as_str()),
            (403, "PERMISSION_DENIED"),
            "{path}"
        );
    }
    assert_eq!(caller.ask("/openapi.json", None).await.unwrap().status, 200);

    let mut grpc = tls.grpc(Some(&signer)).await;
    grpc.sign(request(&allowed)).await.unwrap();
    let key = v1::GetKeyRequest { key_id: allowed.clone(), ..v1::GetKeyRequest::default() };
    let refused = [
        grpc.sign(request(&forbidden)).await.map(drop).unwrap_err(),
        grpc.create(v1::CreateRequest::default()).await.map(drop).unwrap_err(),
        grpc.get_key(key).await.map(drop).unwrap_err(),
        grpc.list_keys(v1::ListKeysRequest::default()).await.map(drop).unwrap_err(),
    ];
    for status in refused {
        assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status:?}");
    }
    let requests = vec![request(&allowed), request(&forbidden)];
    let answer = grpc.sign_batch(v1::SignBatchRequest { requests: requests.clone() }).await;
    let codes: Vec<_> =
        answer.unwrap().into_inner().results.into_iter().map(|it| code(Some(it))).collect();
    assert_eq!(codes, ["OK", "PERMISSION_DENIED"]);
    let tagged = (0..)
        .zip(requests)
        .map(|(tag, request)| v1::SignStreamRequest { tag, request: Some(request) });
    let asked = stream::iter(tagged.collect::<Vec<_>>());
    let mut answers = grpc.sign_stream(asked).await.unwrap().into_inner();
    let mut codes = [String::new(), String::new()];
    while let Some(answer) = answers.message().await.unwrap() {
        codes[usize::try_from(answer.tag).unwrap()] = code(answer.result);
    }
    assert_eq!(codes, ["OK", "PERMISSION_DENIED"]);
}

struct Tokens {
    bench: Bench,
    cluster: Cluster,
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl Tokens {
    async fn start(rules: &str) -> Self {
        let cluster = Cluster::new();
        let mut bench = Bench::without_dataplane(&Settings::default());
        let path = |name: &str| bench.path(name).display().to_string();
        let (keys, audit) = (path("jwks.json"), path("audit.log"));
        std::fs::write(&keys, cluster.jwks()).unwrap();
        bench
            .start_dataplane(&[
                ("SIGIL_AUTH_TOKENS_ENABLED", "true"),
                ("SIGIL_AUTH_TOKENS_ISSUER", ISSUER),
                ("SIGIL_AUTH_TOKENS_AUDIENCE", AUDIENCE),
                ("SIGIL_AUTH_TOKENS_KEYS_FILE", &keys),
                ("SIGIL_AUDIT_OUTPUT", &audit),
                ("SIGIL_ACCESS", rules),
            ])
            .await;
        Self { bench, cluster }
    }

    async fn ask(&self, token: Option<&str>, path: &str, body: &Value) -> Answer {
        let mut request = Request::post(path).header("host", "sigil");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = Bytes::from(body.to_string());
        self.bench.http(request.body(body).unwrap()).await.unwrap()
    }

    /// Again and again while the answer asks to retry.
    async fn until_answered(&self, token: &str, path: &str, body: &Value) -> Answer {
        eventually("an answer", async || {
            let answer = self.ask(Some(token), path, body).await;
            answer.json()["retryAfterMs"].is_null().then_some(answer)
        })
        .await
    }
}

#[tokio::test]
async fn service_accounts_are_known_by_their_tokens_and_the_audit_says_what_they_did() {
    let rules = "[{subjects: ['serviceAccount:shop/web'], keyspaces: ['*'], \
                 verbs: [create, sign, list, read]}]";
    let tokens = Tokens::start(rules).await;
    let web = tokens.cluster.good("web", now_s());
    let made = tokens.until_answered(&web, "/create", &json!({ "idempotencyKey": "k" })).await;
    assert_eq!(made.status, 200, "{}", made.json());
    let key_id = made.text("keyId");
    let signed = tokens.until_answered(&web, "/sign", &sign(&key_id)).await;
    assert_eq!(signed.status, 200, "{}", signed.json());

    let other = tokens.cluster.good("batch", now_s());
    let denied = tokens.ask(Some(&other), "/sign", &sign(&key_id)).await;
    assert_eq!((denied.status.as_u16(), denied.text("code").as_str()), (403, "PERMISSION_DENIED"));
    let expired = tokens.cluster.good("web", now_s() - 7_200);
    let foreign = Cluster::new().good("web", now_s());
    for bad in [None, Some(expired.as_str()), Some(&foreign), Some("nonsense"), Some("")] {
        let answer = tokens.ask(bad, "/sign", &sign(&key_id)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.text("code").as_str()),
            (401, "UNAUTHENTICATED")
        );
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
    }
    let mut grpc = tokens.bench.grpc().await;
    let status = grpc.sign(request(&key_id)).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unauthenticated);
    let mut known = tonic::Request::new(request(&key_id));
    let value: MetadataValue<_> = format!("Bearer {web}").parse().unwrap();
    known.metadata_mut().insert("authorization", value);
    grpc.sign(known).await.unwrap();

    let path = tokens.bench.path("audit.log");
    let lines = eventually("the audit", async || {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let lines: Vec<_> = lines.collect();
        let signed = |line: &&Value| line["verb"] == "sign" && line["outcome"] == "OK";
        (lines.iter().filter(signed).count() == 2).then_some(lines)
    })
    .await;
    let found = |verb: &str, caller: &str, outcome: &str| {
        lines.iter().any(|line| {
            line["verb"] == verb
                && line["caller"] == caller
                && line["outcome"] == outcome
                && line["keyID"] == key_id.as_str()
                && line["keyspace"] == "default"
        })
    };
    assert!(found("create", "serviceAccount:shop/web", "OK"), "{lines:?}");
    assert!(found("sign", "serviceAccount:shop/web", "OK"));
    assert!(found("sign", "serviceAccount:shop/batch", "PERMISSION_DENIED"));
    let unlock = lines.iter().find(|line| line["event"] == "unlock_audit").unwrap();
    assert!(unlock["keyID"].as_str().unwrap().starts_with("arn:"), "{unlock}");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains(&"ab".repeat(32)), "a digest is not in the audit");
    assert!(!text.contains(&web), "a token is not in the audit");
}

#[tokio::test]
async fn an_idempotency_key_is_its_callers_own() {
    let rules = "[{subjects: ['*'], keyspaces: ['*'], verbs: [create]}]";
    let tokens = Tokens::start(rules).await;
    let body = json!({ "idempotencyKey": "order-17" });
    let make = async |account: &str| {
        let token = tokens.cluster.good(account, now_s());
        tokens.until_answered(&token, "/create", &body).await.text("keyId")
    };
    let (web, other) = (make("web").await, make("batch").await);
    assert_ne!(web, other);
    assert_eq!(make("web").await, web);
}
