//! What a KMS or a store that lies can make of the DEK that seals. `docs/decisions/0007` says what is
//! beyond any enclave.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use devkms::{FaultMode, KNOWN_DEK};
use sigil_enclave_protocol::v1::DekProvenance;

use super::super::exchange::ExchangeError;
use super::super::queue::Target;
use super::bench::{Bench, KEYSPACE, Member, create, nobody};
use crate::app::{Asked, SignRequest};
use crate::error::Code;
use crate::failpoint::stop;
use crate::status::KmsErrorClass;
use crate::store::{CurrentRecord, DekRecord, Row, Swap, Table};

fn bench() -> Bench {
    Bench::start(Arc::new)
}

/// What a job for the sealing DEK fails with.
async fn refusal(member: &Member) -> ExchangeError {
    let error = member.attempt(&member.job(Target::Sealing)).await.unwrap_err();
    assert_eq!(error.class, KmsErrorClass::Attestation, "{error}");
    error
}

/// No key is made, and the caller is told to come again.
async fn assert_nothing_seals(bench: &Bench, member: &Member) {
    assert!(member.deks().await.iter().all(|dek| !dek.sealing));
    let error = create(&bench.app(member)).await.unwrap_err();
    assert_eq!(error.code, Code::UnlockRequired);
    assert!(error.retry_after_ms.is_some());
}

/// Makes a DEK with KMS in `mode` and stops before its first Decrypt; KMS is honest afterwards.
async fn generated_in(mode: FaultMode, bench: &Bench, member: &Arc<Member>) -> [u8; 16] {
    bench.kms.set_fault(mode).unwrap();
    let generating = Arc::clone(member);
    let task = async move { stop::at(Some("unlock.elected"), generating.unlock()).await };
    let panic = tokio::spawn(task).await.unwrap_err().into_panic();
    assert!(panic.is::<stop::Stopped>());
    bench.kms.set_fault(FaultMode::Off).unwrap();
    let [current] = bench.currents().await[..] else { panic!("not one `current`") };
    current
}

/// The plaintext that the enclave saw at generation is not what the wrapped DEK holds. The birth
/// document commits to the first, so the row never opens, never stands for election, and the next
/// attempt makes another.
#[tokio::test]
async fn a_lie_at_generation_alone_is_refused_and_the_next_honest_dek_is_elected() {
    let bench = bench();
    let member = bench.member(0).await;
    bench.kms.set_fault(FaultMode::ForgedGeneration).unwrap();
    for _ in 0..3 {
        let error = refusal(&member).await;
        assert!(error.detail.contains("DEK_MISMATCH"), "{error}");
        assert!(member.deks().await.is_empty(), "it does not open either");
        assert_nothing_seals(&bench, &member).await;
    }
    assert!(bench.currents().await.is_empty(), "nothing was elected");
    bench.kms.set_fault(FaultMode::Off).unwrap();
    let unlocked = member.unlock().await;
    assert!(unlocked.sealing);
    assert_eq!(bench.currents().await, [unlocked.dek_id]);
    create(&bench.app(&member)).await.unwrap();
}

#[tokio::test]
async fn a_lie_about_a_row_that_exists_is_refused_and_the_truth_is_taken_without_a_restart() {
    let bench = bench();
    let honest = bench.member(0).await.unlock().await;
    let member = bench.member(1).await;
    bench.kms.set_fault(FaultMode::ForgedEnvelope).unwrap();
    let error = refusal(&member).await;
    assert!(error.detail.contains("DEK_MISMATCH"), "{error}");
    assert!(member.deks().await.is_empty());
    assert_nothing_seals(&bench, &member).await;
    // A KMS that would choose the DEKs it generates is not asked to: the row exists.
    bench.kms.set_fault(FaultMode::KnownDek).unwrap();
    let unlocked = member.unlock().await;
    assert!(unlocked.sealing && unlocked.dek_id == honest.dek_id);
    create(&bench.app(&member)).await.unwrap();
    assert_eq!(bench.kms.counters().get("GenerateDataKey", "ok"), 1);
}

/// Beyond any enclave: KMS makes the DEK, so a KMS that wraps one that somebody knows and is honest
/// about it from then on cannot be told from one that drew it at random. Likewise one that gives the
/// same wrong plaintext at generation and at every Decrypt. AWS is trusted for this much. These
/// assertions are here to say what is *not* promised; what ends the second kind of lie is honesty.
#[tokio::test]
async fn a_kms_that_lies_alike_in_both_calls_is_believed_until_it_stops() {
    let chosen = bench();
    let member = Arc::new(chosen.member(0).await);
    let current = generated_in(FaultMode::KnownDek, &chosen, &member).await;
    let unlocked = member.unlock().await;
    assert!(unlocked.sealing && unlocked.dek_id == current);

    let forged = bench();
    forged.kms.set_fault(FaultMode::ForgedEnvelope).unwrap();
    let member = forged.member(0).await;
    assert!(member.unlock().await.sealing);
    forged.kms.set_fault(FaultMode::Off).unwrap();
    let next_boot = forged.member(1).await;
    assert!(refusal(&next_boot).await.detail.contains("DEK_MISMATCH"));
    assert!(next_boot.deks().await.is_empty());
}

/// Makes `current` name `dek`, as whoever owns the store can.
async fn plant(bench: &Bench, dek: &DekRecord) {
    bench.records.put_dek(dek).await.unwrap();
    let key: Bytes = [KEYSPACE.as_bytes(), &bench.image.pcr0].concat().into();
    let expected = bench.store.get(Table::Current, key.clone()).await.unwrap();
    let value = CurrentRecord { dek_id: dek.dek_id }.encode().into();
    let row = Row { keyspace: KEYSPACE.to_owned(), key, value };
    let swap = bench.store.compare_and_swap(Table::Current, expected, row).await;
    assert_eq!(swap, Ok(Swap::Swapped));
}

/// A DEK that an attacker chose and wrapped by `kms:Encrypt`, under the right context.
fn wrapped_by_encrypt(bench: &Bench, dek_id: [u8; 16], birth_document: Bytes) -> DekRecord {
    let context = [
        ("app", "sigil-test".to_owned()),
        ("dek_id", const_hex::encode(dek_id)),
        ("keyspace", KEYSPACE.to_owned()),
    ];
    let context: BTreeMap<_, _> = context.map(|(name, value)| (name.to_owned(), value)).into();
    let arn = &bench.kms.key_arn;
    DekRecord {
        dek_id,
        keyspace: KEYSPACE.to_owned(),
        wrapped_dek: bench.kms.encrypt_as_attacker(arn, &context, &KNOWN_DEK).unwrap().into(),
        birth_document,
        kms_key_arn: arn.clone(),
    }
}

/// It opens and never seals, whether it comes without a birth document or with another DEK's.
/// Keys that exist sign on, and once the store names an honest DEK again, keys are made again.
#[tokio::test]
async fn a_hostile_store_that_names_a_known_dek_gets_nothing_sealed_under_it() {
    let bench = bench();
    let first = bench.member(0).await;
    let honest = first.unlock().await;
    let key = create(&bench.app(&first)).await.unwrap();
    let honest_row = bench.records.dek(honest.dek_id).await.unwrap().unwrap();

    plant(&bench, &wrapped_by_encrypt(&bench, [5; 16], Bytes::new())).await;
    let member = bench.member(1).await;
    for _ in 0..2 {
        let error = refusal(&member).await;
        assert!(error.detail.contains("does not seal here"), "{error}");
        let installed = member.deks().await;
        let known = |dek: &sigil_enclave_protocol::v1::DekState| {
            dek.dek_id[..] == [5; 16] && dek.provenance() == DekProvenance::Unproven
        };
        assert!(matches!(&installed[..], [dek] if known(dek)), "{installed:?}");
        assert_nothing_seals(&bench, &member).await;
    }

    let borrowed = honest_row.birth_document.clone();
    plant(&bench, &wrapped_by_encrypt(&bench, [6; 16], borrowed)).await;
    let error = refusal(&member).await;
    assert!(error.detail.contains("DEK_MISMATCH"), "{error}");
    assert_nothing_seals(&bench, &member).await;

    let opened = member.attempt(&member.job(Target::Dek(honest.dek_id))).await.unwrap();
    assert!(!opened.sealing, "`current` names another");
    let request = SignRequest { key_id: key.key_id, digest: [0x42; 32], der: false };
    let asker = nobody();
    let asked = Asked::of_a_test(&asker);
    let signed = bench.app(&member).sign_anywhere(asked, request).await.unwrap();
    assert_eq!(signed.public_key, key.public_key);
    assert_nothing_seals(&bench, &member).await;

    plant(&bench, &honest_row).await;
    let unlocked = member.unlock().await;
    assert!(unlocked.sealing && unlocked.dek_id == honest.dek_id);
    create(&bench.app(&member)).await.unwrap();
    assert_eq!(bench.kms.counters().get("GenerateDataKey", "ok"), 1);
}
