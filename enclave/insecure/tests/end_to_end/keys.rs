//! Keys: what is refused of the requests about them.

use bytes::Bytes;
use sigil_enclave_protocol::bounds::{BATCH_ITEMS_MAX, BLOB_BYTES_MAX};
use sigil_enclave_protocol::v1::{
    ActivateRequest, AttestRequest, CreateReply, CreateRequest, DekProvenance, ErrorCode,
    ForgetRequest, ProveRequest, SignItem,
};

use crate::bench::Bench;
use crate::sidecar::{Sidecar, item, unlock};

const DIGEST: [u8; 32] = [0x42; 32];

async fn activate(sidecar: &mut Sidecar<'_>, keyspace: &str, key_id: u8, blob: &[u8]) -> ErrorCode {
    let request = ActivateRequest {
        keyspace: keyspace.into(),
        key_id: Bytes::copy_from_slice(&[key_id; 16]),
        blob: Bytes::copy_from_slice(blob),
    };
    sidecar.client.activate(request).await.unwrap().into_inner().error()
}

/// Both ways into the cache refuse the blob alike.
async fn assert_refused(
    sidecar: &mut Sidecar<'_>,
    keyspace: &str,
    key_id: u8,
    blob: &[u8],
    code: ErrorCode,
) {
    assert_eq!(activate(sidecar, keyspace, key_id, blob).await, code, "activate");
    let signed = sidecar.sign(item(keyspace, key_id, &DIGEST, blob)).await;
    assert_eq!(signed.error(), code, "sign");
    assert!(signed.signature.is_empty());
}

async fn with_key(bench: &Bench) -> (Sidecar<'_>, CreateReply) {
    let mut sidecar = Sidecar::claim(bench).await;
    sidecar.seal_with_new_dek("default").await;
    let created = sidecar.create("default", 1).await;
    assert_eq!(created.error(), ErrorCode::Ok);
    (sidecar, created)
}

#[tokio::test]
async fn create_without_a_sealing_dek_asks_for_an_unlock() {
    let bench = Bench::start();
    let mut sidecar = Sidecar::claim(&bench).await;
    let created = sidecar.create("default", 1).await;
    assert_eq!(created.error(), ErrorCode::UnlockRequired);
    assert!(created.blob.is_empty() && created.birth.is_none());
}

#[tokio::test]
async fn create_in_a_keyspace_that_is_not_pinned_is_refused() {
    let bench = Bench::start();
    let mut sidecar = Sidecar::claim(&bench).await;
    assert_eq!(sidecar.create("other", 1).await.error(), ErrorCode::KeyspaceNotPinned);
}

#[tokio::test]
async fn a_key_that_is_not_cached_needs_its_blob() {
    let bench = Bench::start();
    let (mut sidecar, created) = with_key(&bench).await;
    let without = sidecar.sign(item("default", 1, &DIGEST, b"")).await;
    assert_eq!(without.error(), ErrorCode::BlobRequired);
    let with = sidecar.sign(item("default", 1, &DIGEST, &created.blob)).await;
    assert_eq!(with.error(), ErrorCode::Ok);
}

#[tokio::test]
async fn blob_under_another_id_is_refused() {
    let bench = Bench::start();
    let (mut sidecar, created) = with_key(&bench).await;
    assert_refused(&mut sidecar, "default", 2, &created.blob, ErrorCode::InvalidKey).await;
}

#[tokio::test]
async fn blob_under_another_keyspace_is_refused() {
    let bench = Bench::start();
    let (mut sidecar, created) = with_key(&bench).await;
    sidecar.seal_with_new_dek("default-2").await;
    assert_refused(&mut sidecar, "default-2", 1, &created.blob, ErrorCode::InvalidKey).await;
}

#[tokio::test]
async fn blob_under_another_dek_is_refused() {
    let bench = Bench::start();
    let (mut sidecar, created) = with_key(&bench).await;
    let other = sidecar.seal_with_new_dek("default").await;
    // The header names the other DEK, which is unlocked: the blob does not open under it.
    let at = find(&created.blob, &created.dek_id);
    let mut blob = created.blob.to_vec();
    blob[at..at + 16].copy_from_slice(&other.dek_id);
    assert_refused(&mut sidecar, "default", 1, &blob, ErrorCode::InvalidKey).await;
}

#[tokio::test]
async fn blob_under_a_locked_dek_asks_for_that_unlock() {
    let bench = Bench::start();
    let (mut sidecar, created) = with_key(&bench).await;
    let at = find(&created.blob, &created.dek_id);
    let mut blob = created.blob.to_vec();
    blob[at..at + 16].copy_from_slice(&[9; 16]);
    let signed = sidecar.sign(item("default", 1, &DIGEST, &blob)).await;
    assert_eq!((signed.error(), &*signed.dek_id), (ErrorCode::UnlockRequired, &[9; 16][..]));
}

#[tokio::test]
async fn blob_with_a_header_byte_flipped_is_refused() {
    let bench = Bench::start();
    let (mut sidecar, created) = with_key(&bench).await;
    let header_bytes = created.blob.len() - 80;
    let dek_at = find(&created.blob, &created.dek_id);
    for at in 0..header_bytes {
        let mut blob = created.blob.to_vec();
        blob[at] ^= 1;
        let code = activate(&mut sidecar, "default", 1, &blob).await;
        // Another DEK's id is refused as one that is not unlocked.
        let wanted = match at.checked_sub(dek_at) {
            Some(0..16) => ErrorCode::UnlockRequired,
            _ => ErrorCode::InvalidKey,
        };
        assert_eq!(code, wanted, "byte {at}");
    }
    assert_eq!(activate(&mut sidecar, "default", 1, &created.blob).await, ErrorCode::Ok);
}

#[tokio::test]
async fn blob_with_a_policy_other_than_0_is_refused() {
    let bench = Bench::start();
    let (mut sidecar, created) = with_key(&bench).await;
    let header_bytes = created.blob.len() - 80;
    let mut blob = created.blob[..header_bytes - 2].to_vec();
    blob.extend_from_slice(&[0, 4, 1, 0, 1, 7]);
    blob.extend_from_slice(&created.blob[header_bytes..]);
    assert_refused(&mut sidecar, "default", 1, &blob, ErrorCode::InvalidKey).await;
}

#[tokio::test]
async fn create_with_a_policy_other_than_0_is_refused() {
    let bench = Bench::start();
    let (mut sidecar, _) = with_key(&bench).await;
    for policy in [&[1_u8, 0, 0][..], &[0, 0, 0], &[9; 1_025]] {
        let request = CreateRequest {
            keyspace: "default".into(),
            key_id: Bytes::from_static(&[2; 16]),
            policy: Bytes::copy_from_slice(policy),
            ..CreateRequest::default()
        };
        let reply = sidecar.client.create(request).await.unwrap().into_inner();
        assert_eq!(reply.error(), ErrorCode::InvalidArgument);
        assert!(reply.blob.is_empty());
    }
}

#[tokio::test]
async fn sign_with_an_authorization_is_refused() {
    let bench = Bench::start();
    let (mut sidecar, created) = with_key(&bench).await;
    let authorization = Bytes::from_static(b"x");
    let wanted = SignItem { authorization, ..item("default", 1, &DIGEST, &created.blob) };
    assert_eq!(sidecar.sign(wanted).await.error(), ErrorCode::InvalidArgument);
}

#[tokio::test]
async fn sign_takes_exactly_32_bytes() {
    let bench = Bench::start();
    let (mut sidecar, created) = with_key(&bench).await;
    for length in [0, 31, 33, 64] {
        let signed = sidecar.sign(item("default", 1, &vec![1; length], &created.blob)).await;
        assert_eq!(signed.error(), ErrorCode::InvalidArgument, "{length} bytes");
        assert!(signed.signature.is_empty() && signed.tag == 7);
    }
}

#[tokio::test]
async fn inputs_out_of_bounds_are_refused() {
    let bench = Bench::start();
    let (mut sidecar, created) = with_key(&bench).await;
    let good = item("default", 1, &DIGEST, &created.blob);
    let key_id = Bytes::from_static(&[1; 15]);
    let blob = Bytes::from(vec![0; BLOB_BYTES_MAX + 1]);
    for bad in [
        SignItem { keyspace: "Default".into(), ..good.clone() },
        SignItem { keyspace: String::new(), ..good.clone() },
        SignItem { key_id, ..good.clone() },
        SignItem { blob, ..good.clone() },
    ] {
        assert_eq!(sidecar.sign(bad).await.error(), ErrorCode::InvalidArgument);
    }
    assert_eq!(activate(&mut sidecar, "default", 1, b"").await, ErrorCode::InvalidArgument);
    for nonce in [0, 65] {
        let request = ProveRequest {
            keyspace: "default".into(),
            key_id: Bytes::from_static(&[1; 16]),
            nonce: vec![1; nonce].into(),
        };
        let reply = sidecar.client.prove(request).await.unwrap().into_inner();
        assert_eq!(reply.error(), ErrorCode::InvalidArgument, "nonce of {nonce}");
    }
    let request = AttestRequest { nonce: Bytes::from_static(&[1; 31]) };
    let reply = sidecar.client.attest(request).await.unwrap().into_inner();
    assert_eq!(reply.error(), ErrorCode::InvalidArgument);
    let request = CreateRequest {
        keyspace: "default".into(),
        key_id: Bytes::from_static(&[2; 16]),
        challenge: vec![0; 65].into(),
        policy: Bytes::new(),
    };
    let reply = sidecar.client.create(request).await.unwrap().into_inner();
    assert_eq!(reply.error(), ErrorCode::InvalidArgument, "challenge");
}

#[tokio::test]
async fn a_batch_over_the_bound_ends_the_stream() {
    let bench = Bench::start();
    let (mut sidecar, created) = with_key(&bench).await;
    let one = item("default", 1, &DIGEST, &created.blob);
    let results = sidecar.sign_batch(vec![one.clone(); BATCH_ITEMS_MAX]).await.results;
    assert!(results.len() == BATCH_ITEMS_MAX && results.iter().all(|r| r.error() == ErrorCode::Ok));
    let too_many = vec![one; BATCH_ITEMS_MAX + 1];
    let batches = tokio_stream::iter([sigil_enclave_protocol::v1::SignBatch { items: too_many }]);
    let mut stream = sidecar.client.sign(batches).await.unwrap().into_inner();
    let status = stream.message().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
}

#[tokio::test]
async fn another_public_key_under_a_cached_id_is_a_conflict() {
    let bench = Bench::start();
    let (mut sidecar, first) = with_key(&bench).await;
    let second = sidecar.create("default", 1).await;
    assert_ne!(first.public_key, second.public_key);
    assert_eq!(activate(&mut sidecar, "default", 1, &first.blob).await, ErrorCode::Ok);
    assert_refused(&mut sidecar, "default", 1, &second.blob, ErrorCode::KeyConflict).await;
    let signed = sidecar.sign(item("default", 1, &DIGEST, b"")).await;
    assert_eq!(signed.public_key, first.public_key);
}

#[tokio::test]
async fn a_forgotten_key_needs_its_blob_again() {
    let bench = Bench::start();
    let (mut sidecar, created) = with_key(&bench).await;
    assert_eq!(activate(&mut sidecar, "default", 1, &created.blob).await, ErrorCode::Ok);
    let forget = ForgetRequest { keyspace: "default".into(), key_id: Bytes::from_static(&[1; 16]) };
    let reply = sidecar.client.forget(forget.clone()).await.unwrap().into_inner();
    assert!(reply.was_cached);
    let reply = sidecar.client.forget(forget).await.unwrap().into_inner();
    assert!(!reply.was_cached);
    let signed = sidecar.sign(item("default", 1, &DIGEST, b"")).await;
    assert_eq!(signed.error(), ErrorCode::BlobRequired);
}

#[tokio::test]
async fn keys_under_an_open_only_dek_still_open() {
    let bench = Bench::start();
    let (mut sidecar, created) = with_key(&bench).await;
    let row = sidecar.generate("default").await;
    let unproven = sigil_enclave_protocol::v1::DekRow { birth_document: Bytes::new(), ..row };
    let reply = sidecar.exchange(unlock(&unproven, true)).await;
    assert_eq!((reply.provenance(), reply.sealing), (DekProvenance::Unproven, false));
    assert_eq!(activate(&mut sidecar, "default", 1, &created.blob).await, ErrorCode::Ok);
}

fn find(haystack: &[u8], needle: &[u8]) -> usize {
    haystack.windows(needle.len()).position(|window| window == needle).unwrap()
}
