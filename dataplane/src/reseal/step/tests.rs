use std::collections::VecDeque;
use std::sync::Arc;

use super::*;
use crate::store::{EmbeddedStore, record_for_tests};

const NEWEST: [u8; 16] = [8; 16];
const KEY: [u8; 16] = [5; 16];

/// Stands for the enclave: writes the newest DEK's id into the blob's header, and is wrong in the ways
/// that a test asks for.
struct Pretender {
    records: Records,
    /// Answers before the right ones.
    answers: VecDeque<Result<Sealed, Refusal>>,
    /// What another member stores while this one seals: old and new.
    rival: Option<(KeyRecord, KeyRecord)>,
    renewed: usize,
}

impl Sealer for Pretender {
    async fn seal(&mut self, record: &KeyRecord) -> Result<Sealed, Refusal> {
        if let Some((old, new)) = self.rival.take() {
            assert!(self.records.swap_key(&old, &new).await.unwrap());
        }
        self.answers.pop_front().unwrap_or_else(|| Ok(sealed(record, 1)))
    }

    async fn renew(&mut self, _: &KeyRecord) -> Result<(), Refusal> {
        self.renewed += 1;
        Ok(())
    }
}

/// `salt` makes blobs differ, as fresh nonces would.
fn sealed(record: &KeyRecord, salt: u8) -> Sealed {
    let at = record.blob.windows(16).position(|window| window == record.dek_id).unwrap();
    let mut blob = record.blob.to_vec();
    blob[at..at + 16].copy_from_slice(&NEWEST);
    *blob.last_mut().unwrap() = salt;
    Sealed {
        blob: blob.into(),
        public_key: Bytes::copy_from_slice(&record.public_key().unwrap()),
        dek_id: Bytes::copy_from_slice(&NEWEST),
    }
}

fn dek() -> DekRecord {
    DekRecord {
        dek_id: NEWEST,
        keyspace: "default".to_owned(),
        wrapped_dek: Bytes::from_static(b"wrapped"),
        birth_document: Bytes::from_static(b"document"),
        kms_key_arn: "arn:new".to_owned(),
    }
}

fn moved(record: &KeyRecord, salt: u8) -> KeyRecord {
    KeyRecord {
        blob: sealed(record, salt).blob,
        dek_id: NEWEST,
        wrapped_dek: dek().wrapped_dek,
        kms_key_arn: dek().kms_key_arn,
        ..record.clone()
    }
}

/// Re-seals one key; gives what became of it, the record that is stored then, and how often a cached
/// blob was renewed.
async fn run(
    answers: Vec<Result<Sealed, Refusal>>,
    rival: Option<KeyRecord>,
) -> (Outcome, KeyRecord, usize) {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path(), |_| {}).unwrap();
    let records = Records::new(Arc::new(store));
    let old = record_for_tests(KEY, "default");
    records.put_key(&old).await.unwrap();
    let rival = rival.map(|new| (old.clone(), new));
    let mut sealer =
        Pretender { records: records.clone(), answers: answers.into(), rival, renewed: 0 };
    let outcome = reseal(&records, &mut sealer, &old, &dek()).await;
    (outcome, records.key(KEY).await.unwrap().unwrap(), sealer.renewed)
}

#[tokio::test]
async fn a_key_that_moves_differs_in_blob_and_dek_alone() {
    let old = record_for_tests(KEY, "default");
    let (outcome, stored, renewed) = run(Vec::new(), None).await;
    assert_eq!((outcome, renewed), (Outcome::Moved, 1));
    assert_eq!(stored, moved(&old, 1));
    assert_ne!(stored.blob, old.blob);
    assert_eq!(stored.statement, old.statement);
    assert_eq!(stored.public_key(), old.public_key());
}

#[tokio::test]
async fn whoever_loses_the_swap_throws_its_blob_away() {
    let theirs = moved(&record_for_tests(KEY, "default"), 99);
    let (outcome, stored, renewed) = run(Vec::new(), Some(theirs.clone())).await;
    assert_eq!((outcome, renewed), (Outcome::Overtaken, 0));
    assert_eq!(stored, theirs, "the winner's record stays");
}

#[tokio::test]
async fn what_the_enclave_refuses_changes_no_record() {
    let old = record_for_tests(KEY, "default");
    let good = sealed(&old, 1);
    let other_key = Sealed { public_key: Bytes::from_static(&[3; 33]), ..good.clone() };
    let other_dek = Sealed { dek_id: Bytes::from_static(&[9; 16]), ..good.clone() };
    let not_moved = Sealed { blob: old.blob.clone(), ..good };
    for (answer, expected) in [
        (Err(Refusal::OtherImage), "Kept"),
        (Err(Refusal::Locked), "Locked"),
        (Err(Refusal::Invalid("INVALID_KEY")), "Failed"),
        (Err(Refusal::Away("DRAINING".to_owned())), "Stopped"),
        (Ok(other_key), "Failed"),
        (Ok(other_dek), "Stopped"),
        (Ok(not_moved), "Failed"),
    ] {
        let (outcome, stored, renewed) = run(vec![answer.clone()], None).await;
        assert!(format!("{outcome:?}").starts_with(expected), "{answer:?}: {outcome:?}");
        assert_eq!((stored, renewed), (old.clone(), 0), "{answer:?}");
    }
}

#[tokio::test]
async fn a_record_that_does_not_open_when_read_back_gives_way_to_the_old_one() {
    let old = record_for_tests(KEY, "default");
    let good = sealed(&old, 1);
    let other_key = Sealed { public_key: Bytes::from_static(&[3; 33]), ..good.clone() };
    for second in [Err(Refusal::Invalid("INVALID_KEY")), Ok(other_key)] {
        let (outcome, stored, _) = run(vec![Ok(good.clone()), second], None).await;
        assert!(matches!(&outcome, Outcome::Failed(why) if why.ends_with("put back: true")));
        assert_eq!(stored, old);
    }
    // An enclave that went away says nothing about the record, which it had opened.
    let away = Err(Refusal::Away("connection lost".to_owned()));
    let (outcome, stored, _) = run(vec![Ok(good), away], None).await;
    assert!(matches!(outcome, Outcome::Stopped(_)));
    assert_eq!(stored, moved(&old, 1));
}
