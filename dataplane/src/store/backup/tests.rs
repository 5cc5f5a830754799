use std::sync::Arc;

use super::*;
use crate::store::{DekRecord, EmbeddedStore, Records, record_for_tests};

fn open(folder: &std::path::Path) -> Arc<EmbeddedStore> {
    Arc::new(EmbeddedStore::open(folder, |_| {}).unwrap())
}

async fn filled(folder: &std::path::Path, keys: u8) -> Arc<EmbeddedStore> {
    let store = open(folder);
    let records = Records::new(store.clone());
    let document = Bytes::from_static(b"a document");
    records.put_document(sha256(&document), document).await.unwrap();
    let dek = DekRecord {
        dek_id: [7; 16],
        keyspace: "default".to_owned(),
        wrapped_dek: Bytes::from_static(b"wrapped"),
        birth_document: Bytes::from_static(b"birth"),
        kms_key_arn: "arn".to_owned(),
    };
    records.put_dek(&dek).await.unwrap();
    records.elect_current("default", &[9; 48], [7; 16]).await.unwrap();
    for n in 0..keys {
        records.put_key(&record_for_tests([n; 16], "default")).await.unwrap();
    }
    store
}

async fn backed_up(store: &EmbeddedStore) -> Vec<u8> {
    let mut out = Vec::new();
    backup(store, &mut out, false).await.unwrap();
    out
}

#[tokio::test]
async fn what_was_backed_up_is_restored_as_it_was_and_again_without_harm() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = filled(from.path(), 200).await;
    let file = backed_up(&source).await;
    assert_eq!(verify(&file[..]).unwrap(), Outcome { rows: 203, keys: 200, ..Outcome::default() });
    let target = open(to.path());
    let restored = restore(&*target, || Ok(&file[..]), false).await.unwrap();
    assert_eq!((restored.rows, restored.same, restored.kept), (203, 0, 0));
    assert_eq!(backed_up(&target).await, file, "byte for byte");
    let (keys, _) = Records::new(target.clone()).keys("default", None, 999).await.unwrap();
    assert_eq!(keys.len(), 200, "they are listed under their keyspace");
    let again = restore(&*target, || Ok(&file[..]), false).await.unwrap();
    assert_eq!((again.same, again.kept), (203, 0));
}

#[tokio::test]
async fn another_value_stops_a_restore_before_it_writes_anything() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = backed_up(&*filled(from.path(), 3).await).await;
    let target = open(to.path());
    let records = Records::new(target.clone());
    let mut other = record_for_tests([2; 16], "default");
    other.created_ms += 1;
    records.put_key(&other).await.unwrap();
    let refused = restore(&*target, || Ok(&file[..]), false).await.unwrap_err();
    assert!(matches!(refused, BackupError::Conflict { count: 1, .. }), "{refused}");
    assert!(refused.to_string().contains(&format!("key {}", "02".repeat(16))), "{refused}");
    assert_eq!(records.key([1; 16]).await, Ok(None), "nothing was restored");
    assert_eq!(records.current("default", &[9; 48]).await, Ok(None));

    let kept = restore(&*target, || Ok(&file[..]), true).await.unwrap();
    assert_eq!((kept.rows, kept.same, kept.kept), (6, 0, 1));
    assert_eq!(records.key([2; 16]).await, Ok(Some(other)), "what was there stays");
    assert!(records.key([1; 16]).await.unwrap().is_some());
}

#[tokio::test]
async fn a_backup_that_is_cut_changed_or_foreign_restores_nothing() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = backed_up(&*filled(from.path(), 2).await).await;
    let target = open(to.path());
    let mut wrong: Vec<Vec<u8>> = (0..file.len()).step_by(61).map(|n| file[..n].to_vec()).collect();
    wrong.extend((0..file.len()).step_by(17).map(|at| {
        let mut changed = file.clone();
        changed[at] ^= 1;
        changed
    }));
    let lines: Vec<&[u8]> = file.split_inclusive(|byte| *byte == b'\n').collect();
    // Without a row, and with one twice.
    wrong.push([&lines[..1], &lines[2..]].concat().concat());
    wrong.push([&lines[..2], &lines[1..]].concat().concat());
    wrong.push([&file[..], b"more\n"].concat());
    wrong.push(file.to_ascii_uppercase());
    for bytes in &wrong {
        let result = restore(&*target, || Ok(&bytes[..]), true).await;
        assert!(matches!(result, Err(BackupError::Malformed { .. })), "{result:?}");
    }
    for (table, _) in TABLES {
        assert!(target.scan(table, None, 9).await.unwrap().rows.is_empty(), "{table:?}");
    }
}

#[tokio::test]
async fn a_damaged_row_is_named_and_left_out_only_when_that_is_asked_for() {
    let from = tempfile::tempdir().unwrap();
    let store = filled(from.path(), 2).await;
    let damaged = Row {
        keyspace: "default".to_owned(),
        key: Bytes::from_static(&[0xee; 16]),
        value: Bytes::from_static(b"not a record"),
    };
    store.put_if_absent(Table::Key, damaged).await.unwrap();
    let mut out = Vec::new();
    let error = backup(&*store, &mut out, false).await.unwrap_err().to_string();
    assert!(error.contains(&"ee".repeat(16)) && error.contains("--skip-damaged"), "{error}");
    out.clear();
    let outcome = backup(&*store, &mut out, true).await.unwrap();
    assert_eq!((outcome.damaged, outcome.keys), (1, 2));
    assert_eq!(verify(&out[..]).unwrap().keys, 2);
}
