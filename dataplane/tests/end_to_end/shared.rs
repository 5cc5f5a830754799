//! Two dataplanes, each with an enclave of its own, on one PostgreSQL database: same pins, same KMS. And
//! what callers see while the database is away.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::{Bench, Callers, Database, Seen, Settings, eventually, number};

/// With a database of its own.
async fn bench_on(database: &Database) -> Bench {
    let settings = settings_of(database);
    let mut bench = Bench::without_dataplane(&settings);
    database.migrate(&bench.path("dataplane.yaml"));
    bench.start_dataplane(&[]).await;
    bench
}

fn settings_of(database: &Database) -> Settings {
    Settings { store: Some(database.settings()), ..Settings::default() }
}

/// Two that have never seen a key, started together.
async fn pair_on(database: &Database) -> [Bench; 2] {
    let settings = settings_of(database);
    let mut one = Bench::without_dataplane(&settings);
    let mut other = Bench::beside(&one, &settings);
    database.migrate(&one.path("dataplane.yaml"));
    futures_util::future::join(one.start_dataplane(&[]), other.start_dataplane(&[])).await;
    [one, other]
}

#[tokio::test]
async fn a_key_made_on_one_dataplane_signs_on_the_other() {
    let database = Database::start();
    let [one, other] = pair_on(&database).await;
    let keys = [one.create(&json!({})).await, other.create(&json!({})).await];
    for key in &keys {
        one.assert_signs(key).await;
        other.assert_signs(key).await;
    }
    let ids = |listed: Vec<Value>| -> BTreeSet<String> {
        listed.iter().map(|key| key["keyId"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(one.listed().await), ids(other.listed().await));
    let id = keys[0]["keyId"].as_str().unwrap();
    assert_eq!(other.get(&format!("/keys/{id}")).await.json()["publicKey"], keys[0]["publicKey"]);

    one.every_keyspace_tested().await;
    other.every_keyspace_tested().await;
    // Two keyspaces, one image: both dataplanes raced to make a DEK for each.
    assert_eq!(database.server.sql("SELECT count(*) FROM sigil.current").unwrap(), "2");
    let sealed_under = "SELECT count(*) FROM sigil.key WHERE position((SELECT substring(value FROM 6) \
                        FROM sigil.current WHERE keyspace = 'default') IN value) = 0";
    assert_eq!(database.server.sql(sealed_under).unwrap(), "0", "nothing is under a loser");
    let status = one.status().await;
    assert_eq!(status["store"]["engine"], "postgres");
    assert_eq!(status["store"]["durability"]["synchronousCommit"], "on");
    assert_eq!(status["storeDurable"], true);
}

#[tokio::test]
async fn of_creates_with_one_idempotency_key_on_two_dataplanes_one_wins() {
    let database = Database::start();
    let [one, other] = pair_on(&database).await;
    for round in 0..3 {
        let body = json!({ "idempotencyKey": format!("order {round}") });
        let creates = (0..16).map(|n| if n % 2 == 0 { &one } else { &other }.create(&body));
        let answers = futures_util::future::join_all(creates).await;
        for answer in &answers {
            assert_eq!(answer["keyId"], answers[0]["keyId"]);
            assert_eq!(answer["publicKey"], answers[0]["publicKey"], "one key, whoever asked");
        }
        one.assert_signs(&answers[0]).await;
        other.assert_signs(&answers[0]).await;
    }
    assert_eq!(database.server.sql("SELECT count(*) FROM sigil.key").unwrap(), "3");
}

/// What must hold of every fault: the key that is known signs on, creates are refused with a hint or work,
/// the member stays ready.
fn assert_honest(fault: &str, seen: &Seen) {
    println!("{fault}:");
    for ((operation, answer), count) in seen {
        println!("  {operation} {answer}: {count}");
        let honest = answer == "200" || (*operation == "create" && answer == "RETRY_LATER");
        assert!(honest, "{fault}: {operation} was answered {answer}");
    }
}

async fn is_ready(bench: &Bench) -> bool {
    bench.admin("GET", "/readyz").await.unwrap().status == 200
}

#[tokio::test]
async fn while_the_database_is_away_known_keys_sign_and_creates_are_told_to_retry() {
    let mut database = Database::start();
    let bench = Arc::new(bench_on(&database).await);
    let known = bench.create(&json!({})).await;
    bench.assert_signs(&known).await;
    let callers = Callers::start(&bench, &known);
    callers.until("create", "200", 3).await;
    let read_only = |database: &Database, value| {
        let sql = format!("ALTER SYSTEM SET default_transaction_read_only = {value}");
        database.server.sql(&sql).unwrap();
        database.server.sql("SELECT pg_reload_conf()").unwrap();
    };
    let revoke = "REVOKE INSERT ON sigil.key FROM signer";
    let grant = "GRANT INSERT ON sigil.key TO signer";
    for fault in ["killed", "paused", "read-only", "permission denied"] {
        assert_honest("before", &callers.seen());
        match fault {
            "killed" => database.server.kill().unwrap(),
            "paused" => database.server.pause().unwrap(),
            "read-only" => read_only(&database, "on"),
            _ => drop(database.server.sql(revoke).unwrap()),
        }
        callers.until("create", "RETRY_LATER", 3).await;
        callers.until("sign", "200", 20).await;
        assert!(is_ready(&bench).await, "{fault}: all members share the outage");
        if fault == "killed" {
            let shown = async || (bench.metric("store_durable").await < 1.0).then_some(());
            eventually("the gauge shows it", shown).await;
            assert!(bench.metric("store_acquire_fail_total").await >= 1.0);
        }
        match fault {
            "killed" => database.server.launch().unwrap(),
            "paused" => database.server.resume().unwrap(),
            "read-only" => read_only(&database, "off"),
            _ => drop(database.server.sql(grant).unwrap()),
        }
        callers.until("create", "200", 3).await;
        assert_honest(fault, &callers.seen());
    }
    eventually("durable again", async || (bench.metric("store_durable").await > 0.0).then_some(()))
        .await;
    let idle = bench.metric(r#"store_connections{state="idle"}"#).await;
    let in_use = bench.metric(r#"store_connections{state="in_use"}"#).await;
    assert!(idle + in_use >= 1.0, "{idle} idle, {in_use} in use");
    let acknowledged = callers.stop().await;
    for key in acknowledged.iter().take(50) {
        bench.assert_signs(key).await;
    }
    let listed = bench.listed().await.len();
    assert!(listed >= acknowledged.len(), "{listed} of {}", acknowledged.len());
}

#[tokio::test]
async fn a_failover_to_the_synchronous_standby_loses_no_acknowledged_key() {
    let mut database = Database::start();
    // The tables first: the standby is a copy.
    let first = Bench::without_dataplane(&settings_of(&database));
    database.migrate(&first.path("dataplane.yaml"));
    let standby = database.synchronous_standby();
    let mut bench = Bench::beside(&first, &settings_of(&database));
    bench.start_dataplane(&[]).await;
    let bench = Arc::new(bench);
    let known = bench.create(&json!({})).await;
    bench.assert_signs(&known).await;
    let callers = Callers::start(&bench, &known);
    callers.until("create", "200", 20).await;
    database.server.kill().unwrap();
    callers.until("create", "RETRY_LATER", 3).await;
    standby.promote().unwrap();
    callers.until("create", "200", 3).await;
    assert_honest("failing over", &callers.seen());
    let acknowledged = callers.stop().await;
    for key in &acknowledged {
        bench.assert_signs(key).await;
    }
    println!("acknowledged {}, lost 0", acknowledged.len());
}

/// Creates on both until told to stop; gives what was acknowledged.
async fn create_for(benches: &[Bench; 2], time: std::time::Duration) -> Vec<Value> {
    let create = async |bench: &Bench| {
        let mut acknowledged = Vec::new();
        let work = async {
            while let Ok(answer) = bench.post("/create", &json!({})).await {
                if answer.status.is_success() {
                    acknowledged.push(answer.json());
                }
                tokio::task::yield_now().await;
            }
        };
        let _ = tokio::time::timeout(time, work).await;
        acknowledged
    };
    let [one, other] = benches;
    let creates = [create(one), create(one), create(other), create(other)];
    futures_util::future::join_all(creates).await.concat()
}

/// `SIGIL_TEST_KILLS=200 SIGIL_TEST_CREATES=10000` is what `hack/verify-all` asks for.
#[tokio::test]
async fn killed_at_random_neither_dataplanes_nor_the_database_lose_an_acknowledged_key() {
    let (kills, creates) = (number("SIGIL_TEST_KILLS", 6), number("SIGIL_TEST_CREATES", 60));
    let mut database = Database::start();
    let mut benches = pair_on(&database).await;
    let mut acknowledged = Vec::new();
    let mut killed = [0; 3];
    while killed.iter().sum::<usize>() < kills || acknowledged.len() < creates {
        let mut bytes = [0_u8; 3];
        aws_lc_rs::rand::fill(&mut bytes).unwrap();
        let alive = 150 + u64::from(u16::from_le_bytes([bytes[0], bytes[1]])) % 1_500;
        let alive = std::time::Duration::from_millis(alive);
        let victim = usize::from(bytes[2]) % 3;
        // Killed while creates are under way; what is answered afterwards counts too.
        let work = create_for(&benches, alive);
        let (done, ()) = futures_util::future::join(work, async {
            // A moment of no meaning, in the middle.
            let _ = tokio::time::timeout(alive / 2, std::future::pending::<()>()).await;
            if victim == 2 {
                database.server.kill().unwrap();
            } else {
                kill(benches[victim].dataplane.id());
            }
        })
        .await;
        acknowledged.extend(done);
        killed[victim] += 1;
        match victim {
            2 => database.server.launch().unwrap(),
            _ => benches[victim].restart_dataplane().await,
        }
        for bench in &benches {
            acknowledged.push(bench.create(&json!({})).await);
        }
    }
    for (n, key) in acknowledged.iter().enumerate() {
        benches[n % 2].assert_signs(key).await;
    }
    let listed = benches[0].listed().await;
    let ids: BTreeSet<_> = listed.iter().filter_map(|key| key["keyId"].as_str()).collect();
    let found = |key: &&Value| ids.contains(key["keyId"].as_str().unwrap());
    let lost = acknowledged.len() - acknowledged.iter().filter(found).count();
    println!(
        "acknowledged {}, dataplanes killed {} times, the database {} times, lost {lost}",
        acknowledged.len(),
        killed[0] + killed[1],
        killed[2]
    );
    assert_eq!(lost, 0);
}

fn kill(id: u32) {
    let id = rustix::process::Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
}

/// A disk of its own, seen by the dataplane only, and from outside through its process.
#[tokio::test]
async fn a_full_disk_refuses_creates_signs_on_and_heals_when_there_is_room() {
    let mut bench = Bench::without_dataplane(&Settings::default());
    let store = bench.path("store");
    std::fs::create_dir(&store).unwrap();
    let mount =
        format!("mount -t tmpfs -o size=16m,mode=700 tmpfs {} && exec \"$@\"", store.display());
    bench.wrapper = ["unshare", "--mount", "sh", "-c", &mount, "sh"].map(ToOwned::to_owned).into();
    bench.start_dataplane(&[]).await;
    assert!(
        !bench.dataplane.has_ended(),
        "a disk of its own takes root, as in `sudo -E make test`"
    );
    let known = bench.create(&json!({})).await;
    bench.assert_signs(&known).await;
    let inside = format!("/proc/{}/root{}/filler", bench.dataplane.id(), store.display());
    let mut acknowledged = vec![known.clone()];
    for _ in 0..2 {
        fill(&inside);
        let refused = eventually("a create is refused", async || {
            let answer = bench.post("/create", &json!({})).await.unwrap();
            match answer.status.as_u16() {
                200 => acknowledged.push(answer.json()),
                _ if answer.text("code") != "UNLOCK_REQUIRED" => return Some(answer),
                _ => {}
            }
            None
        })
        .await;
        assert_eq!(refused.text("code"), "RETRY_LATER", "{}", refused.json());
        assert!(refused.json()["retryAfterMs"].is_number());
        eventually("not ready", async || (!is_ready(&bench).await).then_some(())).await;
        assert_eq!(bench.status().await["store"]["durable"], false);
        bench.assert_signs(&known).await;
        std::fs::remove_file(&inside).unwrap();
        eventually("ready", async || is_ready(&bench).await.then_some(())).await;
        acknowledged.push(bench.create(&json!({})).await);
    }
    for key in &acknowledged {
        bench.assert_signs(key).await;
    }
    println!("acknowledged {} around two full disks, lost 0", acknowledged.len());
}

/// Writes until there is no room.
fn fill(path: &str) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).unwrap();
    for size in [65_536, 4_096] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

/// A store moves from the file to the database and back; its keys sign on each dataplane.
#[tokio::test]
async fn keys_that_were_backed_up_and_restored_sign_on_either_engine() {
    let mut embedded = Bench::start().await;
    let keys =
        [embedded.create(&json!({})).await, embedded.create(&json!({"idempotencyKey": "a"})).await];
    embedded.dataplane.kill();
    let backup = embedded.path("backup");
    let config = embedded.path("dataplane.yaml");
    let said = ctl(&["backup", "--config", text(&config), "--out", text(&backup)]).unwrap();
    assert_eq!((said["keys"].as_u64(), said["damaged"].as_u64()), (Some(2), Some(0)));
    let again = ctl(&["backup", "--config", text(&config), "--out", text(&backup)]).unwrap_err();
    assert!(again.contains("--out"), "it never overwrites: {again}");
    assert_eq!(ctl(&["verify-backup", text(&backup)]).unwrap()["keys"], 2);

    let database = Database::start();
    let mut shared = Bench::beside(&embedded, &settings_of(&database));
    let shared_config = shared.path("dataplane.yaml");
    database.migrate(&shared_config);
    let restore = ["restore", "--config", text(&shared_config), "--in", text(&backup)];
    assert_eq!(ctl(&restore).unwrap()["same"], 0);
    let said = ctl(&restore).unwrap();
    assert_eq!(said["same"], said["rows"], "twice does no harm");
    shared.start_dataplane(&[]).await;
    for key in &keys {
        shared.assert_signs(key).await;
    }
    let repeated = shared.create(&json!({"idempotencyKey": "a"})).await;
    assert_eq!(repeated["publicKey"], keys[1]["publicKey"]);
    let new = shared.create(&json!({})).await;

    let back = embedded.path("back");
    ctl(&["backup", "--config", text(&shared_config), "--out", text(&back)]).unwrap();
    std::fs::remove_dir_all(embedded.path("store")).unwrap();
    ctl(&["restore", "--config", text(&config), "--in", text(&back)]).unwrap();
    embedded.start_dataplane(&[]).await;
    for key in keys.iter().chain([&new]) {
        embedded.assert_signs(key).await;
    }
    let in_use = ctl(&["backup", "--config", text(&config), "--out", text(&embedded.path("c"))]);
    assert!(in_use.unwrap_err().contains("stop the dataplane"));
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

/// Runs `ctl store`; what it printed, or what it complained of.
fn ctl(words: &[&str]) -> Result<Value, String> {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_sigil-dataplane"))
        .args(["ctl", "store"])
        .args(words)
        .output()
        .unwrap();
    if output.status.success() {
        return Ok(serde_json::from_slice(&output.stdout).unwrap());
    }
    assert!(output.stdout.is_empty());
    Err(String::from_utf8(output.stderr).unwrap())
}
