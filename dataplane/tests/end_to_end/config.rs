//! Settings that change while the process serves.

use std::process::Command;

use devkms::FaultMode;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{Bench, Settings, eventually};

/// Replaces `from` in the file of settings.
fn edit(bench: &Bench, from: &str, to: &str) {
    let path = bench.path("dataplane.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    let fresh = bench.path("dataplane.yaml.new");
    std::fs::write(&fresh, text.replace(from, to)).unwrap();
    std::fs::rename(fresh, path).unwrap();
}

/// The member's view of its settings, once `wanted` is true of it.
async fn config_when(bench: &Bench, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(what, async || {
        let config = bench.status().await["config"].clone();
        wanted(&config).then_some(config)
    })
    .await
}

#[tokio::test]
async fn settings_are_taken_over_while_serving_and_a_broken_file_changes_nothing() {
    let bench = Bench::start().await;
    let created = bench.create(&json!({})).await;
    let settings = "unlock: {recoveryMs: 200}";

    edit(&bench, settings, "unlock: {queueDepthMax: 7}\ncache: {signWaitMs: 2}\nworkerz: 1");
    let config = config_when(&bench, "refused", |config| config["errors"][0].is_string()).await;
    let error = config["errors"][0].as_str().unwrap();
    assert_eq!(error, "workerz: unknown key; did you mean `workers`?");
    assert_eq!(config["reloads"], 0);
    bench.assert_signs(&created).await;

    edit(&bench, "\nworkerz: 1", "\nkeyspaces: [default, payments, other]");
    // The file has the list of keyspaces twice now, which YAML refuses.
    let twice = |config: &Value| {
        config["errors"][0].as_str().is_some_and(|error| error.contains("keyspaces"))
    };
    config_when(&bench, "refused again", twice).await;
    edit(&bench, "\nkeyspaces: [default, payments, other]", "");
    edit(&bench, "keyspaces: [default, payments]", "keyspaces: [default, payments, other]");
    let config = config_when(&bench, "taken over", |config| config["reloads"] == 1).await;
    assert_eq!(config, json!({ "reloads": 1, "errors": [], "needsRestart": ["keyspaces"] }));
    let unlock = bench.admin("GET", "/debug/unlock").await.unwrap().json();
    assert_eq!(unlock["depthMax"], 7);
    eventually("the enclave has the setting", async || {
        (bench.status().await["cache"]["inForce"]["signWaitMs"] == 2).then_some(())
    })
    .await;
    bench.assert_signs(&created).await;
}

#[tokio::test]
async fn a_hang_up_reads_the_file_again_and_ends_nothing() {
    let bench = Bench::start().await;
    let applied = r#"config_reload_total{result="applied"}"#;
    assert!(bench.metric(applied).await < 1.0);
    let pid = Pid::from_raw(i32::try_from(bench.dataplane.id()).unwrap()).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
    eventually("read again", async || (bench.metric(applied).await >= 1.0).then_some(())).await;
    assert_eq!(bench.status().await["config"]["reloads"], 0, "nothing has changed");
    let created = bench.create(&json!({})).await;
    bench.assert_signs(&created).await;
}

#[tokio::test]
async fn a_storm_of_files_and_signals_ends_with_the_last_file_and_fails_no_request() {
    const STORM: u32 = 100;
    let bench = Bench::start().await;
    let created = bench.create(&json!({})).await;
    let pid = Pid::from_raw(i32::try_from(bench.dataplane.id()).unwrap()).unwrap();
    let mut last = "recoveryMs: 200".to_owned();
    for number in 1..=STORM {
        let next = format!("recoveryMs: {}", 200 + number);
        edit(&bench, &last, if number % 3 == 0 { "recoveryMs: [" } else { &next });
        kill_process(pid, Signal::HUP).unwrap();
        let body = json!({ "keyId": created["keyId"], "digest": "42".repeat(32) });
        assert_eq!(bench.post("/sign", &body).await.unwrap().status, 200);
        last = if number % 3 == 0 { "recoveryMs: [".to_owned() } else { next };
    }
    config_when(&bench, "the last file holds", |config| {
        config["errors"] == json!([]) && config["needsRestart"] == json!([])
    })
    .await;
    edit(&bench, &last, "recoveryMs: 200, queueDepthMax: 9");
    eventually("and any later one", async || {
        let unlock = bench.admin("GET", "/debug/unlock").await.unwrap().json();
        (unlock["depthMax"] == 9).then_some(())
    })
    .await;
}

#[tokio::test]
async fn unlocks_that_back_off_run_when_a_person_says_so() {
    // Left alone for five minutes after a failure.
    let extra = "unlock: {recoveryMs: 300000, attemptsMax: 1}";
    let settings = Settings { fault: FaultMode::Http500, extra, ..Settings::default() };
    let bench = Bench::with(settings).await;
    eventually("KMS is left alone", async || {
        let unlock = bench.admin("GET", "/debug/unlock").await.unwrap().json();
        (unlock["breaker"] == "Shut").then_some(())
    })
    .await;
    bench.kms.set_fault(FaultMode::Off).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sigil-dataplane"));
    let admin = format!("unix:{}", bench.path("admin.sock").display());
    command.args(["ctl", "retry-unlocks", "--admin", &admin]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let queue: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(queue["jobs"].is_array(), "{queue}");
    bench.every_keyspace_tested().await;
}
