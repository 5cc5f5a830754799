//! What does not boot, and what a booted image is refused.

use std::sync::Arc;

use bytes::Bytes;
use sigil_enclave_image::pins::Ceilings;
use sigil_enclave_protocol::v1::{AttestRequest, ErrorCode};
use sigil_launcher::supervisor::{Boot, Launch};
use sigil_verifier::{DocumentError, TrustRoot, VerifyError, VerifyTime, verify};

use crate::bench::{Bench, PATIENCE, Setup, development_image, part, production_image, settings};
use crate::kms::Kms;
use crate::life::health;
use crate::sidecar::{Sidecar, generate};

#[tokio::test]
async fn another_images_measurement_is_denied_by_the_key_policy() {
    let bench = Bench::boot().await;
    let mut sidecar = Sidecar::claim(&bench).await;
    let row = sidecar.seal_with_new_dek("default").await;
    drop(sidecar);
    let kms = Arc::clone(&bench.kms);
    drop(bench);

    // The same code with other pins is another image: PCR1 stays, PCR0 and PCR2 do not.
    let ceilings = Ceilings { key_uses: 7, ..Ceilings::default() };
    let other = Bench::boot_image(&kms, &development_image(&kms, ceilings), "").await;
    let mut sidecar = Sidecar::claim(&other).await;
    assert_eq!(sidecar.unlock(&row).await.error(), ErrorCode::KmsDenied);
    assert_eq!(sidecar.exchange(generate("default")).await.error(), ErrorCode::KmsDenied);
    kms.allow_also(&other.pcrs);
    let unlocked = sidecar.unlock(&row).await;
    assert_eq!(unlocked.error(), ErrorCode::Ok);
    assert!(!unlocked.sealing, "a DEK of another image opens and does not seal");
}

/// It runs for the first time where it cannot do harm: QEMU's NSM signs nothing, so nobody who
/// checks believes a word of it, and neither does the image itself.
#[tokio::test]
async fn the_production_image_boots_and_its_unsigned_document_is_refused() {
    let kms = Arc::new(Kms::start());
    let bench = Bench::boot_image(&kms, &production_image(&kms), "").await;
    kms.allow_also(&bench.pcrs);
    let mut sidecar = Sidecar::claim(&bench).await;
    bench.says("sigil-enclave: listening, ").await;
    bench.says("heartbeat answered").await;
    bench.says("documents do not verify against the pinned attestation root").await;

    let health = health(&mut sidecar).await;
    assert!(!health.insecure && !health.documents_verify);
    assert_eq!((health.rng_current.as_str(), health.app.as_str()), ("nsm-hwrng", "sigil-test"));
    let nonce = Bytes::from_static(&[3; 32]);
    let reply = sidecar.client.attest(AttestRequest { nonce }).await.unwrap().into_inner();
    assert_eq!(reply.error(), ErrorCode::Ok);
    let holds = |bytes: &[u8]| reply.document.windows(bytes.len()).any(|part| part == bytes);
    assert!(holds(&bench.pcrs.pcr0) && holds(&[3; 32]), "the registers and the nonce are right");
    let refused = verify(&reply.document, &TrustRoot::aws(), VerifyTime::AtDocument);
    assert_eq!(refused, Err(VerifyError::Document(DocumentError::Algorithm)));
    assert_eq!(sidecar.begin(generate("default")).await.error(), ErrorCode::AttestationFailed);
}

#[tokio::test]
async fn another_random_source_refuses_to_boot_and_says_so() {
    let kms = Arc::new(Kms::start());
    let pinned = development_image(&kms, Ceilings::default());
    let mut bench = Bench::boot_image(&kms, &pinned, "sigil.test_rng=other").await;
    bench.says("the kernel's current random source is not nsm-hwrng").await;
    bench.ended().await;
    assert!(!bench.console().contains("listen"), "{}", bench.console());
}

#[tokio::test]
async fn an_image_without_pins_ends_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let base = std::fs::read(part("SIGIL_TEST_EIF_PRODUCTION")).unwrap();
    let settings = settings(folder.path(), &base, "");
    let mut machine = settings.start().await.unwrap();
    let how = tokio::time::timeout(PATIENCE, machine.ended()).await.expect("it ends by itself");
    assert!(how.contains("sigil-enclave: /pins.cbor: No such file"), "{how}");
}

#[tokio::test]
async fn a_machine_without_a_console_boots_all_the_same() {
    // No serial port, as in an enclave that is not in debug mode: init starts without open files.
    let append = "8250.nr_uarts=0";
    let bench = Bench::boot_with(&Setup { append, ..Setup::default() }).await;
    let mut sidecar = Sidecar::claim(&bench).await;
    assert!(health(&mut sidecar).await.documents_verify);
    assert!(!bench.console().contains("sigil-enclave"), "{}", bench.console());
}
