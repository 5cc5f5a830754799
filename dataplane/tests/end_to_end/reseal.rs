//! Keys under an older DEK move to the newest one of their image, behind callers' backs.

use serde_json::{Value, json};
use sigil_dataplane::failpoint::RESEAL_POINTS;

use crate::support::{Bench, Database, Settings, eventually};

const EXTRA: &str = "unlock: {recoveryMs: 200}\nreseal: {perSecondMax: 200}";
const KEYS: u32 = 12;

fn settings_of(database: &Database) -> Settings {
    Settings { store: Some(database.settings()), extra: EXTRA, ..Settings::default() }
}

async fn bench_on(database: &Database) -> Bench {
    let mut bench = Bench::without_dataplane(&settings_of(database));
    database.migrate(&bench.path("dataplane.yaml"));
    bench.start_dataplane(&[]).await;
    bench
}

async fn some_keys(bench: &Bench) -> Vec<Value> {
    let mut keys = Vec::new();
    for _ in 0..KEYS {
        keys.push(bench.create(&json!({})).await);
    }
    keys
}

/// What an operator does for a new DEK: the next boot that finds none in force makes one.
async fn rotate(database: &Database, benches: &[&Bench]) {
    no_newest(database);
    for bench in benches {
        let before = bench.status().await["bootId"].clone();
        bench.launcher.kill_child();
        eventually("another boot", async || {
            (bench.status().await["bootId"] != before).then_some(())
        })
        .await;
    }
}

fn no_newest(database: &Database) {
    database.server.sql("DELETE FROM sigil.current WHERE keyspace = 'default'").unwrap();
}

/// Keys whose record names another DEK than the newest; all, as long as there is no newest one.
fn left(database: &Database) -> u32 {
    let sql = "SELECT count(*) FROM sigil.key WHERE position(coalesce((SELECT substring(value FROM 6) \
               FROM sigil.current WHERE keyspace = 'default'), '\\x00'::bytea) IN value) = 0 OR NOT \
               EXISTS (SELECT 1 FROM sigil.current WHERE keyspace = 'default')";
    database.server.sql(sql).unwrap().parse().unwrap()
}

async fn all_moved(database: &Database) {
    eventually("every key is under the newest DEK", async || (left(database) == 0).then_some(()))
        .await;
}

async fn reseal_of(bench: &Bench) -> Value {
    bench.status().await["keyspaces"]["default"]["reseal"].clone()
}

async fn births(bench: &Bench, keys: &[Value]) -> Vec<Value> {
    let mut births = Vec::new();
    for key in keys {
        let id = key["keyId"].as_str().unwrap();
        births.push(bench.get(&format!("/keys/{id}/attestation")).await.json());
    }
    births
}

#[tokio::test]
async fn two_dataplanes_move_each_key_once_and_the_old_dek_is_needed_no_more() {
    let database = Database::start();
    let one = bench_on(&database).await;
    let mut other = Bench::beside(&one, &settings_of(&database));
    other.start_dataplane(&[]).await;
    let keys = some_keys(&one).await;
    let before = births(&one, &keys).await;
    assert_eq!(left(&database), 0);
    rotate(&database, &[&one, &other]).await;
    all_moved(&database).await;
    assert_eq!(database.server.sql("SELECT count(*) FROM sigil.key").unwrap(), KEYS.to_string());
    for bench in [&one, &other] {
        let reseal = eventually("nothing left", async || {
            let reseal = reseal_of(bench).await;
            (reseal["deksLeft"] == 0).then_some(reseal)
        })
        .await;
        assert_eq!((&reseal["left"], &reseal["stopped"]), (&json!(0), &Value::Null));
    }
    let mut moved = 0.0;
    for bench in [&one, &other] {
        moved += bench.metric(r#"reseal_total{keyspace="default"}"#).await;
    }
    assert!((1.0..=f64::from(KEYS)).contains(&moved), "{moved} of {KEYS}: none twice");

    // Nothing needs the DEK that they came from.
    let forget = "DELETE FROM sigil.dek WHERE keyspace = 'default' AND key NOT IN (SELECT \
                  substring(value FROM 6) FROM sigil.current WHERE keyspace = 'default')";
    database.server.sql(forget).unwrap();
    for bench in [&one, &other] {
        bench.launcher.kill_child();
    }
    for key in &keys {
        one.assert_signs(key).await;
        other.assert_signs(key).await;
    }
    assert_eq!(births(&one, &keys).await, before, "their births are what they were");
}

#[tokio::test]
async fn killed_between_each_two_steps_of_sealing_again() {
    let database = Database::start();
    let mut bench = bench_on(&database).await;
    let keys = some_keys(&bench).await;
    for point in RESEAL_POINTS {
        bench.dataplane.kill();
        no_newest(&database);
        bench.launcher.kill_child();
        bench.start_dataplane(&[("SIGIL_FAILPOINT", point)]).await;
        eventually(&format!("{point}: killed"), async || bench.dataplane.has_ended().then_some(()))
            .await;
        bench.start_dataplane(&[]).await;
        for key in &keys {
            bench.assert_signs(key).await;
        }
        all_moved(&database).await;
    }
    for key in &keys {
        bench.assert_signs(key).await;
    }
}

#[tokio::test]
async fn a_store_that_refuses_stops_it_and_it_goes_on_by_itself() {
    let database = Database::start();
    let bench = bench_on(&database).await;
    let keys = some_keys(&bench).await;
    database.server.sql("REVOKE UPDATE ON sigil.key FROM signer").unwrap();
    rotate(&database, &[&bench]).await;
    eventually("it says why", async || {
        reseal_of(&bench).await["stopped"].is_string().then_some(())
    })
    .await;
    assert!(bench.metric(r#"reseal_fail_total{keyspace="default"}"#).await >= 1.0);
    assert_eq!(left(&database), KEYS);
    for key in &keys {
        bench.assert_signs(key).await;
    }
    database.server.sql("GRANT UPDATE ON sigil.key TO signer").unwrap();
    all_moved(&database).await;
    for key in &keys {
        bench.assert_signs(key).await;
    }
}

#[tokio::test]
async fn keys_of_another_image_stay_where_they_are_and_sign() {
    let database = Database::start();
    let mut old = bench_on(&database).await;
    let keys = some_keys(&old).await;
    old.dataplane.kill();
    old.launcher.kill();
    let records = "SELECT md5(string_agg(value, '' ORDER BY key)) FROM sigil.key";
    let before = database.server.sql(records).unwrap();

    let settings = Settings { next_image: true, ..settings_of(&database) };
    let mut next = Bench::beside(&old, &settings);
    assert_ne!(next.measurements.pcr0, old.measurements.pcr0);
    next.start_dataplane(&[]).await;
    for key in &keys {
        next.assert_signs(key).await;
    }
    let reseal = eventually("the enclave refused", async || {
        let reseal = reseal_of(&next).await;
        (reseal["deksKept"] == 1).then_some(reseal)
    })
    .await;
    assert_eq!((&reseal["moved"], &reseal["left"]), (&json!(0), &json!(0)));
    eventually("that is all", async || (reseal_of(&next).await["deksLeft"] == 0).then_some(()))
        .await;
    assert_eq!(database.server.sql(records).unwrap(), before);
    assert!(next.metric(r#"reseal_fail_total{keyspace="default"}"#).await < 1.0);
    let new = next.create(&json!({})).await;
    next.assert_signs(&new).await;
}
