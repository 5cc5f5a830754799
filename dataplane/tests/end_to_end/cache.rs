//! What an operator does with the enclave's key cache from outside.

use std::process::Command;

use devkms::FaultMode;
use serde_json::{Value, json};

use crate::support::{Bench, Settings, eventually};

struct Ctl {
    success: bool,
    out: String,
    err: String,
}

/// `ctl refresh`, as a person runs it.
async fn refresh(bench: &Bench, keyspace: &str, key_id: &str) -> Ctl {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sigil-dataplane"));
    command
        .args(["ctl", "refresh", keyspace, key_id, "--admin"])
        .arg(format!("unix:{}", bench.path("admin.sock").display()));
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ctl { success: output.status.success(), out: text(output.stdout), err: text(output.stderr) }
}

/// Refreshes; the answer must say how.
async fn refreshes(bench: &Bench, key_id: &str, was_cached: bool) {
    let done = refresh(bench, "default", key_id).await;
    assert!(done.success, "{}", done.err);
    let answer: Value = serde_json::from_str(&done.out).unwrap();
    let expected = json!({
        "keyId": key_id, "keyspace": "default", "refreshed": true, "wasCached": was_cached
    });
    assert_eq!(answer, expected);
}

/// Openings of keys that the enclave counted, each a success.
async fn openings(bench: &Bench) -> f64 {
    assert!(bench.metric(r#"rehydrate_fail_total{keyspace="default"}"#).await < 1.0);
    bench.metric(r#"rehydrate_total{keyspace="default"}"#).await
}

#[tokio::test]
async fn an_operator_has_a_key_opened_again_whether_the_enclave_holds_it_or_not() {
    let bench = Bench::start().await;
    let created = bench.create(&json!({})).await;
    let key_id = created["keyId"].as_str().unwrap();
    bench.assert_signs(&created).await;
    // Making and activating count as no opening again: what is counted is what was asked for.
    refreshes(&bench, key_id, true).await;
    refreshes(&bench, key_id, true).await;
    eventually("two rehydrations", async || (openings(&bench).await >= 2.0).then_some(())).await;
    assert!(openings(&bench).await < 3.0, "and no more than those");
    bench.assert_signs(&created).await;

    // Another boot holds no key: it comes from the store.
    let boot = bench.status().await["bootId"].clone();
    bench.launcher.kill_child();
    eventually("another boot, unlocked", async || {
        let status = bench.status().await;
        let unlocked = status["keyspaces"]["default"]["unlocked"] == true;
        (status["bootId"] != boot && unlocked).then_some(())
    })
    .await;
    refreshes(&bench, key_id, false).await;
    refreshes(&bench, key_id, true).await;
    bench.assert_signs(&created).await;
}

#[tokio::test]
async fn a_refresh_that_cannot_be_says_what_to_do() {
    let bench = Bench::start().await;
    let created = bench.create(&json!({})).await;
    let key_id = created["keyId"].as_str().unwrap();
    let unknown = "k1aaaaaaaaaaaaaaaaaaaaaaaaaa";
    for (keyspace, key_id, status, code, field, what) in [
        ("default", unknown, 404, "KEY_NOT_FOUND", "keyId", "GET /keys?keyspace=default"),
        ("payments", key_id, 404, "KEY_NOT_FOUND", "keyspace", "GET /keys/k1"),
        ("default", "k1", 400, "INVALID_ARGUMENT", "keyId", "26 characters"),
        ("Default", key_id, 400, "INVALID_ARGUMENT", "keyspace", "a-z"),
        ("", key_id, 400, "INVALID_ARGUMENT", "keyspace", "`default`"),
    ] {
        let refused = refresh(&bench, keyspace, key_id).await;
        assert!(!refused.success && refused.out.is_empty(), "{}", refused.out);
        let problem: Value = serde_json::from_str(&refused.err).unwrap();
        assert_eq!(
            (&problem["status"], &problem["code"], &problem["field"]),
            (&json!(status), &json!(code), &json!(field))
        );
        assert!(problem["detail"].as_str().unwrap().contains(what), "{problem}");
    }
    assert_eq!(bench.admin("GET", "/debug/refresh").await.unwrap().status, 405);

    // A boot whose DEK stays locked: what signing would be answered too.
    bench.kms.set_fault(FaultMode::Http500).unwrap();
    bench.launcher.kill_child();
    let problem = eventually("the locked answer", async || {
        let refused = refresh(&bench, "default", key_id).await;
        let problem: Value = serde_json::from_str(&refused.err).ok()?;
        (problem["code"] == "UNLOCK_REQUIRED").then_some(problem)
    })
    .await;
    assert_eq!(problem["status"], 503);
    assert!(problem["retryAfterMs"].is_number() && problem["unlockRequestId"].is_string());
}

#[tokio::test]
async fn a_key_whose_dek_is_locked_is_logged_by_name_and_not_with_each_request() {
    let bench = Bench::start().await;
    let created = bench.create(&json!({})).await;
    let key_id = created["keyId"].as_str().unwrap();
    let invalid = || {
        let log = std::fs::read_to_string(bench.path("dataplane.log")).unwrap();
        let lines = log.lines().filter(|line| line.contains("key cache invalid"));
        lines.map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    assert_eq!(invalid(), [] as [Value; 0], "locked keyspaces without a key are no such line");
    bench.kms.set_fault(FaultMode::Http500).unwrap();
    bench.launcher.kill_child();
    let body = json!({ "keyId": key_id, "digest": "42".repeat(32) });
    let started = std::time::Instant::now();
    let last = eventually("a line that tells how many were left out", async || {
        bench.post("/sign", &body).await.unwrap();
        invalid().pop().filter(|line| line["left_out"].as_u64().unwrap() > 0)
    })
    .await;
    let lines = invalid().len() as u64;
    assert!(lines <= started.elapsed().as_secs() + 1, "{lines} lines");
    assert_eq!((&last["level"], &last["reason"]), (&json!("WARN"), &json!("dek_locked")));
    assert_eq!((&last["keyspace"], &last["key_id"]), (&json!("default"), &json!(key_id)));
    assert!(last["unlock_request_id"].is_string());
}

/// What the status says of the cache, once it says something of a boot other than `before`.
async fn cache_of_boot_after(bench: &Bench, before: &Value) -> (Value, Value) {
    eventually("the cache's settings", async || {
        let status = bench.status().await;
        let known = status["bootId"] != *before && status["cache"].is_object();
        known.then(|| (status["bootId"].clone(), status["cache"].clone()))
    })
    .await
}

#[tokio::test]
async fn each_boot_gets_the_configured_cache_settings() {
    let bench = Bench::with(Settings {
        extra: "unlock: {recoveryMs: 200}\n\
                cache: {keyHardTtlMs: 60000, keyUses: 1, warmKeys: 512, signWaitMs: 2}",
        ..Settings::default()
    })
    .await;
    let mut boot = Value::Null;
    for nth in 1..=2 {
        let cache;
        (boot, cache) = cache_of_boot_after(&bench, &boot).await;
        assert_eq!(cache["refused"], Value::Null);
        for (name, value) in [
            ("keyHardTtlMs", 60_000),
            ("keyUses", 1),
            ("warmKeys", 512),
            ("signWaitMs", 2),
            // What gave way to those, and what is the enclave's own.
            ("keySoftTtlMs", 60_000),
            ("prefetchWindowMs", 30_000),
            ("lowWaterUses", 0),
            ("prefetchInFlight", 2_048),
        ] {
            assert_eq!(cache["inForce"][name], value, "boot {nth}: {name}");
        }
        // They are the enclave's, not only the status's: one use an opening, so each further signature
        // opens the key again.
        let created = bench.create(&json!({})).await;
        for _ in 0..4 {
            bench.assert_signs(&created).await;
        }
        eventually("an opening a use", async || (openings(&bench).await >= 3.0).then_some(()))
            .await;
        bench.launcher.kill_child();
    }
}

#[tokio::test]
async fn cache_settings_above_the_pins_are_refused_by_name_and_signing_goes_on() {
    let bench = Bench::with(Settings {
        extra: "unlock: {recoveryMs: 200}\n\
                cache: {keySoftTtlMs: 950000, keyUses: 10}",
        ..Settings::default()
    })
    .await;
    let (_, cache) = cache_of_boot_after(&bench, &Value::Null).await;
    let refused = &cache["refused"];
    assert_eq!(
        (&refused["field"], &refused["asked"]),
        (&json!("cache.keySoftTtlMs"), &json!(950_000))
    );
    assert!(refused["bound"].as_str().unwrap().contains("ceilings.keySoftSeconds"), "{refused}");
    // All or none.
    let in_force = &cache["inForce"];
    assert_eq!(
        (&in_force["keySoftTtlMs"], &in_force["keyUses"]),
        (&json!(900_000), &json!(1_000_000))
    );
    let log = std::fs::read_to_string(bench.path("dataplane.log")).unwrap();
    let line = log.lines().find(|line| line.contains("cache settings refused")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["level"], &line["field"]), (&json!("ERROR"), &refused["field"]));
    assert_eq!((&line["asked"], &line["bound"]), (&refused["asked"], &refused["bound"]));
    let created = bench.create(&json!({})).await;
    bench.assert_signs(&created).await;
}

#[tokio::test]
async fn without_cache_settings_the_enclaves_baseline_holds() {
    let bench = Bench::start().await;
    let (_, cache) = cache_of_boot_after(&bench, &Value::Null).await;
    assert_eq!(cache["refused"], Value::Null);
    assert_eq!(cache["inForce"]["keyHardTtlMs"], 960_000);
    assert_eq!(cache["inForce"].as_object().unwrap().len(), 14);
}
