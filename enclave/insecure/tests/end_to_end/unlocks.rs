//! Unlocking: what the enclave writes, what it accepts, and what it never takes for a DEK.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use devkms::{FaultMode, KNOWN_DEK};
use sigil_enclave::names::Keyspace;
use sigil_enclave::nsm::{DocumentRequest, Nsm, NsmError};
use sigil_enclave::seal::Header;
use sigil_enclave::secret::Secret32;
use sigil_enclave_protocol::bounds::UNLOCKS_OPEN_MAX;
use sigil_enclave_protocol::v1::unlock_begin_request::What;
use sigil_enclave_protocol::v1::{
    ActivateRequest, DekProvenance, DekRow, ErrorCode, GenerateDek, KmsRequest, ProveRequest,
    StateRequest, UnlockAuthorizeReply, UnlockBeginRequest,
};
use sigil_image_authoring::measure::ProcessPcrs;
use sigil_verifier::{Provenance, Statement};

use crate::bench::{Bench, verified};
use crate::sidecar::{Sidecar, generate, item, sign_request, unlock};

/// The public key of the scalar 1.
const GENERATOR: &str = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";

/// No DEK came in, neither for sealing nor for opening.
async fn assert_nothing_unlocked(sidecar: &mut Sidecar<'_>) {
    let state = sidecar.client.state(StateRequest {}).await.unwrap().into_inner();
    assert!(state.deks.is_empty(), "{:?}", state.deks);
    assert_eq!(sidecar.create("default", 1).await.error(), ErrorCode::UnlockRequired);
}

/// With the test KMS in `mode`, a row is not unlocked; honest again, it is, without a restart.
async fn assert_unlock_refused(mode: FaultMode, code: ErrorCode) -> UnlockAuthorizeReply {
    let bench = Bench::start();
    let mut sidecar = Sidecar::claim(&bench).await;
    let row = sidecar.generate("default").await;
    bench.kms.set(mode);
    let reply = sidecar.exchange(unlock(&row, true)).await;
    assert_eq!(reply.error(), code, "{mode}");
    assert_nothing_unlocked(&mut sidecar).await;
    bench.kms.set(FaultMode::Off);
    sidecar.exchange(unlock(&row, true)).await;
    assert_eq!(sidecar.create("default", 1).await.error(), ErrorCode::Ok);
    reply
}

/// The request with one thing changed before it is signed: KMS refuses, because the enclave sends
/// what it wrote and not what was signed.
async fn assert_own_request_is_sent(change: impl FnOnce(&Bench, &mut KmsRequest)) {
    let bench = Bench::start();
    let mut sidecar = Sidecar::claim(&bench).await;
    let row = sidecar.generate("default").await;
    let mut begun = sidecar.begin(unlock(&row, true)).await;
    let original = begun.request.clone();
    change(&bench, begun.request.as_mut().unwrap());
    assert_ne!(begun.request, original, "the change changes something");
    let _pipe = bench.kms.pipe(sidecar.tunnel(&begun.unlock_id).await.unwrap()).await;
    let reply = sidecar.authorize(&begun).await;
    assert_eq!(reply.error(), ErrorCode::KmsError);
    assert_eq!(reply.aws_error_code, "InvalidSignatureException");
    assert_nothing_unlocked(&mut sidecar).await;
}

#[tokio::test]
async fn another_action_signed_for_is_refused() {
    assert_own_request_is_sent(|_, request| {
        request.target = "TrentService.GenerateDataKey".into();
    })
    .await;
}

#[tokio::test]
async fn another_arn_in_the_signed_request_is_refused() {
    assert_own_request_is_sent(|bench, request| {
        let body = String::from_utf8(request.body.to_vec()).unwrap();
        request.body = body.replace(&request.kms_key_arn, &bench.kms.other_key()).into();
    })
    .await;
}

#[tokio::test]
async fn another_context_field_in_the_signed_request_is_refused() {
    assert_own_request_is_sent(|_, request| {
        let body = String::from_utf8(request.body.to_vec()).unwrap();
        request.body = body.replace("\"default\"", "\"default-2\"").into();
    })
    .await;
}

#[tokio::test]
async fn an_arn_that_is_not_pinned_is_refused() {
    let bench = Bench::start();
    let mut sidecar = Sidecar::claim(&bench).await;
    let row = sidecar.generate("default").await;
    let other = bench.kms.other_key();
    let foreign = DekRow { kms_key_arn: other.clone(), ..row };
    let begun = sidecar.begin(unlock(&foreign, true)).await;
    assert_eq!(begun.error(), ErrorCode::KeyspaceNotPinned);
    assert!(begun.request.is_none());
    let asked = GenerateDek { keyspace: "default".into(), kms_key_arn: other };
    let request = UnlockBeginRequest { what: Some(What::Generate(asked)), current: false };
    assert_eq!(sidecar.begin(request).await.error(), ErrorCode::KeyspaceNotPinned);
}

#[tokio::test]
async fn a_keyspace_that_is_not_pinned_is_refused() {
    let bench = Bench::start();
    let mut sidecar = Sidecar::claim(&bench).await;
    assert_eq!(sidecar.begin(generate("other")).await.error(), ErrorCode::KeyspaceNotPinned);
}

#[tokio::test]
async fn a_row_under_another_context_field_is_refused() {
    let bench = Bench::start();
    let mut sidecar = Sidecar::claim(&bench).await;
    let row = sidecar.generate("default").await;
    for changed in [
        DekRow { dek_id: Bytes::from_static(&[3; 16]), ..row.clone() },
        DekRow { keyspace: "default-2".into(), ..row.clone() },
    ] {
        let reply = sidecar.exchange(unlock(&changed, true)).await;
        assert_eq!(reply.error(), ErrorCode::KmsDenied);
        assert_eq!(reply.aws_error_code, "InvalidCiphertextException");
        assert_nothing_unlocked(&mut sidecar).await;
    }
}

#[tokio::test]
async fn another_arn_in_the_answer_is_refused() {
    assert_unlock_refused(FaultMode::WrongKeyArn, ErrorCode::KmsAnswerRefused).await;
}

#[tokio::test]
async fn plaintext_in_the_answer_is_refused() {
    assert_unlock_refused(FaultMode::PlaintextLeak, ErrorCode::KmsAnswerRefused).await;
}

#[tokio::test]
async fn an_answer_without_envelope_is_refused() {
    assert_unlock_refused(FaultMode::PlaintextOnly, ErrorCode::KmsAnswerRefused).await;
}

#[tokio::test]
async fn an_envelope_with_two_recipients_is_refused() {
    assert_unlock_refused(FaultMode::TwoRecipients, ErrorCode::KmsAnswerRefused).await;
}

#[tokio::test]
async fn a_malformed_answer_is_refused() {
    for mode in [
        FaultMode::WrongSki,
        FaultMode::Truncated,
        FaultMode::BadJson,
        FaultMode::DuplicateJsonKey,
        FaultMode::HugeAnswer,
    ] {
        assert_unlock_refused(mode, ErrorCode::KmsAnswerRefused).await;
    }
}

#[tokio::test]
async fn a_forged_envelope_is_refused_by_the_birth_document() {
    assert_unlock_refused(FaultMode::ForgedEnvelope, ErrorCode::DekMismatch).await;
}

#[tokio::test]
async fn a_peer_that_is_not_the_pinned_host_is_refused() {
    for mode in [
        FaultMode::ExpiredCertificate,
        FaultMode::WrongName,
        FaultMode::OtherRoot,
        FaultMode::CloseInHandshake,
        FaultMode::CutAnswer,
    ] {
        assert_unlock_refused(mode, ErrorCode::KmsUnreachable).await;
    }
}

#[tokio::test]
async fn kms_errors_are_told_apart_and_pass() {
    for (mode, code, status, aws) in [
        (FaultMode::Throttle, ErrorCode::KmsThrottled, 400, "ThrottlingException"),
        (FaultMode::Http500, ErrorCode::KmsError, 500, "KMSInternalException"),
        (FaultMode::Deny, ErrorCode::KmsDenied, 400, "AccessDeniedException"),
    ] {
        let reply = assert_unlock_refused(mode, code).await;
        assert_eq!((reply.http_status, reply.aws_error_code.as_str()), (status, aws));
    }
    assert_unlock_refused(FaultMode::Hang, ErrorCode::KmsTimeout).await;
}

#[tokio::test]
async fn a_foreign_attestation_document_is_refused_by_the_key_policy() {
    let bench = Bench::start();
    bench.kms.allow_only(&ProcessPcrs { pcr0: [9; 48], ..bench.pcrs });
    let mut sidecar = Sidecar::claim(&bench).await;
    let reply = sidecar.exchange(generate("default")).await;
    assert_eq!(reply.error(), ErrorCode::KmsDenied);
    assert_eq!(reply.aws_error_code, "AccessDeniedException");
    assert!(reply.generated.is_none());
}

#[tokio::test]
async fn generation_installs_nothing() {
    let bench = Bench::start();
    let mut sidecar = Sidecar::claim(&bench).await;
    let row = sidecar.generate("default").await;
    assert!(!row.birth_document.is_empty());
    assert_nothing_unlocked(&mut sidecar).await;
}

/// `kms:Encrypt` wraps any DEK under any context. What it cannot make is a birth document.
#[tokio::test]
async fn a_known_dek_wrapped_by_encrypt_never_seals_and_statements_say_so() {
    let bench = Bench::start();
    let mut sidecar = Sidecar::claim(&bench).await;
    let honest = sidecar.seal_with_new_dek("default").await;
    let dek_id = [5; 16];
    let known = DekRow {
        dek_id: Bytes::copy_from_slice(&dek_id),
        wrapped_dek: bench.kms.wrap_known_dek(&dek_id, "default", &KNOWN_DEK).into(),
        birth_document: Bytes::new(),
        ..honest.clone()
    };
    let reply = sidecar.unlock(&known).await;
    assert_eq!((reply.error(), reply.provenance()), (ErrorCode::Ok, DekProvenance::Unproven));
    assert!(!reply.sealing);
    assert_eq!(sidecar.create("default", 1).await.dek_id, honest.dek_id);

    let borrowed = DekRow { birth_document: honest.birth_document, ..known };
    assert_eq!(sidecar.unlock(&borrowed).await.error(), ErrorCode::DekMismatch);
    assert_eq!(sidecar.create("default", 1).await.dek_id, honest.dek_id);

    let statement = possession(&mut sidecar, &blob_of_one(&bench, dek_id)).await;
    assert_eq!(statement.dek_provenance, Provenance::Unproven);
}

/// The scalar 1 under [`KNOWN_DEK`], as if this image had sealed it.
fn blob_of_one(bench: &Bench, dek_id: [u8; 16]) -> Bytes {
    let header = Header {
        app: "sigil-test".into(),
        keyspace: Keyspace::parse("default").unwrap(),
        dek_id,
        key_id: [1; 16],
        public_key: const_hex::decode_to_array(GENERATOR).unwrap(),
        created_ms: 0,
        birth_pcr0: bench.pcr0(),
    };
    let mut one = [0; 32];
    one[31] = 1;
    let scalar = Secret32::copy_from(&one).unwrap();
    header.seal(&Secret32::copy_from(&KNOWN_DEK).unwrap(), &scalar).unwrap().into()
}

#[tokio::test]
async fn a_fake_dek_gives_way_to_the_proved_one_and_its_keys_sign_no_more() {
    let bench = Bench::start();
    let mut sidecar = Sidecar::claim(&bench).await;
    let honest = sidecar.generate("default").await;
    let dek_id: [u8; 16] = honest.dek_id.as_ref().try_into().unwrap();
    let fake = DekRow {
        wrapped_dek: bench.kms.wrap_known_dek(&dek_id, "default", &KNOWN_DEK).into(),
        birth_document: Bytes::new(),
        ..honest.clone()
    };
    assert_eq!(sidecar.unlock(&fake).await.provenance(), DekProvenance::Unproven);
    let blob = blob_of_one(&bench, dek_id);
    let signed = sidecar.sign(item("default", 1, &[7; 32], &blob)).await;
    assert_eq!(signed.error(), ErrorCode::Ok);

    let reply = sidecar.unlock(&honest).await;
    assert_eq!((reply.error(), reply.provenance()), (ErrorCode::Ok, DekProvenance::Born));
    for (blob, code) in [
        (b"".as_slice(), ErrorCode::InvalidKey),
        (b"".as_slice(), ErrorCode::BlobRequired),
        (&blob, ErrorCode::InvalidKey),
    ] {
        let signed = sidecar.sign(item("default", 1, &[7; 32], blob)).await;
        assert_eq!(signed.error(), code);
    }
    assert_eq!(sidecar.create("default", 2).await.error(), ErrorCode::Ok);
    assert_eq!(sidecar.unlock(&fake).await.error(), ErrorCode::DekMismatch);
}

/// The birth document's signature is what counts: a changed byte makes the DEK open-only.
#[tokio::test]
async fn a_forged_birth_document_never_seals() {
    let bench = Bench::start();
    let mut sidecar = Sidecar::claim(&bench).await;
    let row = sidecar.generate("default").await;
    let mut document = row.birth_document.to_vec();
    *document.last_mut().unwrap() ^= 1;
    let forged = DekRow { birth_document: document.into(), ..row };
    let reply = sidecar.unlock(&forged).await;
    assert_eq!((reply.provenance(), reply.sealing), (DekProvenance::Unproven, false));
}

#[tokio::test]
async fn a_dek_that_is_not_current_never_seals() {
    let bench = Bench::start();
    let mut sidecar = Sidecar::claim(&bench).await;
    let row = sidecar.generate("default").await;
    let reply = sidecar.exchange(unlock(&row, false)).await;
    assert_eq!((reply.provenance(), reply.sealing), (DekProvenance::Born, false));
    assert_eq!(sidecar.create("default", 1).await.error(), ErrorCode::UnlockRequired);
}

#[tokio::test]
async fn another_images_dek_opens_and_never_seals_and_statements_say_so() {
    let first = Bench::start();
    let mut sidecar = Sidecar::claim(&first).await;
    let row = sidecar.seal_with_new_dek("default").await;
    let created = sidecar.create("default", 1).await;

    let second = Bench::start_image(b"another executable", &first.kms);
    let mut sidecar = Sidecar::claim(&second).await;
    let reply = sidecar.unlock(&row).await;
    assert_eq!((reply.provenance(), reply.sealing), (DekProvenance::Foreign, false));
    assert_eq!(sidecar.create("default", 2).await.error(), ErrorCode::UnlockRequired);
    let statement = possession(&mut sidecar, &created.blob).await;
    assert_eq!(statement.dek_provenance, Provenance::Foreign);
    assert_eq!(statement.dek_birth_pcr0, first.pcr0());
    assert_eq!(statement.key_birth_pcr0, first.pcr0());
}

#[tokio::test]
async fn statements_under_an_unproven_dek_say_so() {
    let bench = Bench::start();
    let mut sidecar = Sidecar::claim(&bench).await;
    let row = sidecar.seal_with_new_dek("default").await;
    let created = sidecar.create("default", 1).await;

    // The same image after a restart, with a row restored from a key record.
    let restarted = Bench::start_like(&bench);
    let mut sidecar = Sidecar::claim(&restarted).await;
    let restored = DekRow { birth_document: Bytes::new(), ..row };
    assert_eq!(sidecar.unlock(&restored).await.provenance(), DekProvenance::Unproven);
    let statement = possession(&mut sidecar, &created.blob).await;
    assert_eq!(statement.dek_provenance, Provenance::Unproven);
    assert_eq!(statement.dek_birth_pcr0, [0; 48]);
}

async fn possession(sidecar: &mut Sidecar<'_>, blob: &Bytes) -> Statement {
    let key_id = Bytes::from_static(&[1; 16]);
    let (keyspace, blob) = (String::from("default"), blob.clone());
    let request = ActivateRequest { keyspace: keyspace.clone(), key_id: key_id.clone(), blob };
    let reply = sidecar.client.activate(request).await.unwrap().into_inner();
    assert_eq!(reply.error(), ErrorCode::Ok);
    let nonce = Bytes::from_static(b"nonce");
    let request = ProveRequest { keyspace, key_id, nonce };
    let reply = sidecar.client.prove(request).await.unwrap().into_inner();
    verified(sidecar.bench, reply.possession.unwrap())
}

#[tokio::test]
async fn an_unlock_is_used_once() {
    let bench = Bench::start();
    let mut sidecar = Sidecar::claim(&bench).await;
    let begun = sidecar.begin(generate("default")).await;
    let _pipe = bench.kms.pipe(sidecar.tunnel(&begun.unlock_id).await.unwrap()).await;
    assert_eq!(sidecar.authorize(&begun).await.error(), ErrorCode::Ok);
    assert_eq!(sidecar.authorize(&begun).await.error(), ErrorCode::UnlockUnknown);
}

/// Counts what is asked of the module.
struct CountingNsm(Arc<dyn Nsm>, Arc<AtomicUsize>);

impl Nsm for CountingNsm {
    fn document(&self, request: DocumentRequest<'_>) -> Result<Vec<u8>, NsmError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.document(request)
    }

    fn entropy(&self) -> Result<Secret32, NsmError> {
        self.0.entropy()
    }
}

/// The module is one for the whole guest and slow: what is refused does not ask it.
#[tokio::test]
async fn open_unlocks_are_bounded_before_a_document_is_made() {
    let documents = Arc::new(AtomicUsize::new(0));
    let bench = Bench::start_parts(|parts| {
        let nsm = CountingNsm(Arc::clone(&parts.nsm), Arc::clone(&documents));
        parts.nsm = Arc::new(nsm);
    });
    let mut sidecar = Sidecar::claim(&bench).await;
    let at_boot = documents.load(Ordering::Relaxed);
    for _ in 0..UNLOCKS_OPEN_MAX {
        assert_eq!(sidecar.begin(generate("default")).await.error(), ErrorCode::Ok);
    }
    assert_eq!(sidecar.begin(generate("default")).await.error(), ErrorCode::Overloaded);
    assert_eq!(documents.load(Ordering::Relaxed) - at_boot, UNLOCKS_OPEN_MAX);
}

#[tokio::test]
async fn headers_that_are_not_printable_are_refused() {
    let bench = Bench::start();
    let mut sidecar = Sidecar::claim(&bench).await;
    let begun = sidecar.begin(generate("default")).await;
    let mut signed = sign_request(begun.request.as_ref().unwrap(), &begun.unlock_id, &bench.kms);
    signed.authorization.push_str("\r\nx-amz-target: TrentService.Encrypt");
    let reply = sidecar.client.unlock_authorize(signed).await.unwrap().into_inner();
    assert_eq!(reply.error(), ErrorCode::InvalidArgument);
}

#[tokio::test]
async fn a_known_dek_is_never_used_for_a_key() {
    let bench = Bench::start();
    let mut sidecar = Sidecar::claim(&bench).await;
    bench.kms.set(FaultMode::ForgedEnvelope);
    let row = sidecar.generate("default").await;
    bench.kms.set(FaultMode::Off);
    // KMS lied at generation: what it wrapped is not what the birth document commits to.
    assert_eq!(sidecar.unlock(&row).await.error(), ErrorCode::DekMismatch);
    assert_nothing_unlocked(&mut sidecar).await;
    let signed = sidecar.sign(item("default", 1, &KNOWN_DEK, b"")).await;
    assert_eq!(signed.error(), ErrorCode::BlobRequired);
}
