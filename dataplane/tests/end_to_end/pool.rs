//! The connections to the enclave under every fault that a wire can have, and under orders.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{future, stream};
use serde_json::{Value, json};
use sigil_dataplane::v1;
use v1::sign_result::Result as Either;

use crate::support::{Bench, Cable, Settings, eventually, while_running};

/// A bench whose wire can be wrong, and a key that has signed.
async fn on_a_wire(pool: &'static str) -> (Bench, Cable, Value) {
    let settings = Settings { cable: true, pool, ..Settings::default() };
    let mut bench = Bench::without_dataplane(&settings);
    let (launcher, handoff) = (bench.path("handoff.sock"), bench.path("cable-handoff.sock"));
    let cable = Cable::start(&launcher, &handoff, &bench.path(""));
    bench.start_dataplane(&[]).await;
    let created = bench.create(&json!({})).await;
    bench.assert_signs(&created).await;
    (bench, cable, created)
}

fn body(created: &Value, number: u64) -> Value {
    let digest = const_hex::encode([number.to_be_bytes(); 4].concat());
    json!({ "keyId": created["keyId"], "digest": digest })
}

/// Events of the pool, as `/debug/status` shows them.
async fn events(bench: &Bench, kind: &str) -> Vec<Value> {
    let status = bench.status().await;
    let all = status["pool"][0]["events"].as_array().unwrap().clone();
    all.into_iter().filter(|event| event["event"] == kind).collect()
}

async fn active_is(bench: &Bench, count: f64) {
    eventually(&format!("{count} connections"), async || {
        ((bench.pool_metric("active_conns").await - count).abs() < 0.1).then_some(())
    })
    .await;
}

/// Signs one digest after the other until told to stop; answers by code.
async fn load(
    bench: &Bench,
    created: &Value,
    caller: u64,
    stop: &AtomicBool,
) -> BTreeMap<String, u64> {
    let mut answers = BTreeMap::new();
    let mut number = caller << 32;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let answer = bench.post("/sign", &body(created, number)).await.unwrap();
        let problem = answer.json();
        if answer.status != 200 {
            assert!(problem["retryAfterMs"].is_number(), "only retryable: {problem}");
        }
        let code = problem["code"].as_str().unwrap_or("OK").to_owned();
        *answers.entry(code).or_default() += 1;
    }
    answers
}

#[tokio::test]
async fn connections_are_open_before_the_first_request_and_say_so() {
    let settings = Settings { pool: "min: 3, max: 3", ..Settings::default() };
    let bench = Bench::with(settings).await;
    active_is(&bench, 3.0).await;
    let state = |state: &str| format!("conn_pool_state{{enclave_id=\"local\",state=\"{state}\"}}");
    assert!((bench.metric(&state("Healthy")).await - 3.0).abs() < 0.1);
    let opened = events(&bench, "opened").await;
    let places: BTreeSet<_> = opened.iter().map(|event| event["connection"].as_u64()).collect();
    assert_eq!(places, [Some(0), Some(1), Some(2)].into());
    assert!(opened.iter().all(|event| event["atMs"].is_u64() && event["reason"].is_string()));
    for line in bench.logged("connection opened") {
        assert_eq!((&line["enclave_id"], line["connection"].is_u64()), (&json!("local"), true));
    }
    let breaker = r#"circuit_breaker_state{upstream="enclave",enclave_id="local"}"#;
    assert!(bench.metric(breaker).await.abs() < 0.1);
}

#[tokio::test]
async fn a_lost_connection_is_tried_by_the_schedule_and_recovers() {
    let (bench, cable, created) = on_a_wire("min: 1, max: 1, probe: false").await;
    cable.refuse(true);
    cable.cut();
    eventually("attempts", async || {
        (bench.logged("no connection to the enclave").len() > 8).then_some(())
    })
    .await;
    let answer = bench.post("/sign", &body(&created, 1)).await.unwrap();
    assert_eq!(answer.text("code"), "ENCLAVE_UNAVAILABLE");
    cable.refuse(false);
    bench.assert_signs(&created).await;
    // The waits that were chosen, not the time that it took: that is also the machine's. The control
    // plane's own connection has its own schedule, so they are told apart by their order.
    let waits = |message: &str| -> Vec<u64> {
        let lines = bench.logged(message);
        lines.iter().map(|line| line["again_in_ms"].as_u64().unwrap()).collect()
    };
    let first = waits("sign stream ended");
    assert!(first.iter().all(|wait| (20..=30).contains(wait)), "{first:?}");
    let later = waits("no connection to the enclave");
    let within = |low, high| later.iter().filter(|wait| (low..=high).contains(*wait)).count();
    assert!(within(40, 60) >= 2 && within(80, 120) >= 2, "{later:?}");
    assert!(within(160, 200) >= 2, "{later:?}");
    assert_eq!(within(40, 60) + within(80, 120) + within(160, 200), later.len(), "{later:?}");
    eventually("the event", async || {
        let recovered = events(&bench, "recovered").await;
        (!recovered.is_empty()).then_some(())
    })
    .await;
    assert!(!events(&bench, "exhausted").await.is_empty());
    assert!(bench.pool_metric("pool_exhausted_total").await >= 1.0);
    assert!(bench.pool_metric("grpc_stream_resets_total").await >= 1.0);
}

#[tokio::test]
async fn half_open_connections_are_taken_out_by_their_probes_and_come_back() {
    let (bench, cable, created) =
        on_a_wire("min: 2, max: 2, probePeriodMs: 200, cooldownMs: 200").await;
    active_is(&bench, 2.0).await;
    cable.freeze();
    eventually("both are taken out", async || {
        let places: BTreeSet<_> = events(&bench, "takenOut")
            .await
            .iter()
            .map(|event| event["connection"].as_u64().unwrap())
            .collect();
        (places.len() == 2).then_some(())
    })
    .await;
    eventually("both are back", async || {
        (events(&bench, "recovered").await.len() >= 2).then_some(())
    })
    .await;
    bench.assert_signs(&created).await;
    let out = &bench.logged("connection taken out")[0];
    assert_eq!(out["reason"], "it does not answer its probes");
    assert_eq!(bench.status().await["running"], true, "the boot was never given up");
}

#[tokio::test]
async fn one_connection_that_stands_still_holds_up_nobody_else() {
    // No probe takes it out here: new requests go round it all the same.
    let (bench, cable, created) = on_a_wire("min: 4, max: 4, probe: false").await;
    active_is(&bench, 4.0).await;
    cable.freeze();
    // What is in flight on a frozen one stays; then further connections are opened, which work.
    let request = body(&created, 1);
    let stuck = bench.post("/sign", &request);
    let rest = async {
        let resized = bench.admin("POST", "/debug/pool/resize?min=8&max=8").await.unwrap();
        assert_eq!(resized.status, 200);
        active_is(&bench, 8.0).await;
        let mut number = 1_000;
        eventually("requests go round the ones that stand still", async || {
            number += 1;
            let request = body(&created, number);
            let one = bench.post("/sign", &request);
            let answer = tokio::time::timeout(Duration::from_secs(1), one).await.ok()?.unwrap();
            (answer.status == 200).then_some(())
        })
        .await;
        cable.cut();
    };
    let (stuck, ()) = future::join(stuck, rest).await;
    let stuck = stuck.unwrap();
    assert!(stuck.status == 200 || stuck.text("code") == "ENCLAVE_UNAVAILABLE", "{}", stuck.json());
}

#[tokio::test]
async fn a_connection_cut_in_the_middle_of_batches_answers_every_request_once() {
    const REQUESTS: u64 = 6_000;
    let (bench, cable, created) = on_a_wire("min: 2, max: 2").await;
    let key_id = created["keyId"].as_str().unwrap().to_owned();
    let mut grpc = bench.grpc().await;
    // Each digest twice: what was sent again gives the same signature.
    let requests = stream::iter((0..REQUESTS).map(move |tag| v1::SignStreamRequest {
        tag,
        request: Some(v1::SignRequest {
            key_id: key_id.clone(),
            digest: Bytes::from([(tag / 2).to_be_bytes(); 4].concat()),
            ..v1::SignRequest::default()
        }),
    }));
    let mut answers = grpc.sign_stream(requests).await.unwrap().into_inner();
    let mut seen: BTreeMap<u64, Option<Bytes>> = BTreeMap::new();
    while let Some(answer) = answers.message().await.unwrap() {
        let result = match answer.result.unwrap().result.unwrap() {
            Either::Signed(signed) => Some(signed.signature),
            Either::Error(error) => {
                assert!(error.retry_after_ms > 0, "only retryable: {error:?}");
                None
            }
        };
        assert!(seen.insert(answer.tag, result).is_none(), "{} was answered twice", answer.tag);
        if seen.len() % 1_500 == 700 {
            cable.cut();
        }
    }
    assert_eq!(seen.len() as u64, REQUESTS, "none is left without an answer");
    for tag in (0..REQUESTS).step_by(2) {
        if let (Some(one), Some(other)) = (&seen[&tag], &seen[&(tag + 1)]) {
            assert_eq!(one, other, "one request has one signature");
        }
    }
    assert!(bench.pool_metric("grpc_stream_resets_total").await >= 1.0);
    let debug = bench.status().await;
    assert_eq!(debug["pool"][0]["suspects"]["refused"], 0, "a cut accuses nobody");
}

#[tokio::test]
async fn a_slow_enclave_fills_the_queue_and_what_does_not_fit_is_refused_and_counted() {
    // 32 messages of one digest under way, 1,024 waiting.
    const FITS: usize = 32 + 1_024;
    let (bench, cable, created) = on_a_wire("min: 1, max: 1, maxBatch: 1, probe: false").await;
    let key_id = created["keyId"].as_str().unwrap().to_owned();
    let before = bench.pool_metric("pool_exhausted_total").await;
    cable.slow_down(Duration::from_millis(20));
    let batch = async |number: u64| {
        let requests = (0..256).map(|item| v1::SignRequest {
            key_id: key_id.clone(),
            digest: Bytes::from([(number << 16 | item).to_be_bytes(); 4].concat()),
            ..v1::SignRequest::default()
        });
        let mut grpc = bench.grpc().await;
        let request = v1::SignBatchRequest { requests: requests.collect() };
        grpc.sign_batch(request).await.unwrap().into_inner().results
    };
    let results = future::join_all((0..8).map(batch)).await.concat();
    let mut refused = 0;
    for result in &results {
        if let Some(Either::Error(error)) = &result.result {
            assert_eq!(error.code, "OVERLOADED", "{error:?}");
            assert!(error.retry_after_ms > 0);
            refused += 1;
        }
    }
    let signed = results.len() - refused;
    assert!(refused > 0 && signed >= FITS / 2, "{signed} signed, {refused} refused");
    let counted = bench.pool_metric("pool_exhausted_total").await - before;
    assert_eq!(counted.to_string(), refused.to_string());
    cable.slow_down(Duration::ZERO);
    bench.assert_signs(&created).await;
}

#[tokio::test]
async fn an_enclave_killed_under_load_gives_only_retryable_errors_and_loses_no_key() {
    const CALLERS: u64 = 12;
    let (bench, _cable, created) = on_a_wire("min: 2, max: 4").await;
    let others: Vec<_> =
        future::join_all((0..4).map(async |_| bench.create(&json!({})).await)).await;
    let stop = AtomicBool::new(false);
    let callers = (0..CALLERS).map(|caller| load(&bench, &created, caller, &stop));
    let kill = async {
        for _ in 0..2 {
            let boot = bench.status().await["bootId"].clone();
            bench.launcher.kill_child();
            eventually("the next boot signs", async || {
                let now = bench.status().await["bootId"].clone();
                let answer = bench.post("/sign", &body(&created, 1)).await.unwrap();
                (now.is_string() && now != boot && answer.status == 200).then_some(())
            })
            .await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let (answers, ()) = future::join(future::join_all(callers), kill).await;
    let mut sum: BTreeMap<String, u64> = BTreeMap::new();
    for (code, count) in answers.into_iter().flatten() {
        *sum.entry(code).or_default() += count;
    }
    println!("answers while the enclave was killed twice: {sum:?}");
    assert!(sum["OK"] > 0);
    let known = ["ENCLAVE_UNAVAILABLE", "OK", "OVERLOADED", "RETRY_LATER", "UNLOCK_REQUIRED"];
    assert!(sum.keys().all(|code| known.contains(&code.as_str())), "{sum:?}");
    for created in others.iter().chain([&created]) {
        bench.assert_signs(created).await;
    }
}

#[tokio::test]
async fn the_pool_is_resized_and_drained_while_requests_go_on() {
    let (bench, _cable, created) = on_a_wire("min: 2, max: 2").await;
    let stop = AtomicBool::new(false);
    let order = async |order: &str| {
        let answer = bench.admin("POST", &format!("/debug/pool/{order}")).await.unwrap();
        assert_eq!(answer.status, 200, "{order}");
    };
    let resize = async {
        for count in [6, 1, 3] {
            order(&format!("resize?min={count}&max={count}")).await;
            active_is(&bench, f64::from(count)).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let callers = (0..4).map(|caller| load(&bench, &created, caller, &stop));
    let (answers, ()) = future::join(future::join_all(callers), resize).await;
    for answers in answers {
        assert_eq!(answers.keys().collect::<Vec<_>>(), ["OK"], "nobody notices: {answers:?}");
    }
    assert!(bench.pool_metric("grpc_stream_resets_total").await < 0.1, "none was cut");
    assert!(!events(&bench, "draining").await.is_empty());

    order("drain").await;
    active_is(&bench, 0.0).await;
    let answer = bench.post("/sign", &body(&created, 7)).await.unwrap();
    assert_eq!(answer.text("code"), "ENCLAVE_UNAVAILABLE");
    assert_eq!(bench.status().await["pool"][0]["draining"], true);
    order("resume").await;
    active_is(&bench, 3.0).await;
    bench.assert_signs(&created).await;
}

#[tokio::test]
async fn a_request_that_ends_enclaves_is_tried_alone_once_and_then_refused() {
    let (bench, cable, created) = on_a_wire("min: 2, max: 2").await;
    let killer = body(&created, 0x6b69_6c6c);
    let digest = const_hex::decode(killer["digest"].as_str().unwrap()).unwrap();
    let launcher = bench.launcher.id();
    cable.set_trap(&digest, move || crate::support::kill_child_of(launcher));
    let first = bench.post("/sign", &killer).await.unwrap();
    assert!(first.json()["retryAfterMs"].is_number(), "the first time may be chance");
    let answer = eventually("it is refused", async || {
        let answer = bench.post("/sign", &killer).await.unwrap();
        (answer.text("code") == "INTERNAL").then_some(answer)
    })
    .await;
    assert_eq!(answer.status, 500);
    assert!(answer.json()["retryAfterMs"].is_null(), "it is not to come again");
    assert_eq!(cable.sprung(), 2, "sent to one enclave and to one other");
    bench.assert_signs(&created).await;
    let again = bench.post("/sign", &killer).await.unwrap();
    assert_eq!((again.text("code"), cable.sprung()), ("INTERNAL".to_owned(), 2));
    // On the other way to the enclave too.
    let batch = json!({ "requests": [killer, body(&created, 5)] });
    let results = bench.post("/sign/batch", &batch).await.unwrap().json()["results"].clone();
    assert_eq!(results[0]["error"]["code"], "INTERNAL", "{results}");
    assert!(results[1]["signed"]["signature"].is_string(), "{results}");
    assert_eq!(bench.status().await["pool"][0]["suspects"]["refused"], 1);
}

/// The short load of `make conn-pool-test`: it prints what is measured and holds what is counted.
#[tokio::test]
async fn under_load_nothing_is_reset_exhausted_or_sent_one_by_one() {
    const CALLERS: u64 = 62;
    const REQUESTS: u64 = 40;
    let settings = Settings { pool: "min: 16, max: 32", ..Settings::default() };
    let bench = Bench::with(settings).await;
    let created = bench.create(&json!({})).await;
    bench.assert_signs(&created).await;
    active_is(&bench, 16.0).await;
    let crossings = bench.pool_metric("boundary_crossings_total").await;
    // Requests came before there was an enclave.
    let exhausted = bench.pool_metric("pool_exhausted_total").await;
    let callers = (0..CALLERS).map(async |caller| {
        let mut grpc = bench.grpc().await;
        for number in 0..REQUESTS {
            let request = v1::SignRequest {
                key_id: created["keyId"].as_str().unwrap().to_owned(),
                digest: Bytes::from([(caller << 32 | number).to_be_bytes(); 4].concat()),
                ..v1::SignRequest::default()
            };
            let answer = grpc.sign(request).await.unwrap().into_inner();
            assert_eq!(answer.signature.len(), 64);
        }
    });
    while_running(future::join_all(callers), async || {
        let active = bench.pool_metric("active_conns").await;
        assert!((16.0..=32.0).contains(&active), "{active} connections");
    })
    .await;
    assert!(bench.pool_metric("grpc_stream_resets_total").await < 0.1);
    let more = bench.pool_metric("pool_exhausted_total").await - exhausted;
    assert!(more < 0.1, "{more} requests found no place");
    let messages = bench.pool_metric("boundary_crossings_total").await - crossings;
    let text = bench.admin("GET", "/metrics").await.unwrap().body;
    let text = String::from_utf8(text.to_vec()).unwrap();
    let acquire = text.lines().filter(|line| line.starts_with("pool_acquire_latency_ms"));
    println!("{} signatures in {messages} messages", CALLERS * REQUESTS);
    acquire.for_each(|line| println!("{line}"));
}
