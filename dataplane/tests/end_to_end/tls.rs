//! The public listener with TLS and client certificates, exchanged while it serves.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value, json};
use sigil_dataplane::v1;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::support::{Caller, Identity, TlsBench, allow_many_files, eventually};

const URI: &str = "spiffe://example.org/ns/payments/sa/api";

/// A key that signs, made over TLS by a client with `identity`.
async fn key(tls: &TlsBench, identity: &Identity) -> String {
    eventually("create", async || {
        let mut caller = tls.caller(Some(identity), "http/1.1").await.unwrap();
        let answer = caller.ask("/create", Some(&json!({}))).await.unwrap();
        (answer.status == 200).then(|| answer.text("keyId"))
    })
    .await
}

fn sign(key_id: &str) -> Value {
    json!({ "keyId": key_id, "digest": "ab".repeat(32) })
}

#[tokio::test]
async fn every_face_works_inside_tls_and_strangers_do_not_come_in() {
    let tls = TlsBench::start("required").await;
    let known = tls.clients.client(URI);
    let key_id = key(&tls, &known).await;
    let mut signatures = Vec::new();
    for protocol in ["http/1.1", "h2"] {
        let mut caller = tls.caller(Some(&known), protocol).await.unwrap();
        let signed = caller.ask("/sign", Some(&sign(&key_id))).await.unwrap();
        assert_eq!(signed.status, 200, "{}", signed.json());
        signatures.push(signed.text("signature"));
    }
    let mut grpc = tls.grpc(Some(&known)).await;
    let request = v1::SignRequest {
        key_id: key_id.clone(),
        digest: vec![0xab; 32].into(),
        ..v1::SignRequest::default()
    };
    let signed = grpc.sign(request).await.unwrap().into_inner();
    signatures.push(const_hex::encode(&signed.signature));
    signatures.dedup();
    assert_eq!(signatures.len(), 1, "the same request, the same signature: {signatures:?}");

    for stranger in [None, Some(tls.servers.client(URI)), Some(tls.clients.expired_server())] {
        // With TLS 1.3 a client may learn with its first answer only that it was refused.
        let outcome = match tls.caller(stranger.as_ref(), "http/1.1").await {
            Ok(mut caller) => caller.ask("/keys", None).await.map(|answer| answer.status),
            Err(error) => Err(error),
        };
        assert!(outcome.is_err(), "{outcome:?}");
    }
    let refused = tls.bench.metric(r#"tls_handshake_fail_total{reason="failed"}"#).await;
    assert!(refused >= 3.0, "{refused}");
}

/// Half of the clients stay on one connection, the others make a new one for each request.
#[tokio::test]
async fn certificates_rotate_under_load_and_no_request_fails() {
    let tls = TlsBench::start("required").await;
    let known = tls.clients.client(URI);
    let key_id = key(&tls, &known).await;
    let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let load = async |number: usize| {
        let protocol = if number.is_multiple_of(2) { "h2" } else { "http/1.1" };
        let mut caller = tls.caller(Some(&known), protocol).await.unwrap();
        while !stop.load(Ordering::Relaxed) {
            let answer = caller.ask("/sign", Some(&sign(&key_id))).await.unwrap();
            assert_eq!(answer.status, 200, "{}", answer.json());
            answered.fetch_add(1, Ordering::Relaxed);
            if number >= 4 {
                caller = tls.caller(Some(&known), protocol).await.unwrap();
            }
        }
    };
    let rotate = async || {
        let client = tls.servers.connector(Some(&known), "h2");
        for _ in 0..3 {
            let next = tls.servers.server();
            tls.put(&next);
            tls.until_shown(&client, &next).await;
            let before = answered.load(Ordering::Relaxed);
            eventually("requests go on", async || {
                (answered.load(Ordering::Relaxed) > before + 20).then_some(())
            })
            .await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let callers = futures_util::future::join_all((0..8).map(&load));
    tokio::join!(callers, rotate());
}

#[tokio::test]
async fn an_expired_certificate_is_replaced_without_a_restart_and_a_broken_one_changes_nothing() {
    let tls = TlsBench::start("optional").await;
    let client = tls.servers.connector(None, "http/1.1");
    let mut kept = tls.caller(None, "http/1.1").await.unwrap();
    assert_eq!(kept.ask("/keys", None).await.unwrap().status, 200);
    tls.put(&tls.servers.expired_server());
    eventually("clients refuse the expired certificate", async || {
        tls.handshake(&client).await.is_err().then_some(())
    })
    .await;
    let good = tls.servers.server();
    tls.put(&good);
    tls.until_shown(&client, &good).await;
    assert_eq!(kept.ask("/keys", None).await.unwrap().status, 200, "open connections stay");

    std::fs::write(tls.path("tls.key"), "none").unwrap();
    let status = eventually("the broken key shows", async || {
        let status = tls.bench.status().await["tls"].clone();
        status["reloadError"].is_string().then_some(status)
    })
    .await;
    assert!(status["reloadError"].as_str().unwrap().contains("tls.key"), "{status}");
    assert!(tls.bench.metric(r#"tls_reload_total{result="failed"}"#).await >= 1.0);
    let (_, shown) = tls.handshake(&client).await.unwrap();
    assert_eq!(shown, good.der(), "the old one stays");
    let log = std::fs::read_to_string(tls.path("dataplane.log")).unwrap();
    assert!(log.contains("the old ones stay in use") && !log.contains("PRIVATE KEY"));
}

/// More half-open handshakes than there may be: who comes later is served all the same.
#[tokio::test]
async fn half_open_handshakes_keep_nobody_out() {
    let tls = TlsBench::start("optional").await;
    allow_many_files();
    let mut silent = Vec::new();
    for _ in 0..1_100 {
        silent.push(TcpStream::connect(tls.address).await.unwrap());
    }
    let mut caller = tls.caller(None, "h2").await.unwrap();
    assert_eq!(caller.ask("/keys", None).await.unwrap().status, 200);
    let mut rest = Vec::new();
    assert_eq!(silent[0].read_to_end(&mut rest).await.unwrap_or(0), 0, "the oldest was closed");
    assert!(tls.bench.metric("connections_refused_total").await < 1.0);
}

/// Row G8: they come one after the other, stay, and then all ask at once.
#[tokio::test]
async fn a_thousand_connections_at_once_are_served() {
    const CONNECTIONS: usize = 1_000;
    allow_many_files();
    let tls = TlsBench::start("optional").await;
    let known = tls.clients.client(URI);
    let body = sign(&key(&tls, &known).await);
    let ask = async |caller: &mut Caller| {
        eventually("a signature", async || {
            let answer = caller.ask("/sign", Some(&body)).await.unwrap();
            let again = answer.json()["retryAfterMs"].is_number();
            assert!(again || answer.status == 200, "{}", answer.json());
            (!again).then_some(())
        })
        .await;
    };
    let mut callers = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let mut caller = tls.caller(None, "http/1.1").await.unwrap();
        ask(&mut caller).await;
        callers.push(caller);
    }
    futures_util::future::join_all(callers.iter_mut().map(ask)).await;
    assert!(tls.bench.metric("connections_refused_total").await < 1.0);
}
