//! Requests above the admission limit, on both faces.

use std::collections::BTreeMap;

use tonic::codec::Streaming;

use super::*;
use crate::config::{Admission, AdmissionMode};
use crate::store::{Page, Put, Row, StoreError, Swap, Table};
use crate::v1;
use crate::v1::signer_service_client::SignerServiceClient;

const UNKNOWN: &str = "k1aaaaaaaaaaaaaaaaaaaaaaaaaa";

/// Knows no key and takes 10 ms to say so.
struct Slow;

impl Store for Slow {
    fn get(&self, _: Table, _: Bytes) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>> {
        Box::pin(async {
            sleep(Duration::from_millis(10)).await;
            Ok(None)
        })
    }

    fn put_if_absent(&self, _: Table, _: Row) -> BoxFuture<'_, Result<Put, StoreError>> {
        Box::pin(async { Err(StoreError::Denied("a test".to_owned())) })
    }

    fn compare_and_swap(
        &self,
        _: Table,
        _: Option<Bytes>,
        _: Row,
    ) -> BoxFuture<'_, Result<Swap, StoreError>> {
        Box::pin(async { Err(StoreError::Denied("a test".to_owned())) })
    }

    fn list(
        &self,
        _: Table,
        _: String,
        _: Option<Bytes>,
        _: usize,
    ) -> BoxFuture<'_, Result<Page, StoreError>> {
        Box::pin(async { Ok(Page::default()) })
    }

    fn scan(
        &self,
        _: Table,
        _: Option<Bytes>,
        _: usize,
    ) -> BoxFuture<'_, Result<Page, StoreError>> {
        Box::pin(async { Ok(Page::default()) })
    }
}

async fn bench(mode: AdmissionMode, wait_timeout_ms: u64) -> Bench {
    let admission = Admission { max_concurrent: 5, mode, wait_timeout_ms, ..Admission::default() };
    let config = Config { admission, ..Config::default() };
    Bench::over(|_| Arc::new(Slow), CONNECTIONS_MAX, &config).await
}

/// How many answers there were of each kind.
fn counted(codes: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for code in codes {
        *counts.entry(code).or_default() += 1;
    }
    counts
}

fn five_and_five() -> BTreeMap<String, usize> {
    counted(std::iter::repeat_n(["KEY_NOT_FOUND", "OVERLOADED"], 5).flatten().map(str::to_owned))
}

fn all_ten() -> BTreeMap<String, usize> {
    counted(std::iter::repeat_n("KEY_NOT_FOUND".to_owned(), 10))
}

/// Ten at once over one HTTP/2 connection.
async fn over_http(bench: &Bench) -> BTreeMap<String, usize> {
    let sender = bench.sender::<Full<Bytes>>().await;
    let body = format!(r#"{{"keyId":"{UNKNOWN}","digest":"{}"}}"#, "07".repeat(32));
    let answers = futures_util::future::join_all((0..10).map(|_| {
        let mut sender = sender.clone();
        let body = Full::new(body.clone().into());
        async move {
            let request = Request::post("http://localhost/sign").body(body).unwrap();
            let answer = sender.send_request(request).await.unwrap();
            if answer.status() == 429 {
                assert_eq!(answer.headers()["retry-after"], "1");
                assert!(answer.headers().contains_key("retry-after-ms"));
            }
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
            problem["code"].as_str().unwrap().to_owned()
        }
    }));
    counted(answers.await)
}

async fn over_grpc(bench: &Bench) -> BTreeMap<String, usize> {
    let client = SignerServiceClient::with_origin(bench.channel().await, origin());
    let answers = futures_util::future::join_all((0..10).map(|_| {
        let mut client = client.clone();
        async move {
            let status = client.sign(request()).await.unwrap_err();
            let code = status.metadata().get("sigil-code").unwrap().to_str().unwrap().to_owned();
            if code == "OVERLOADED" {
                assert_eq!(status.code(), tonic::Code::ResourceExhausted);
                assert!(status.metadata().contains_key("retry_after_ms"));
            }
            code
        }
    }));
    counted(answers.await)
}

async fn over_a_stream(bench: &Bench) -> BTreeMap<String, usize> {
    let mut client = SignerServiceClient::with_origin(bench.channel().await, origin());
    let ask = |tag| v1::SignStreamRequest { tag, request: Some(request()) };
    let requests = stream::iter((0..10).map(ask).collect::<Vec<_>>());
    let mut answers: Streaming<_> = client.sign_stream(requests).await.unwrap().into_inner();
    let mut codes = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        match answer.result.unwrap().result.unwrap() {
            v1::sign_result::Result::Error(error) => codes.push(error.code),
            v1::sign_result::Result::Signed(signed) => panic!("no enclave: {signed:?}"),
        }
    }
    counted(codes)
}

fn request() -> v1::SignRequest {
    let digest = Bytes::from_static(&[7; 32]);
    v1::SignRequest { key_id: UNKNOWN.to_owned(), digest, ..v1::SignRequest::default() }
}

#[tokio::test(start_paused = true)]
async fn with_five_places_ten_at_once_are_five_answers_and_five_refusals() {
    let bench = bench(AdmissionMode::Try, 100).await;
    assert!(bench.metric(r#"limiter_free_slots{upstream="ingress"} 5"#));
    assert_eq!(over_http(&bench).await, five_and_five());
    assert_eq!(over_grpc(&bench).await, five_and_five());
    assert_eq!(over_a_stream(&bench).await, five_and_five());
    assert!(bench.metric(r#"limiter_free_slots{upstream="ingress"} 5"#), "all given back");
    assert!(bench.metric("responses_429_total 15"));
}

#[tokio::test(start_paused = true)]
async fn with_a_queue_ten_at_once_are_ten_answers() {
    for (mode, wait_ms) in
        [(AdmissionMode::WaitWithTimeout, 1_000), (AdmissionMode::WaitCancellable, 1)]
    {
        let bench = bench(mode, wait_ms).await;
        assert_eq!(over_http(&bench).await, all_ten());
        assert_eq!(over_grpc(&bench).await, all_ten());
        assert_eq!(over_a_stream(&bench).await, all_ten());
    }
    // The places come free after 10 ms.
    let impatient = bench(AdmissionMode::WaitWithTimeout, 4).await;
    assert_eq!(over_http(&impatient).await, five_and_five());
    // Of a stream one waits at a time, and the third gets a place.
    assert_eq!(over_a_stream(&impatient).await["OVERLOADED"], 2);
}

#[tokio::test(start_paused = true)]
async fn a_callers_deadline_holds_while_it_waits() {
    let bench = bench(AdmissionMode::WaitCancellable, 1).await;
    let admission = &bench.ingress.app.guards.admission;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(admission.enter().await.unwrap());
    }
    let mut client = SignerServiceClient::with_origin(bench.channel().await, origin());
    let mut unary = tonic::Request::new(request());
    unary.metadata_mut().insert("grpc-timeout", "50m".parse().unwrap());
    let started = Instant::now();
    let status = client.sign(unary).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    assert_eq!(started.elapsed().as_millis(), 50);
    assert_eq!(admission.waiting(), 0, "its turn was given up");
    let started = Instant::now();
    let codes = over_a_stream(&bench).await;
    assert_eq!(codes.keys().collect::<Vec<_>>(), ["DEADLINE_EXCEEDED"]);
    assert!(started.elapsed() >= bench.ingress.live.load().limits.request_timeout());
    drop(held);
    assert_eq!(over_grpc(&bench).await, all_ten());
}
