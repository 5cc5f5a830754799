//! KMS and enclave fail in every way that can be made; callers get honest answers, and nothing needs
//! a restart.

use devkms::{Counters, FaultMode};
use serde_json::json;

use crate::support::{Bench, Cutter, Settings, eventually, listen_as};

/// One attempt and a short wait, so that every fault has its round quickly. The time of an attempt is
/// that of production: a shorter one is too short on a busy machine, and every unlock with it.
const IMPATIENT: &str = "unlock: {recoveryMs: 100, attemptsMax: 1}";

#[tokio::test]
async fn a_locked_dek_is_answered_at_once_and_unlocks_behind_the_caller() {
    let settings = Settings { fault: FaultMode::Http500, ..Settings::default() };
    let bench = Bench::with(settings).await;
    let answer = eventually("the locked answer", async || {
        let answer = bench.post("/create", &json!({})).await.unwrap();
        (answer.text("code") == "UNLOCK_REQUIRED").then_some(answer)
    })
    .await;
    let problem = answer.json();
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "1"));
    let hint: u64 = answer.header("retry-after-ms").parse().unwrap();
    assert!((50..=200).contains(&hint), "{hint}");
    assert_eq!(problem["retryAfterMs"], hint);
    let unlock = answer.header("x-unlock-request-id").to_owned();
    assert_eq!(problem["unlockRequestId"], unlock.as_str());
    let debug = bench.admin("GET", "/debug/unlock").await.unwrap().json();
    let jobs = debug["jobs"].as_array().unwrap();
    assert!(jobs.iter().any(|job| job["unlockRequestId"] == unlock.as_str()), "{debug}");
    let log = std::fs::read_to_string(bench.path("dataplane.log")).unwrap();
    assert!(log.contains(&unlock), "the same id in the log");
    assert!(bench.metric(r#"unlock_required_total{keyspace="default"}"#).await >= 1.0);

    let mut grpc = bench.grpc().await;
    let status = grpc.create(sigil_dataplane::v1::CreateRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    for trailer in ["retry_after_ms", "grpc-retry-pushback-ms", "x-unlock-request-id"] {
        assert!(status.metadata().get(trailer).is_some(), "{trailer}");
    }
    eventually("a person is asked for", async || {
        (bench.status().await["keyspaces"]["default"]["needsPerson"] == true).then_some(())
    })
    .await;

    bench.kms.set_fault(FaultMode::Off).unwrap();
    let created = bench.create(&json!({})).await;
    bench.assert_signs(&created).await;
    eventually("all is well again", async || {
        let status = bench.status().await["keyspaces"]["default"].clone();
        (status["kmsError"].is_null() && status["needsPerson"] == false).then_some(())
    })
    .await;
}

#[tokio::test]
async fn no_lie_of_kms_gives_a_dek_and_recovery_needs_no_restart() {
    let faults = FaultMode::ALL.iter().map(|(mode, _)| *mode).filter(|mode| {
        // Slow is within the limits. A KMS that itself chooses the DEK it generates is beyond what
        // an enclave can see: KMS is trusted for that. For a row that exists see the next test.
        !matches!(
            mode,
            FaultMode::Off | FaultMode::Slow | FaultMode::KnownDek | FaultMode::ForgedEnvelope
        )
    });
    let first = FaultMode::Throttle;
    let bench =
        Bench::with(Settings { fault: first, extra: IMPATIENT, ..Settings::default() }).await;
    for fault in faults {
        bench.kms.set_fault(fault).unwrap();
        let failures = async || {
            let mut sum = 0.0;
            for reason in ["attestation", "denied", "throttled", "timeout", "kms_error", "enclave"]
            {
                let line = format!("unlock_fail_total{{keyspace=\"default\",reason=\"{reason}\"}}");
                sum += bench.metric(&line).await;
            }
            sum
        };
        let before = failures().await;
        // Two failures more: the first may belong to the fault before.
        eventually(&format!("{fault}: attempts fail"), async || {
            let answer = bench.post("/create", &json!({})).await.unwrap();
            assert_eq!(answer.status, 503, "{fault}: {}", answer.json());
            (failures().await >= before + 2.0).then_some(())
        })
        .await;
        let status = bench.status().await;
        assert_eq!(status["keyspaces"]["default"]["unlocked"], false, "{fault}");
        assert_eq!(bench.admin("GET", "/readyz").await.unwrap().status, 200, "{fault}");
    }
    bench.kms.set_fault(FaultMode::Off).unwrap();
    let created = bench.create(&json!({})).await;
    bench.assert_signs(&created).await;
}

#[tokio::test]
async fn a_forged_dek_for_a_row_that_exists_is_refused() {
    let mut bench = Bench::with(Settings { extra: IMPATIENT, ..Settings::default() }).await;
    let created = bench.create(&json!({})).await;
    bench.kms.set_fault(FaultMode::ForgedEnvelope).unwrap();
    bench.launcher.kill_child();
    let attestation = r#"unlock_fail_total{keyspace="default",reason="attestation"}"#;
    eventually("the forgery is refused", async || {
        (bench.metric(attestation).await >= 2.0).then_some(())
    })
    .await;
    let body = json!({ "keyId": created["keyId"], "digest": "11".repeat(32) });
    let answer = bench.post("/sign", &body).await.unwrap();
    assert_eq!(answer.text("code"), "UNLOCK_REQUIRED");
    bench.kms.set_fault(FaultMode::Off).unwrap();
    bench.assert_signs(&created).await;
    bench.restart_dataplane().await;
    bench.assert_signs(&created).await;
}

#[tokio::test]
async fn a_killed_enclave_is_a_503_with_a_hint_and_keys_come_back_from_the_store() {
    let bench = Bench::start().await;
    let created = bench.create(&json!({})).await;
    bench.assert_signs(&created).await;
    let boot = bench.status().await["bootId"].clone();
    // With KMS down the new boot stays locked, so that both answers can be seen.
    bench.kms.set_fault(FaultMode::Http500).unwrap();
    bench.launcher.kill_child();
    let body = json!({ "keyId": created["keyId"], "digest": "11".repeat(32) });
    let unavailable = eventually("ENCLAVE_UNAVAILABLE", async || {
        let answer = bench.post("/sign", &body).await.unwrap();
        (answer.text("code") == "ENCLAVE_UNAVAILABLE").then_some(answer)
    })
    .await;
    assert_eq!((unavailable.status.as_u16(), unavailable.header("retry-after")), (503, "1"));
    assert!(unavailable.json()["retryAfterMs"].is_number());
    let locked = eventually("UNLOCK_REQUIRED", async || {
        let answer = bench.post("/sign", &body).await.unwrap();
        (answer.text("code") == "UNLOCK_REQUIRED").then_some(answer)
    })
    .await;
    assert_eq!(locked.status, 503);
    bench.kms.set_fault(FaultMode::Off).unwrap();
    bench.assert_signs(&created).await;
    assert_ne!(bench.status().await["bootId"], boot);
}

#[tokio::test]
async fn an_image_that_is_not_on_the_list_is_never_routed_to() {
    let bench = Bench::with(Settings { other_image: true, ..Settings::default() }).await;
    let error = eventually("the reason", async || {
        bench.status().await["attestationError"].as_str().map(ToOwned::to_owned)
    })
    .await;
    assert!(error.starts_with("measurements"), "{error}");
    let answer = bench.post("/create", &json!({})).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.text("code").as_str()),
        (503, "ENCLAVE_UNAVAILABLE")
    );
    assert_eq!(bench.kms.counters().total(), 0, "KMS was never asked");
}

/// A count at KMS: as expected, or higher by attempts that were cut off.
fn assert_count(what: &str, found: u64, expected: u64, cut_off: u64) {
    let explained = expected..=expected + cut_off;
    assert!(explained.contains(&found), "{what}: {found}, not {expected}, {cut_off} were cut off");
}

#[tokio::test]
async fn a_hundred_callers_of_a_locked_keyspace_cause_one_unlock() {
    const CALLERS: usize = 100;
    let bench = Bench::with(Settings { fault: FaultMode::Http500, ..Settings::default() }).await;
    let body = json!({});
    let meets_the_lock = || {
        eventually("the locked answer", async || {
            let answer = bench.post("/create", &body).await.unwrap();
            (answer.text("code") == "UNLOCK_REQUIRED").then_some(())
        })
    };
    meets_the_lock().await;
    futures_util::future::join_all((0..CALLERS).map(|_| meets_the_lock())).await;
    bench.kms.set_fault(FaultMode::Off).unwrap();
    futures_util::future::join_all((0..CALLERS).map(|_| bench.create(&body))).await;
    bench.every_keyspace_tested().await;
    let (counters, cut_off) = (bench.kms.counters(), bench.unlocks_cut_off());
    // Two keyspaces: a DEK each, generated once, proved before its election and installed after it.
    for (action, expected) in [("GenerateDataKey", 2), ("Decrypt", 4)] {
        assert_count(action, counters.get(action, "ok"), expected, cut_off);
    }
}

/// The new boot asks for its keyspaces by itself while callers ask for a key of one of them.
#[tokio::test]
async fn a_restarted_enclave_costs_one_decrypt_for_each_dek_while_callers_ask() {
    const CALLERS: usize = 40;
    let bench = Bench::start().await;
    let created = bench.create(&json!({})).await;
    let key_id = created["keyId"].as_str().unwrap();
    let unlocked_again = async |boot: &serde_json::Value| {
        eventually("every keyspace is unlocked", async || {
            let status = bench.status().await;
            let unlocked = |name: &str| status["keyspaces"][name]["unlocked"] == true;
            let other = status["bootId"].is_string() && &status["bootId"] != boot;
            (other && unlocked("default") && unlocked("payments")).then(|| status["bootId"].clone())
        })
        .await
    };
    let mut boot = unlocked_again(&serde_json::Value::Null).await;
    let body = json!({ "keyId": key_id, "digest": "11".repeat(32) });
    // While KMS is down both kinds of jobs fail and wait, so that they come again together.
    for fault in [FaultMode::Off, FaultMode::Http500, FaultMode::Http500] {
        bench.kms.set_fault(fault).unwrap();
        let (before, cut_off_before) = (bench.kms.counters(), bench.unlocks_cut_off());
        bench.launcher.kill_child();
        if fault != FaultMode::Off {
            eventually("the key is locked and its unlock fails", async || {
                let answer = bench.post("/sign", &body).await.unwrap();
                let failed = bench.kms.counters().get("Decrypt", "KMSInternalException")
                    > before.get("Decrypt", "KMSInternalException") + 2;
                (failed && answer.text("code") == "UNLOCK_REQUIRED").then_some(())
            })
            .await;
            bench.kms.set_fault(FaultMode::Off).unwrap();
        }
        let signs = (0..CALLERS).map(|_| bench.sign(key_id, [0x11; 32]));
        let create = json!({});
        let creates = (0..CALLERS).map(|_| bench.create(&create));
        let signs = futures_util::future::join_all(signs);
        futures_util::future::join(signs, futures_util::future::join_all(creates)).await;
        boot = unlocked_again(&boot).await;
        let (counters, cut_off) = (bench.kms.counters(), bench.unlocks_cut_off() - cut_off_before);
        let unlocks = counters.get("Decrypt", "ok") - before.get("Decrypt", "ok");
        assert_count(&format!("{fault}: two keyspaces with a DEK each"), unlocks, 2, cut_off);
        let generated = |counters: &Counters| counters.get("GenerateDataKey", "ok");
        assert_eq!(generated(&counters), generated(&before), "{fault}");
    }
}

#[tokio::test]
async fn no_secret_reaches_the_log_even_at_debug() {
    let bench = Bench::start().await;
    let created = bench.create(&json!({})).await;
    bench.assert_signs(&created).await;
    let credentials = bench.kms.credentials();
    let log = std::fs::read_to_string(bench.path("dataplane.log")).unwrap();
    assert!(log.contains("unlock_audit") && log.contains("attestation_hash"));
    for secret in [&credentials.secret, &credentials.session_token] {
        assert!(!log.contains(secret.as_str()));
    }
    assert!(!log.contains("AWS4-HMAC-SHA256"), "no signature either");
}

#[tokio::test]
async fn a_cut_connection_is_tried_again_within_30_ms_and_requests_go_on() {
    let mut bench = Bench::without_dataplane(&Settings { cable: true, ..Settings::default() });
    let (launcher, handoff) = (bench.path("handoff.sock"), bench.path("cable-handoff.sock"));
    let cutter = Cutter::start(&launcher, &handoff, &bench.path("")).await;
    bench.start_dataplane(&[]).await;
    let created = bench.create(&json!({})).await;
    let body = json!({ "keyId": created["keyId"], "digest": "11".repeat(32) });
    for _ in 0..5 {
        cutter.cut();
        let answer = bench.post("/sign", &body).await.unwrap();
        let code = answer.text("code");
        assert!(answer.status == 200 || code == "ENCLAVE_UNAVAILABLE", "{code}");
        eventually("a connection", async || (cutter.accepted() > 0).then_some(())).await;
        bench.assert_signs(&created).await;
    }
    // The waits that were chosen, not the time that it took: that is also the machine's.
    let ended = bench.logged("sign stream ended");
    assert!(ended.len() >= 5, "{ended:?}");
    for line in &ended {
        assert!((20..=30).contains(&line["again_in_ms"].as_u64().unwrap()), "{line}");
    }
    assert!(bench.pool_metric("grpc_stream_resets_total").await >= 5.0);
    assert_eq!(bench.status().await["running"], true, "the boot was never given up");
}

/// Everything that it hands over is genuine; who hands it over is not.
#[tokio::test]
async fn a_hand_off_by_another_user_is_refused_and_the_launchers_own_is_taken() {
    const NOBODY: u32 = 65_534;
    let mut bench = Bench::without_dataplane(&Settings { cable: true, ..Settings::default() });
    let (launcher, handoff) = (bench.path("handoff.sock"), bench.path("cable-handoff.sock"));
    let foreign = listen_as(NOBODY, &handoff);
    let between = Cutter::start_on(foreign, &launcher, &bench.path("")).await;
    bench.start_dataplane(&[]).await;
    eventually("the refusal", async || {
        let log = std::fs::read_to_string(bench.path("dataplane.log")).unwrap();
        log.contains("the launcher's socket belongs to uid 65534, not ").then_some(())
    })
    .await;
    let answer = bench.post("/create", &json!({})).await.unwrap();
    assert_eq!(answer.text("code"), "ENCLAVE_UNAVAILABLE");
    assert_eq!(bench.status().await["running"], false);
    assert_eq!(between.accepted(), 0, "its enclave was never called");

    drop(between);
    std::fs::remove_file(&handoff).unwrap();
    let _own = Cutter::start(&launcher, &handoff, &bench.path("")).await;
    let created = bench.create(&json!({})).await;
    bench.assert_signs(&created).await;
}
