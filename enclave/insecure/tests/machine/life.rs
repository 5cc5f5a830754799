//! The whole life of a key in a booted image.

use bytes::Bytes;
use k256::ecdsa::signature::hazmat::PrehashVerifier;
use k256::ecdsa::{Signature, VerifyingKey};
use sigil_enclave_client::connect::HandshakeError;
use sigil_enclave_protocol::handshake::Refusal;
use sigil_enclave_protocol::v1::{
    ActivateRequest, AttestRequest, CreateReply, ErrorCode, HealthReply, HealthRequest, SignResult,
};
use sigil_verifier::{UserData, verify_live};

use crate::bench::{Bench, CPUS_VARIABLE, attestation_root, number, verified};
use crate::sidecar::{Sidecar, item};

pub(crate) async fn health(sidecar: &mut Sidecar<'_>) -> HealthReply {
    sidecar.client.health(HealthRequest {}).await.unwrap().into_inner()
}

pub(crate) async fn activate(sidecar: &mut Sidecar<'_>, key_id: u8, created: &CreateReply) {
    let request = ActivateRequest {
        keyspace: "default".into(),
        key_id: Bytes::copy_from_slice(&[key_id; 16]),
        blob: created.blob.clone(),
    };
    let reply = sidecar.client.activate(request).await.unwrap().into_inner();
    assert_eq!((reply.error(), reply.public_key), (ErrorCode::Ok, created.public_key.clone()));
}

pub(crate) fn assert_signed(result: &SignResult, public_key: &[u8], digest: &[u8; 32]) {
    assert_eq!(result.error(), ErrorCode::Ok);
    let signature = Signature::from_slice(&result.signature).unwrap();
    let key = VerifyingKey::from_sec1_bytes(public_key).unwrap();
    key.verify_prehash(digest, &signature).unwrap();
}

#[tokio::test]
async fn a_key_lives_in_a_booted_image_and_outlives_the_machine() {
    let bench = Bench::boot().await;
    let mut sidecar = Sidecar::claim(&bench).await;
    bench.says("listening, ").await;
    bench.says("heartbeat answered").await;
    let before = health(&mut sidecar).await;
    assert!(before.insecure && before.documents_verify);
    assert_eq!(before.rng_current, "nsm-hwrng");
    assert_eq!(before.workers, u32::from(number(CPUS_VARIABLE)), "one a virtual CPU");

    // The registers of QEMU's NSM are those that were computed from the file.
    let nonce = [5; 32];
    let request = AttestRequest { nonce: Bytes::copy_from_slice(&nonce) };
    let reply = sidecar.client.attest(request).await.unwrap().into_inner();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now_ms = u64::try_from(now.as_millis()).unwrap();
    let document =
        verify_live(&reply.document, &attestation_root(), now_ms, &nonce, 60_000).unwrap();
    assert!(bench.allow_list().allows(&document.pcrs));
    assert_eq!(document.pcr(3), Some(bench.pcrs.pcr3));
    let boot_id = before.boot_id.as_ref().try_into().unwrap();
    assert_eq!(document.user_data().unwrap(), UserData::Live { boot_id });

    let row = sidecar.seal_with_new_dek("default").await;
    let created = sidecar.create("default", 1).await;
    let birth = verified(&bench, created.birth.clone().unwrap());
    assert_eq!(birth.key_birth_pcr0, bench.pcrs.pcr0);
    activate(&mut sidecar, 1, &created).await;
    let signed = sidecar.sign(item("default", 1, &[9; 32], b"")).await;
    assert_signed(&signed, &created.public_key, &[9; 32]);

    // Power off. What is left is ciphertext.
    let token = sidecar.token.clone();
    drop(sidecar);
    let bench = bench.reboot().await;
    drop(bench.connect().await);
    let stale = Sidecar::client(&bench, &token).await.err();
    assert!(
        matches!(stale, Some(HandshakeError::Refused(Refusal::NotClaimed))),
        "the claim of another boot is worth nothing: {stale:?}"
    );
    let mut sidecar = Sidecar::claim(&bench).await;
    assert_ne!(health(&mut sidecar).await.boot_id, before.boot_id);
    let locked = sidecar.sign(item("default", 1, &[9; 32], &created.blob)).await;
    assert_eq!((locked.error(), &locked.dek_id), (ErrorCode::UnlockRequired, &row.dek_id));
    let unlocked = sidecar.unlock(&row).await;
    assert!(unlocked.error() == ErrorCode::Ok && unlocked.sealing, "born in this very image");
    let again = sidecar.sign(item("default", 1, &[9; 32], &created.blob)).await;
    assert_eq!(again.signature, signed.signature, "RFC 6979");
}
