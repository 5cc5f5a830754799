//! The calls about cached keys: refresh by force, sealing again, settings, what is counted.

use bytes::Bytes;
use sigil_enclave_image::pins::Ceilings;
use sigil_enclave_protocol::v1::{
    ActivateRequest, CacheSettings, CreateReply, DekProvenance, DekRow, ErrorCode,
    ForceRefreshRequest, KeyspaceStats, ProveRequest, ResealReply, ResealRequest, StateReply,
    StateRequest, StatsRequest,
};

use crate::bench::{Bench, verified};
use crate::sidecar::{Sidecar, item, unlock};

const DIGEST: [u8; 32] = [0x42; 32];

fn key_id(key_id: u8) -> Bytes {
    Bytes::copy_from_slice(&[key_id; 16])
}

async fn activate(sidecar: &mut Sidecar<'_>, blob: &Bytes) -> ErrorCode {
    let request =
        ActivateRequest { keyspace: "default".into(), key_id: key_id(1), blob: blob.clone() };
    sidecar.client.activate(request).await.unwrap().into_inner().error()
}

async fn reseal(sidecar: &mut Sidecar<'_>, id: u8, blob: &Bytes) -> ResealReply {
    let request =
        ResealRequest { keyspace: "default".into(), key_id: key_id(id), blob: blob.clone() };
    sidecar.client.reseal(request).await.unwrap().into_inner()
}

async fn force_refresh(sidecar: &mut Sidecar<'_>, id: u8) -> ErrorCode {
    let request = ForceRefreshRequest { keyspace: "default".into(), key_id: key_id(id) };
    sidecar.client.force_refresh(request).await.unwrap().into_inner().error()
}

async fn state(sidecar: &mut Sidecar<'_>) -> StateReply {
    sidecar.client.state(StateRequest {}).await.unwrap().into_inner()
}

async fn counted(sidecar: &mut Sidecar<'_>) -> KeyspaceStats {
    let reply = sidecar.client.stats(StatsRequest {}).await.unwrap().into_inner();
    reply.keyspaces.into_iter().find(|stats| stats.keyspace == "default").unwrap_or_default()
}

async fn sign(sidecar: &mut Sidecar<'_>, blob: &[u8]) -> ErrorCode {
    sidecar.sign(item("default", 1, &DIGEST, blob)).await.error()
}

/// A key under the first of two sealing DEKs.
async fn with_old_key(bench: &Bench) -> (Sidecar<'_>, CreateReply, DekRow) {
    let mut sidecar = Sidecar::claim(bench).await;
    sidecar.seal_with_new_dek("default").await;
    let created = sidecar.create("default", 1).await;
    assert_eq!(created.error(), ErrorCode::Ok);
    let newer = sidecar.seal_with_new_dek("default").await;
    (sidecar, created, newer)
}

#[tokio::test]
async fn a_key_sealed_again_differs_in_its_dek_alone_and_takes_the_place_of_the_old_blob() {
    let bench = Bench::start();
    let (mut sidecar, created, newer) = with_old_key(&bench).await;
    assert_eq!(activate(&mut sidecar, &created.blob).await, ErrorCode::Ok);
    let sealed = reseal(&mut sidecar, 1, &created.blob).await;
    assert_eq!(sealed.error(), ErrorCode::Ok);
    assert_eq!((&sealed.public_key, &sealed.dek_id), (&created.public_key, &newer.dek_id));
    let header_bytes = created.blob.len() - 80;
    let (old, new) = (&created.blob[..header_bytes], &sealed.blob[..header_bytes]);
    let at = old.windows(16).position(|window| window == created.dek_id).unwrap();
    assert_eq!((&new[..at], &new[at + 16..]), (&old[..at], &old[at + 16..]));
    assert_eq!(new[at..at + 16], newer.dek_id);
    assert_ne!(sealed.blob[header_bytes..], created.blob[header_bytes..], "under other keys");
    assert_eq!(reseal(&mut sidecar, 1, &sealed.blob).await.blob, sealed.blob, "done already");

    assert_eq!(activate(&mut sidecar, &sealed.blob).await, ErrorCode::Ok);
    let request = ProveRequest {
        keyspace: "default".into(),
        key_id: key_id(1),
        nonce: Bytes::from_static(b"n"),
    };
    let proved = sidecar.client.prove(request).await.unwrap().into_inner();
    let statement = verified(&bench, proved.possession.unwrap());
    assert_eq!(statement.dek_id[..], newer.dek_id);
    assert_eq!(statement.key_birth_pcr0, bench.pcr0());
    assert_eq!(sign(&mut sidecar, b"").await, ErrorCode::Ok);
}

#[tokio::test]
async fn a_key_under_another_images_dek_signs_and_is_not_sealed_again() {
    let old = Bench::start();
    let mut sidecar = Sidecar::claim(&old).await;
    let old_row = sidecar.seal_with_new_dek("default").await;
    let created = sidecar.create("default", 1).await;

    // That other image may be anybody's, who then knows the DEK and the key.
    let new = Bench::start_image(b"the next executable", &old.kms);
    let mut next = Sidecar::claim(&new).await;
    let opened = next.unlock(&old_row).await;
    assert_eq!((opened.provenance(), opened.sealing), (DekProvenance::Foreign, false));
    next.seal_with_new_dek("default").await;
    let refused = reseal(&mut next, 1, &created.blob).await;
    assert_eq!((refused.error(), refused.blob.len()), (ErrorCode::DekMismatch, 0));
    assert_eq!(activate(&mut next, &created.blob).await, ErrorCode::Ok, "it opens and signs");
}

#[tokio::test]
async fn a_key_under_a_dek_that_nothing_proves_is_not_sealed_again() {
    let bench = Bench::start();
    let mut sidecar = Sidecar::claim(&bench).await;
    let row = sidecar.seal_with_new_dek("default").await;
    let created = sidecar.create("default", 1).await;
    let other = Bench::start_like(&bench);
    let mut sidecar = Sidecar::claim(&other).await;
    sidecar.seal_with_new_dek("default").await;
    let unproven = DekRow { birth_document: Bytes::new(), ..row };
    let reply = sidecar.exchange(unlock(&unproven, false)).await;
    assert_eq!(reply.provenance(), DekProvenance::Unproven);
    assert_eq!(reseal(&mut sidecar, 1, &created.blob).await.error(), ErrorCode::DekMismatch);
    assert_eq!(sign(&mut sidecar, &created.blob).await, ErrorCode::Ok, "it signs");
}

#[tokio::test]
async fn blobs_that_do_not_open_are_not_sealed_again() {
    let bench = Bench::start();
    let (mut sidecar, created, _) = with_old_key(&bench).await;
    assert_eq!(reseal(&mut sidecar, 2, &created.blob).await.error(), ErrorCode::InvalidKey);
    let empty = reseal(&mut sidecar, 1, &Bytes::new()).await;
    assert_eq!(empty.error(), ErrorCode::InvalidArgument);
    let mut changed = created.blob.to_vec();
    *changed.last_mut().unwrap() ^= 1;
    let refused = reseal(&mut sidecar, 1, &changed.into()).await;
    assert_eq!((refused.error(), refused.blob.len()), (ErrorCode::InvalidKey, 0));
}

#[tokio::test]
async fn a_forced_refresh_opens_a_cached_key_again_and_is_counted() {
    let bench = Bench::start();
    let (mut sidecar, created, _) = with_old_key(&bench).await;
    assert_eq!(force_refresh(&mut sidecar, 1).await, ErrorCode::BlobRequired);
    assert_eq!(sign(&mut sidecar, &created.blob).await, ErrorCode::Ok);
    let before = counted(&mut sidecar).await;
    // Within the millisecond of the first opening there is nothing to do.
    while counted(&mut sidecar).await.rehydrated == before.rehydrated {
        assert_eq!(force_refresh(&mut sidecar, 1).await, ErrorCode::Ok);
    }
    let after = counted(&mut sidecar).await;
    assert_eq!((before.rehydrated, after.rehydrated, after.rehydrate_failed), (1, 2, 0));
    let latency = after.rehydrate_latency_us.unwrap();
    assert_eq!(latency.counts.len(), latency.upper_bounds.len() + 1);
    assert!(latency.counts.iter().sum::<u64>() == 2 && latency.sum > 0);
}

#[tokio::test]
async fn settings_are_taken_whole_or_not_at_all() {
    let bench = Bench::start_with(Ceilings { key_uses: 500, ..Ceilings::default() });
    let (mut sidecar, created, _) = with_old_key(&bench).await;
    let before = state(&mut sidecar).await.settings.unwrap();
    assert_eq!((before.key_uses, before.low_water_uses), (500, 250), "the pins are lower");
    assert_eq!((before.key_soft_ttl_ms, before.key_hard_ttl_ms), (900_000, 960_000));
    let wanted = CacheSettings { key_uses: 501, key_soft_ttl_ms: 1_000, ..before };
    let wanted = CacheSettings { prefetch_window_ms: 0, ..wanted };
    let refused = sidecar.client.configure(wanted).await.unwrap().into_inner();
    assert_eq!((refused.error(), refused.refused_field), (ErrorCode::InvalidArgument, 3));
    assert_eq!(refused.in_force, Some(before));
    let wanted = CacheSettings { key_uses: 2, low_water_uses: 0, ..wanted };
    let taken = sidecar.client.configure(wanted).await.unwrap().into_inner();
    assert_eq!((taken.error(), taken.in_force), (ErrorCode::Ok, Some(wanted)));
    assert_eq!(state(&mut sidecar).await.settings, Some(wanted));

    let opened = counted(&mut sidecar).await.rehydrated;
    for _ in 0..6 {
        assert_eq!(sign(&mut sidecar, &created.blob).await, ErrorCode::Ok);
    }
    assert_eq!(counted(&mut sidecar).await.rehydrated - opened, 3, "two uses each");
}

#[tokio::test]
async fn a_lower_lifetime_of_deks_holds_for_those_that_are_unlocked() {
    let bench = Bench::start();
    let (mut sidecar, created, _) = with_old_key(&bench).await;
    assert_eq!(sign(&mut sidecar, &created.blob).await, ErrorCode::Ok);
    let before = state(&mut sidecar).await;
    assert!(before.deks.iter().all(|dek| dek.valid_for_ms > 3_000_000), "{before:?}");
    let lower = CacheSettings { dek_hard_ttl_ms: 1_500, ..before.settings.unwrap() };
    let refused = CacheSettings { key_uses: 0, ..lower };
    sidecar.client.configure(refused).await.unwrap();
    let unchanged = state(&mut sidecar).await;
    assert!(unchanged.deks.iter().all(|dek| dek.valid_for_ms > 3_000_000), "{unchanged:?}");
    let taken = sidecar.client.configure(lower).await.unwrap().into_inner();
    assert_eq!(taken.error(), ErrorCode::Ok);
    let lowered = state(&mut sidecar).await;
    assert!(lowered.deks.iter().all(|dek| dek.valid_for_ms <= 1_500), "{lowered:?}");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while sign(&mut sidecar, &created.blob).await != ErrorCode::UnlockRequired {
        assert!(std::time::Instant::now() < deadline, "the DEK ends after a second and a half");
    }
}

#[tokio::test]
async fn a_key_past_its_soft_limit_signs_and_is_refreshed_between_batches() {
    let bench = Bench::start();
    let (mut sidecar, created, _) = with_old_key(&bench).await;
    let before = state(&mut sidecar).await.settings.unwrap();
    let soft = CacheSettings {
        key_soft_ttl_ms: 1,
        prefetch_window_ms: 0,
        prefetch_in_flight: 0,
        ..before
    };
    let taken = sidecar.client.configure(soft).await.unwrap().into_inner();
    assert_eq!(taken.error(), ErrorCode::Ok);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while counted(&mut sidecar).await.rehydrated < 3 {
        assert_eq!(sign(&mut sidecar, &created.blob).await, ErrorCode::Ok);
        assert!(std::time::Instant::now() < deadline, "no refresh comes");
    }
}
