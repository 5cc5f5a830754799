use std::convert::Infallible;

use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use prost::Message;

use super::super::tests::{Bench, LATE};
use super::*;

#[test]
fn a_status_carries_code_field_and_hints() {
    let error = Error {
        field: Some("keyId".into()),
        retry_after_ms: Some(70),
        unlock_request_id: Some("u-1".to_owned()),
        ..Error::new(Code::UnlockRequired, "locked")
    };
    let status = refuse(&error, "r-1");
    assert_eq!((status.code(), status.message()), (tonic::Code::Unavailable, "locked"));
    for (name, value) in [
        ("sigil-code", "UNLOCK_REQUIRED"),
        ("sigil-field", "keyId"),
        ("retry_after_ms", "70"),
        ("grpc-retry-pushback-ms", "70"),
        ("x-unlock-request-id", "u-1"),
        ("x-request-id", "r-1"),
    ] {
        assert_eq!(status.metadata().get(name).unwrap(), value);
    }
}

#[test]
fn deadlines_follow_the_grpc_specification() {
    for (text, expected) in [
        ("1S", Duration::from_secs(1)),
        ("20m", Duration::from_millis(20)),
        ("99999999H", Duration::from_hours(99_999_999)),
        ("3M", Duration::from_mins(3)),
        ("5u", Duration::from_micros(5)),
        ("7n", Duration::from_nanos(7)),
        ("0S", Duration::ZERO),
    ] {
        assert_eq!(timeout(text.as_bytes()).unwrap(), expected, "{text}");
    }
    for text in ["123456789m", "m", "", "5x", "-5m", "+5m", " 5m", "5", "5 m", "é"] {
        let error = timeout(text.as_bytes()).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("grpc-timeout"), "{text}");
    }
}

#[test]
fn only_grpc_with_protobuf_is_grpc() {
    for (kind, expected) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("application/grpc; charset=utf-8", true),
        ("application/grpc-web", false),
        ("application/grpc-web+proto", false),
        ("application/grpc+json", false),
        ("application/json", false),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, kind.parse().unwrap());
        assert_eq!(speaks(&headers), expected, "{kind}");
    }
    assert!(!speaks(&HeaderMap::new()));
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&[0][..], &length.to_be_bytes(), message].concat()
}

#[tokio::test]
async fn what_tonic_refuses_itself_has_the_contracts_words_and_an_id() {
    let bench = Bench::new().await;
    let mut sender = bench.sender::<Full<Bytes>>().await;
    let get = v1::GetKeyRequest { key_id: "k1".to_owned(), ..Default::default() };
    let good = framed(&get.encode_to_vec());
    let long = vec![0; bench.ingress.live.load().limits.body_bytes_max + 1];
    let ours = "/signer.v1.SignerService/GetKey";
    let cases = [
        ("/signer.v1.SignerService/Nothing", good.clone(), None, "12", "method"),
        ("/another.Service/Sign", good.clone(), None, "12", "method"),
        (ours, framed(&long), None, "3", "body"),
        (ours, vec![], None, "3", "body"),
        (ours, good[..good.len() - 1].to_vec(), None, "3", "body"),
        (ours, vec![2, 0, 0, 0, 0], None, "3", "body"),
        (ours, framed(&[0xff]), None, "3", "body"),
        (ours, good.clone(), Some(("grpc-encoding", "gzip")), "12", "grpc-encoding"),
        (ours, good.clone(), Some(("grpc-timeout", "soon")), "3", "grpc-timeout"),
        (ours, good, None, "3", "keyId"),
    ];
    for (at, (path, body, header, status, field)) in cases.into_iter().enumerate() {
        for id in [Some(format!("mine-{at}")), None] {
            let mut request = http::Request::post(format!("http://localhost{path}"))
                .header("content-type", "application/grpc");
            if let Some((name, value)) = header {
                request = request.header(name, value);
            }
            if let Some(id) = &id {
                request = request.header("x-request-id", id);
            }
            let request = request.body(Full::from(body.clone())).unwrap();
            let (head, body) = sender.send_request(request).await.unwrap().into_parts();
            drop(body.collect().await.unwrap());
            let header = |name: &str| head.headers.get(name).map(|it| it.to_str().unwrap());
            assert_eq!(header("grpc-status"), Some(status), "{at}: {:?}", head.headers);
            assert_eq!(header("sigil-code"), Some("INVALID_ARGUMENT"), "{at}");
            assert_eq!(header("sigil-field"), Some(field), "{at}");
            let seen = header("x-request-id").unwrap();
            assert!(id.map_or(seen.len() == 16, |id| id == seen), "{at}: {seen}");
        }
    }
    assert!(bench.metric(r#"http_grpc_requests_total{method="other",code="4xx"} 2"#));
    assert!(bench.metric(r#"http_grpc_requests_total{method="get_key",code="4xx"} 16"#));
    let check = http::Request::post("http://localhost/grpc.health.v1.Health/Check")
        .header("content-type", "application/grpc")
        .header("x-request-id", "mine-h")
        .body(Full::from(framed(&[])));
    let answer = sender.send_request(check.unwrap()).await.unwrap();
    assert_eq!(answer.headers()["x-request-id"], "mine-h");
}

#[tokio::test(start_paused = true)]
async fn a_callers_deadline_holds_while_its_message_is_awaited_on_both_faces() {
    let bench = Bench::new().await;
    let mut sender = bench.sender().await;
    let limit = bench.ingress.live.load().limits.request_timeout();
    let long = Duration::from_hours(1).min(LATE);
    for (header, value, takes) in [
        ("grpc-timeout", "1500m".to_owned(), Duration::from_millis(1_500)),
        ("grpc-timeout", "1H".to_owned(), limit),
        ("x-request-timeout-ms", "250".to_owned(), Duration::from_millis(250)),
        ("x-request-timeout-ms", long.as_millis().to_string(), limit),
    ] {
        let grpc = header == "grpc-timeout";
        let path = if grpc { "/signer.v1.SignerService/Sign" } else { "/sign" };
        let kind = if grpc { "application/grpc" } else { "application/json" };
        let never = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let request = http::Request::post(format!("http://localhost{path}"))
            .header("content-type", kind)
            .header(header, &value)
            .body(never)
            .unwrap();
        let started = Instant::now();
        let answer = tokio::time::timeout(LATE, sender.send_request(request)).await;
        let answer = answer.expect("answered").unwrap();
        let late = started.elapsed().saturating_sub(takes);
        assert!(
            started.elapsed() >= takes && late < Duration::from_millis(10),
            "{value}: {late:?}"
        );
        let (name, expected) =
            if grpc { ("grpc-status", "4") } else { ("content-type", "application/problem+json") };
        assert_eq!(answer.headers()[name], expected, "{value}");
        assert_eq!(answer.status(), if grpc { 200 } else { 504 });
    }
}
