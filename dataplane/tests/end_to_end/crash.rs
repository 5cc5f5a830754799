//! The dataplane is killed between each two steps, and at random. What was acknowledged signs after a
//! restart; anything else is whole or absent.

use std::time::Duration;

use serde_json::{Value, json};
use sigil_dataplane::failpoint::{CREATE_POINTS, UNLOCK_POINTS};
use sigil_dataplane::store::{EmbeddedStore, Records};

use crate::support::{Bench, Settings, eventually, number};

/// Every key that the store lists signs.
async fn assert_all_listed_sign(bench: &Bench) -> Vec<Value> {
    let keys = bench.listed().await;
    for key in &keys {
        bench.assert_signs(key).await;
    }
    keys
}

#[tokio::test]
async fn killed_between_each_two_steps_of_create() {
    let mut bench = Bench::without_dataplane(&Settings::default());
    bench.start_dataplane(&[]).await;
    let acknowledged = bench.create(&json!({ "idempotencyKey": "before" })).await;
    for point in CREATE_POINTS {
        bench.dataplane.kill();
        bench.start_dataplane(&[("SIGIL_FAILPOINT", point)]).await;
        let body = json!({ "idempotencyKey": point });
        eventually(&format!("{point}: killed"), async || {
            let answer = bench.post("/create", &body).await;
            assert!(!answer.is_ok_and(|answer| answer.status.is_success()), "{point}: answered");
            bench.dataplane.has_ended().then_some(())
        })
        .await;
        bench.restart_dataplane().await;
        let before = assert_all_listed_sign(&bench).await;
        assert!(before.iter().any(|key| key["keyId"] == acknowledged["keyId"]), "{point}");
        let again = bench.create(&body).await;
        bench.assert_signs(&again).await;
        let stored_before = before.iter().find(|key| key["keyId"] == again["keyId"]);
        if let Some(stored) = stored_before {
            assert_eq!(stored["publicKey"], again["publicKey"], "{point}: whole, so the same key");
        }
        let should_be_stored =
            !["create.accepted", "create.sealed", "create.document-stored"].contains(&point);
        assert_eq!(stored_before.is_some(), should_be_stored, "{point}");
    }
}

#[tokio::test]
async fn killed_between_each_two_steps_of_making_a_dek() {
    for point in UNLOCK_POINTS {
        let mut bench = Bench::without_dataplane(&Settings::default());
        bench.start_dataplane(&[("SIGIL_FAILPOINT", point)]).await;
        eventually(&format!("{point}: killed"), async || bench.dataplane.has_ended().then_some(()))
            .await;
        bench.start_dataplane(&[]).await;
        let created = bench.create(&json!({})).await;
        bench.assert_signs(&created).await;
        bench.restart_dataplane().await;
        bench.assert_signs(&created).await;
        let second = bench.create(&json!({})).await;
        bench.dataplane.kill();

        let store = EmbeddedStore::open(&bench.path("store"), |_| {}).unwrap();
        let records = Records::new(std::sync::Arc::new(store));
        let pcr0 = bench.measurements.pcr0;
        let current = records.current("default", &pcr0).await.unwrap().expect("one current");
        assert!(records.dek(current).await.unwrap().is_some(), "{point}: its row is there");
        for key in [&created, &second] {
            let id = sealed_under(&records, key).await;
            assert_eq!(id, current, "{point}: nothing is sealed under a loser");
        }
    }
}

async fn sealed_under(records: &Records, key: &Value) -> [u8; 16] {
    let (keys, _) = records.keys("default", None, 1_000).await.unwrap();
    let public_key = key["publicKey"].as_str().unwrap();
    let record = keys
        .iter()
        .find(|record| const_hex::encode(record.public_key().unwrap()) == public_key)
        .expect("the key is stored");
    record.dek_id
}

/// Creates one after the other until told to stop; gives what was acknowledged.
async fn create_until(bench: &Bench, stop: Duration) -> Vec<Value> {
    let mut acknowledged = Vec::new();
    let work = async {
        loop {
            match bench.post("/create", &json!({})).await {
                Ok(answer) if answer.status.is_success() => acknowledged.push(answer.json()),
                Ok(_) => tokio::task::yield_now().await,
                Err(_) => return,
            }
        }
    };
    let _ = tokio::time::timeout(stop, work).await;
    acknowledged
}

/// `SIGIL_TEST_KILLS=20 SIGIL_TEST_CREATES=1000` makes it as long as one likes.
#[tokio::test]
async fn killed_at_random_times_no_acknowledged_key_is_lost() {
    let (kills, creates) = (number("SIGIL_TEST_KILLS", 5), number("SIGIL_TEST_CREATES", 60));
    let mut bench = Bench::start().await;
    bench.create(&json!({})).await;
    let mut acknowledged = Vec::new();
    let mut killed = 0;
    while killed < kills || acknowledged.len() < creates {
        let mut bytes = [0; 2];
        aws_lc_rs::rand::fill(&mut bytes).unwrap();
        let alive = Duration::from_millis(150 + u64::from(u16::from_le_bytes(bytes)) % 1_500);
        acknowledged.extend(create_until(&bench, alive).await);
        bench.restart_dataplane().await;
        killed += 1;
    }
    for key in &acknowledged {
        bench.assert_signs(key).await;
    }
    let listed = assert_all_listed_sign(&bench).await;
    let ids: std::collections::HashSet<_> = listed.iter().map(|key| key["keyId"].clone()).collect();
    let lost = acknowledged.iter().filter(|key| !ids.contains(&key["keyId"])).count();
    println!(
        "acknowledged {}, killed {killed} times, found again {}, lost {lost}",
        acknowledged.len(),
        acknowledged.len() - lost
    );
    assert_eq!(lost, 0);
}
