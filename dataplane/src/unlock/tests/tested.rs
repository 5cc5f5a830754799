//! A keyspace shows as unlocked once a test key signed, and not before.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::super::self_test::SelfTest;
use super::bench::{Bench, KEYSPACE, Member, PATIENCE};
use crate::status::{KeyspaceStatus, StatusWriter};

/// The status of a sidecar that has this boot.
fn status(member: &Member) -> StatusWriter {
    let status = StatusWriter::new(&[KEYSPACE.to_owned()]);
    status.update(|status| status.boot_id = Some(member.boot.boot_id.to_string()));
    status
}

fn test(member: &Member, status: &StatusWriter, life: Duration) -> SelfTest {
    SelfTest {
        pool: member.pool.clone(),
        boots: member.boots.subscribe(),
        status: status.clone(),
        keyspace: KEYSPACE.to_owned(),
        boot: Arc::clone(&member.boot),
        until: Instant::now() + life,
    }
}

/// Waits for a status of the keyspace. None before it may say that it is unlocked without a signature.
async fn reaches(status: &StatusWriter, wanted: impl Fn(&KeyspaceStatus) -> bool) {
    let mut changes = status.subscribe();
    let reached = changes.wait_for(|status| {
        let keyspace = &status.keyspaces[KEYSPACE];
        assert_eq!(keyspace.unlocked, keyspace.test_signature_ms.is_some());
        wanted(keyspace)
    });
    drop(timeout(PATIENCE, reached).await.unwrap().unwrap());
}

#[tokio::test]
async fn a_keyspace_is_unlocked_when_a_test_key_signed_and_not_before() {
    let bench = Bench::start(Arc::new);
    let member = bench.member(0).await;
    let status = status(&member);
    member.deks().await;
    // The enclave has no DEK yet, so that the test fails for a while.
    let running = tokio::spawn(test(&member, &status, PATIENCE).run());
    reaches(&status, |keyspace| keyspace.test_error.as_deref() == Some("create: UNLOCK_REQUIRED"))
        .await;
    member.unlock().await;
    reaches(&status, |keyspace| keyspace.unlocked && keyspace.test_error.is_none()).await;
    timeout(PATIENCE, running).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_test_ends_with_its_boot_and_with_its_dek() {
    let bench = Bench::start(Arc::new);
    let member = bench.member(0).await;
    let status = status(&member);
    member.deks().await;
    timeout(PATIENCE, test(&member, &status, Duration::from_millis(300)).run()).await.unwrap();
    assert!(!status.snapshot().keyspaces[KEYSPACE].unlocked, "its DEK is over");
    let running = tokio::spawn(test(&member, &status, Duration::from_hours(1)).run());
    reaches(&status, |keyspace| keyspace.test_error.is_some()).await;
    member.boots.send_replace(None);
    timeout(PATIENCE, running).await.unwrap().unwrap();
    assert!(!status.snapshot().keyspaces[KEYSPACE].unlocked, "its boot is gone");
}
