//! The whole life of a key with the real parts.

use std::time::Duration;

use bytes::Bytes;
use k256::ecdsa::signature::hazmat::PrehashVerifier;
use k256::ecdsa::{RecoveryId, Signature, VerifyingKey};
use sigil_enclave_image::pins::Ceilings;
use sigil_enclave_protocol::v1::{
    ActivateRequest, AttestRequest, CreateReply, DekProvenance, ErrorCode, HealthRequest,
    ProveRequest, SignResult, StateReply, StateRequest,
};
use sigil_verifier::{Provenance, StatementKind, UserData, verify_live};

use crate::bench::{Bench, attestation_root, verified};
use crate::sidecar::{Sidecar, item};

/// Far above any run's time to see a condition.
const PATIENCE: Duration = Duration::from_secs(20);

fn assert_signed(result: &SignResult, public_key: &[u8], digest: &[u8; 32]) {
    assert_eq!(result.error(), ErrorCode::Ok);
    assert_eq!(result.public_key, public_key);
    let signature = Signature::from_slice(&result.signature).unwrap();
    let key = VerifyingKey::from_sec1_bytes(public_key).unwrap();
    key.verify_prehash(digest, &signature).unwrap();
    assert_eq!(signature.normalize_s(), signature, "low S");
    let recovery_id = RecoveryId::from_byte(result.recovery_id.try_into().unwrap()).unwrap();
    assert_eq!(VerifyingKey::recover_from_prehash(digest, &signature, recovery_id).unwrap(), key);
}

async fn activate(sidecar: &mut Sidecar<'_>, created: &CreateReply) {
    let request = ActivateRequest {
        keyspace: "default".into(),
        key_id: Bytes::from_static(&[1; 16]),
        blob: created.blob.clone(),
    };
    let reply = sidecar.client.activate(request).await.unwrap().into_inner();
    assert_eq!(reply.error(), ErrorCode::Ok);
    assert_eq!(
        (reply.public_key, reply.dek_id),
        (created.public_key.clone(), created.dek_id.clone())
    );
}

async fn state(sidecar: &mut Sidecar<'_>) -> StateReply {
    sidecar.client.state(StateRequest {}).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_key_is_made_proved_cached_and_signs() {
    let bench = Bench::start();
    let mut sidecar = Sidecar::claim(&bench).await;

    let row = sidecar.generate("default").await;
    let unlocked = sidecar.unlock(&row).await;
    assert_eq!(unlocked.error(), ErrorCode::Ok);
    assert_eq!((unlocked.provenance(), unlocked.sealing), (DekProvenance::Born, true));
    assert!((3_590_000..=3_600_000).contains(&unlocked.valid_for_ms), "{}", unlocked.valid_for_ms);

    let created = sidecar.create("default", 1).await;
    assert_eq!((created.error(), &created.dek_id), (ErrorCode::Ok, &row.dek_id));
    let birth = verified(&bench, created.birth.clone().unwrap());
    assert_eq!(birth.kind, StatementKind::Birth);
    assert_eq!((birth.app.as_str(), birth.keyspace.as_str()), ("sigil-test", "default"));
    assert_eq!((&birth.public_key[..], birth.key_id), (&*created.public_key, [1; 16]));
    assert_eq!(
        (birth.challenge.as_slice(), birth.dek_provenance),
        (&b"challenge"[..], Provenance::Born)
    );
    assert_eq!((birth.dek_birth_pcr0, birth.key_birth_pcr0), (bench.pcr0(), bench.pcr0()));

    activate(&mut sidecar, &created).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while state(&mut sidecar).await.keys_warm != 1 {
        assert!(tokio::time::Instant::now() < deadline, "keys are counted every second");
    }
    let kms_requests = bench.kms.requests();
    for digest in [[0x11; 32], [0xff; 32], [0; 32]] {
        let signed = sidecar.sign(item("default", 1, &digest, b"")).await;
        assert_signed(&signed, &created.public_key, &digest);
    }
    assert_eq!(bench.kms.requests(), kms_requests, "signing never calls KMS");

    let nonce = Bytes::from_static(b"a verifier's nonce");
    let request = ProveRequest {
        keyspace: "default".into(),
        key_id: Bytes::from_static(&[1; 16]),
        nonce: nonce.clone(),
    };
    let reply = sidecar.client.prove(request).await.unwrap().into_inner();
    let possession = verified(&bench, reply.possession.unwrap());
    assert_eq!(possession.kind, StatementKind::Possession);
    assert_eq!((possession.challenge, possession.public_key), (nonce.to_vec(), birth.public_key));
}

#[tokio::test]
async fn a_batch_answers_each_item_by_its_tag() {
    let bench = Bench::start();
    let mut sidecar = Sidecar::claim(&bench).await;
    sidecar.seal_with_new_dek("default").await;
    let keys = [sidecar.create("default", 1).await, sidecar.create("default", 2).await];
    // Two keys in turn, whose blobs come along.
    let mut items: Vec<_> = (0..9_u8)
        .map(|tag| {
            let blob = &keys[usize::from(tag % 2)].blob;
            let item = item("default", 1 + tag % 2, &[tag; 32], blob);
            sigil_enclave_protocol::v1::SignItem { tag: tag.into(), ..item }
        })
        .collect();
    items[0].digest = Bytes::from_static(&[5; 31]);
    items[3].key_id = Bytes::from_static(&[9; 16]);
    items[3].blob = Bytes::new();
    items[5].blob = keys[0].blob.clone();
    let results = sidecar.sign_batch(items).await.results;
    let tags: Vec<_> = results.iter().map(|result| result.tag).collect();
    assert_eq!(tags, (0..9).collect::<Vec<_>>());
    for (result, tag) in results.iter().zip(0_u8..) {
        match tag {
            0 => assert_eq!(result.error(), ErrorCode::InvalidArgument),
            3 => assert_eq!(result.error(), ErrorCode::BlobRequired),
            5 => assert_eq!(result.error(), ErrorCode::InvalidKey),
            _ => assert_signed(result, &keys[usize::from(tag % 2)].public_key, &[tag; 32]),
        }
    }
}

#[tokio::test]
async fn a_cool_key_is_warm_again_without_kms() {
    let ceilings = Ceilings { key_soft_s: 1, key_hard_s: 2, ..Ceilings::default() };
    let bench = Bench::start_with(ceilings);
    let mut sidecar = Sidecar::claim(&bench).await;
    sidecar.seal_with_new_dek("default").await;
    let created = sidecar.create("default", 1).await;
    activate(&mut sidecar, &created).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while state(&mut sidecar).await.keys_cool == 0 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the plain key is erased after two seconds"
        );
    }
    let kms_requests = bench.kms.requests();
    let signed = sidecar.sign(item("default", 1, &[3; 32], b"")).await;
    assert_signed(&signed, &created.public_key, &[3; 32]);
    assert_eq!(bench.kms.requests(), kms_requests);
}

#[tokio::test]
async fn an_expired_dek_neither_signs_nor_seals_until_it_is_unlocked_again() {
    let ceilings = Ceilings { dek_soft_s: 1, dek_hard_s: 6, ..Ceilings::default() };
    let bench = Bench::start_with(ceilings);
    let mut sidecar = Sidecar::claim(&bench).await;
    let row = sidecar.seal_with_new_dek("default").await;
    let created = sidecar.create("default", 1).await;
    activate(&mut sidecar, &created).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !state(&mut sidecar).await.deks.is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "the DEK is erased after six seconds");
    }
    let signed = sidecar.sign(item("default", 1, &[3; 32], b"")).await;
    assert_eq!((signed.error(), signed.dek_id), (ErrorCode::UnlockRequired, row.dek_id.clone()));
    assert_eq!(sidecar.create("default", 2).await.error(), ErrorCode::UnlockRequired);
    assert_eq!(sidecar.unlock(&row).await.error(), ErrorCode::Ok);
    let signed = sidecar.sign(item("default", 1, &[3; 32], b"")).await;
    assert_signed(&signed, &created.public_key, &[3; 32]);
}

#[tokio::test]
async fn a_live_document_answers_the_nonce_and_names_the_boot() {
    let bench = Bench::start();
    let mut sidecar = Sidecar::claim(&bench).await;
    let nonce = [5; 32];
    let request = AttestRequest { nonce: Bytes::copy_from_slice(&nonce) };
    let reply = sidecar.client.attest(request).await.unwrap().into_inner();
    assert_eq!(reply.error(), ErrorCode::Ok);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now_ms = u64::try_from(now.as_millis()).unwrap();
    let document =
        verify_live(&reply.document, &attestation_root(), now_ms, &nonce, 60_000).unwrap();
    assert!(bench.allow_list().allows(&document.pcrs));
    let health = sidecar.client.health(HealthRequest {}).await.unwrap().into_inner();
    let boot_id = health.boot_id.as_ref().try_into().unwrap();
    assert_eq!(document.user_data().unwrap(), UserData::Live { boot_id });
    assert!(health.documents_verify);
    assert!(health.insecure && health.rng_current == "software" && health.workers == 2);
    assert_eq!(health.app, "sigil-test");
}
