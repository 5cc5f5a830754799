use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Full};
use tokio::time::{advance, timeout};

use super::super::idle::{IDLE_TIME_MAX, LOOK_INTERVAL};
use super::super::tests::{Bench, Channel, LATE, origin};
use super::super::{SIGN_STREAMS_MAX, SIGN_STREAMS_PER_CONNECTION_MAX};
use super::*;
use crate::v1::signer_service_client::SignerServiceClient;

const UNKNOWN: &str = "k1aaaaaaaaaaaaaaaaaaaaaaaaaa";

async fn client(bench: &Bench) -> SignerServiceClient<Channel> {
    SignerServiceClient::with_origin(bench.channel().await, origin())
}

fn ask(tag: u64) -> v1::SignStreamRequest {
    let request = v1::SignRequest {
        key_id: UNKNOWN.to_owned(),
        digest: bytes::Bytes::from_static(&[7; 32]),
        ..v1::SignRequest::default()
    };
    v1::SignStreamRequest { tag, request: Some(request) }
}

fn code(answer: v1::SignStreamResponse) -> String {
    match answer.result.unwrap().result.unwrap() {
        v1::sign_result::Result::Signed(signed) => panic!("signed without an enclave: {signed:?}"),
        v1::sign_result::Result::Error(error) => error.code,
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_is_no_longer_read_and_then_closed() {
    let bench = Bench::new().await;
    let mut client = client(&bench).await;
    let (sent, asked) = (Arc::new(std::sync::atomic::AtomicU64::new(0)), 100_000);
    let count = Arc::clone(&sent);
    let requests = stream::iter(0..asked).map(move |tag| {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        ask(tag)
    });
    let mut answers = client.sign_stream(requests).await.unwrap().into_inner();
    let started = Instant::now();
    // Nothing is read for an hour; only timers move the clock.
    timeout(LATE, std::future::pending::<()>()).await.unwrap_err();
    let sent = sent.load(std::sync::atomic::Ordering::Relaxed);
    assert!(sent < asked / 10, "{sent} requests were taken in");
    assert!(started.elapsed() >= LATE);
    let mut read = 0;
    let end = loop {
        match timeout(LATE, answers.message()).await.expect("in time") {
            Ok(Some(_)) => read += 1,
            other => break other,
        }
    };
    assert!(end.is_err(), "cut, not ended: {end:?}");
    assert!(read < sent, "{read} of {sent}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_its_grpc_timeout_and_answers_before() {
    let bench = Bench::new().await;
    let mut client = client(&bench).await;
    let mut request = tonic::Request::new(stream::iter([ask(1)]).chain(stream::pending()));
    request.metadata_mut().insert("grpc-timeout", "20S".parse().unwrap());
    request.metadata_mut().insert("x-request-id", "mine-2".parse().unwrap());
    let started = Instant::now();
    let response = client.sign_stream(request).await.unwrap();
    assert_eq!(response.metadata().get("x-request-id").unwrap(), "mine-2");
    let mut answers = response.into_inner();
    assert_eq!(code(answers.message().await.unwrap().unwrap()), "KEY_NOT_FOUND");
    let status = timeout(LATE, answers.message()).await.expect("ended").unwrap_err();
    assert_eq!(started.elapsed().as_secs(), 20);
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    assert_eq!(status.metadata().get("sigil-code").unwrap(), "DEADLINE_EXCEEDED");
    assert_eq!(status.metadata().get("x-request-id").unwrap(), "mine-2");
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_is_told_to_come_again() {
    let bench = Bench::new().await;
    let mut client = client(&bench).await;
    let requests = stream::iter([ask(1)]).chain(stream::pending());
    let mut answers = client.sign_stream(requests).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    let started = Instant::now();
    let status = timeout(LATE, answers.message()).await.expect("ended").unwrap_err();
    assert!(started.elapsed() <= IDLE_TIME_MAX + LOOK_INTERVAL * 2, "{:?}", started.elapsed());
    assert_eq!(status.metadata().get("sigil-code").unwrap(), "RETRY_LATER");
}

#[tokio::test(start_paused = true)]
async fn a_busy_stream_outlives_the_idle_time() {
    let bench = Bench::new().await;
    let mut client = client(&bench).await;
    let (send, requests) = tokio::sync::mpsc::channel(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut answers = client.sign_stream(requests).await.unwrap().into_inner();
    for tag in 0..20 {
        send.send(ask(tag)).await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap().tag, tag);
        advance(IDLE_TIME_MAX / 2).await;
    }
    drop(send);
    assert!(answers.message().await.unwrap().is_none(), "the caller's end is the stream's");
}

#[tokio::test]
async fn what_is_no_message_ends_the_stream_after_the_answers_before_it() {
    use prost::Message;
    let bench = Bench::new().await;
    let mut sender = bench.sender::<Full<bytes::Bytes>>().await;
    let message = ask(1).encode_to_vec();
    let mut body = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
    body.extend(&message);
    // A message whose first field has a wire type that does not exist.
    body.extend([0, 0, 0, 0, 1, 0xff]);
    let request = http::Request::post("http://localhost/signer.v1.SignerService/SignStream")
        .header("content-type", "application/grpc")
        .body(Full::new(body.into()));
    let (_, body) = sender.send_request(request.unwrap()).await.unwrap().into_parts();
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().unwrap().clone();
    let answer = v1::SignStreamResponse::decode(&collected.to_bytes()[5..]).unwrap();
    assert_eq!((answer.tag, code(answer).as_str()), (1, "KEY_NOT_FOUND"));
    assert_eq!(trailers["grpc-status"], "3");
    assert_eq!(trailers["sigil-field"], "request");
    assert!(trailers.contains_key("x-request-id"));
}

#[tokio::test]
async fn a_stream_over_the_bound_is_refused_until_another_ends() {
    let bench = Bench::new().await;
    let mut client = client(&bench).await;
    let (end, requests) = tokio::sync::mpsc::channel(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut first = client.sign_stream(requests).await.unwrap().into_inner();
    let mut open = Vec::new();
    let mut other = self::client(&bench).await;
    for number in 1..SIGN_STREAMS_MAX {
        if number.is_multiple_of(SIGN_STREAMS_PER_CONNECTION_MAX as usize) {
            other = self::client(&bench).await;
        }
        open.push(other.sign_stream(stream::pending()).await.unwrap());
    }
    let status = client.sign_stream(stream::iter([ask(1)])).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert_eq!(status.metadata().get("sigil-code").unwrap(), "OVERLOADED");
    drop(end);
    assert!(first.message().await.unwrap().is_none());
    // The place is free once the server has let go of it.
    let mut answers = loop {
        match client.sign_stream(stream::iter([ask(1)])).await {
            Ok(response) => break response.into_inner(),
            Err(status) => assert_eq!(status.code(), tonic::Code::ResourceExhausted),
        }
    };
    assert_eq!(answers.message().await.unwrap().unwrap().tag, 1);
    assert!(answers.message().await.unwrap().is_none());
}

/// More than its streams may have, a connection does not get; what they may have does not end it,
/// however little of it is read.
#[tokio::test(start_paused = true)]
async fn streams_of_one_connection_are_bounded_and_full_windows_do_not_end_it() {
    const REQUESTS: u64 = 5_000;
    let bench = Bench::new().await;
    let mut client = client(&bench).await;
    let mut streams = Vec::new();
    for _ in 0..SIGN_STREAMS_PER_CONNECTION_MAX {
        let requests = stream::iter((0..REQUESTS).map(ask));
        streams.push(client.sign_stream(requests).await.unwrap().into_inner());
    }
    let status = client.sign_stream(stream::iter([ask(1)])).await.unwrap_err();
    assert_eq!(status.metadata().get("sigil-code").unwrap(), "OVERLOADED");
    // Nothing is read until every window is full; then all of it.
    timeout(LOOK_INTERVAL / 2, std::future::pending::<()>()).await.unwrap_err();
    for mut answers in streams {
        let mut tags = std::collections::BTreeSet::new();
        while let Some(answer) = answers.message().await.unwrap() {
            assert!(tags.insert(answer.tag));
        }
        assert_eq!(tags.len() as u64, REQUESTS);
    }
    let mut again = client.sign_stream(stream::iter([ask(1)])).await.unwrap().into_inner();
    assert_eq!(again.message().await.unwrap().unwrap().tag, 1, "the connection lives");
}
