//! What fails around an enclave that runs: the NSM, the tunnel, a DEK that ends under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sigil_enclave::nsm::{DocumentRequest, Nsm, NsmError};
use sigil_enclave::secret::Secret32;
use sigil_enclave_image::pins::Ceilings;
use sigil_enclave_insecure::nsm::{SoftwareNsm, system_clock};
use sigil_enclave_protocol::v1::{AttestRequest, ErrorCode, HealthRequest, StateRequest};
use sigil_image_authoring::measure::process;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use crate::bench::{Bench, EXECUTABLE, verified};
use crate::sidecar::{Sidecar, generate, item, unlock};

/// Far above the life of the DEK of a test.
const PATIENCE: Duration = Duration::from_mins(1);

/// Refuses while the flag is set.
struct Refusing(Arc<dyn Nsm>, Arc<AtomicBool>);

impl Nsm for Refusing {
    fn document(&self, request: DocumentRequest<'_>) -> Result<Vec<u8>, NsmError> {
        if self.1.load(Ordering::Relaxed) {
            return Err(NsmError("no document".into()));
        }
        self.0.document(request)
    }

    fn entropy(&self) -> Result<Secret32, NsmError> {
        if self.1.load(Ordering::Relaxed) {
            return Err(NsmError("no entropy".into()));
        }
        self.0.entropy()
    }
}

#[tokio::test]
async fn an_nsm_that_refuses_later_stops_unlocks_and_no_signature() {
    let refuses = Arc::new(AtomicBool::new(false));
    let bench = Bench::start_parts(|parts| {
        parts.nsm = Arc::new(Refusing(Arc::clone(&parts.nsm), Arc::clone(&refuses)));
    });
    let mut sidecar = Sidecar::claim(&bench).await;
    let row = sidecar.seal_with_new_dek("default").await;
    let begun = sidecar.begin(generate("default")).await;
    let blob = sidecar.create("default", 1).await.blob;
    refuses.store(true, Ordering::Relaxed);
    let nonce = Bytes::from_static(&[3; 32]);
    let attested = sidecar.client.attest(AttestRequest { nonce: nonce.clone() }).await;
    assert_eq!(attested.unwrap().into_inner().error(), ErrorCode::AttestationFailed);
    assert_eq!(sidecar.begin(unlock(&row, true)).await.error(), ErrorCode::AttestationFailed);
    // KMS makes a DEK; without a birth document its row is of no use, so none is given out.
    let tunnel = sidecar.tunnel(&begun.unlock_id).await.unwrap();
    let pipe = bench.kms.pipe(tunnel).await;
    let made = sidecar.authorize(&begun).await;
    assert_eq!((made.error(), made.generated), (ErrorCode::AttestationFailed, None));
    pipe.abort();
    let signed = sidecar.sign(item("default", 1, &[7; 32], &blob)).await;
    assert_eq!(signed.error(), ErrorCode::Ok, "what is unlocked signs on");
    let health = sidecar.client.health(HealthRequest {}).await.unwrap().into_inner();
    assert!(health.documents_verify, "they did");
    refuses.store(false, Ordering::Relaxed);
    assert_eq!(sidecar.unlock(&row).await.error(), ErrorCode::Ok, "and no restart is needed");
}

/// The module's clock jumps back, by less than what makes KMS refuse a document as too old. Time stands still then and does not go back: what is
/// bound to it, a new document, an unlock, statements, goes on, and nothing gets longer to live.
#[tokio::test]
async fn a_module_whose_clock_goes_back_stops_nothing_and_prolongs_nothing() {
    const HOUR_MS: u64 = 3_600_000;
    const BACK_MS: u64 = 180_000;
    let back_ms = Arc::new(AtomicU64::new(0));
    let bench = Bench::start_parts(|parts| {
        let (back_ms, clock) = (Arc::clone(&back_ms), system_clock());
        let clock = Arc::new(move || clock() - back_ms.load(Ordering::Relaxed));
        let pcrs = process(EXECUTABLE, &parts.pins);
        parts.nsm = Arc::new(SoftwareNsm::with_pcrs(pcrs, clock).unwrap());
    });
    let mut sidecar = Sidecar::claim(&bench).await;
    let row = sidecar.seal_with_new_dek("default").await;
    let first = sidecar.create("default", 1).await;
    let before_ms = verified(&bench, first.birth.unwrap()).time_ms;
    let [left] = lefts(&mut sidecar).await.try_into().unwrap();

    back_ms.store(BACK_MS, Ordering::Relaxed);
    // Each asks for a document, whose timestamp the enclave takes over.
    let unlocked = sidecar.unlock(&row).await;
    assert_eq!(unlocked.error(), ErrorCode::Ok);
    assert!(unlocked.valid_for_ms <= HOUR_MS, "an hour from now by a clock of its own");
    let newer = sidecar.seal_with_new_dek("default").await;
    let second = sidecar.create("default", 2).await;
    assert_eq!((second.error(), &second.dek_id), (ErrorCode::Ok, &newer.dek_id));
    let after_ms = verified(&bench, second.birth.unwrap()).time_ms;
    assert!((before_ms..before_ms + BACK_MS).contains(&after_ms), "{before_ms} and {after_ms}");
    let signed = sidecar.sign(item("default", 1, &[7; 32], &first.blob)).await;
    assert_eq!(signed.error(), ErrorCode::Ok);
    for now in lefts(&mut sidecar).await {
        assert!(now <= HOUR_MS && left <= HOUR_MS);
    }
    back_ms.store(0, Ordering::Relaxed);
    assert_eq!(sidecar.unlock(&row).await.error(), ErrorCode::Ok, "and forward again");
}

/// Milliseconds that each unlocked DEK has left.
async fn lefts(sidecar: &mut Sidecar<'_>) -> Vec<u64> {
    let state = sidecar.client.state(StateRequest {}).await.unwrap().into_inner();
    state.deks.iter().map(|dek| dek.valid_for_ms).collect()
}

/// Bytes of one read.
const CHUNK_BYTES: usize = 16 * 1024;

/// Copies `to_kms` and `to_enclave` bytes at most, then closes both.
async fn pipe_cut(mut enclave: UnixStream, mut kms: TcpStream, to_kms: usize, to_enclave: usize) {
    let (mut out, mut back) = ([0; CHUNK_BYTES], [0; CHUNK_BYTES]);
    let (mut sent, mut received) = (0, 0);
    while sent < to_kms && received < to_enclave {
        tokio::select! {
            read = enclave.read(&mut out[..CHUNK_BYTES.min(to_kms - sent)]) => match read {
                Ok(count) if count > 0 => {
                    kms.write_all(&out[..count]).await.unwrap();
                    sent += count;
                }
                _ => return,
            },
            read = kms.read(&mut back[..CHUNK_BYTES.min(to_enclave - received)]) => match read {
                Ok(count) if count > 0 => {
                    if enclave.write_all(&back[..count]).await.is_err() {
                        return;
                    }
                    received += count;
                }
                _ => return,
            },
        }
    }
}

/// Before anything, within a record's head, the hello, the certificate, the request, the answer.
#[tokio::test]
async fn a_tunnel_that_is_cut_anywhere_unlocks_nothing_and_the_next_one_does() {
    const ALL: usize = usize::MAX;
    let bench = Bench::start();
    let mut sidecar = Sidecar::claim(&bench).await;
    let row = sidecar.generate("default").await;
    let cuts = [0, 1, 4, 5, 6, 50, 200, 300, 600, 900, 1_200, 1_800, 2_500]
        .into_iter()
        .flat_map(|bytes| [(bytes, ALL), (ALL, bytes)]);
    for (to_kms, to_enclave) in cuts {
        let begun = sidecar.begin(unlock(&row, true)).await;
        let tunnel = sidecar.tunnel(&begun.unlock_id).await.unwrap();
        let kms = bench.kms.connect().await;
        let pipe = tokio::spawn(pipe_cut(tunnel, kms, to_kms, to_enclave));
        let reply = sidecar.authorize(&begun).await;
        let whole = reply.error() == ErrorCode::Ok;
        pipe.await.unwrap();
        let state = sidecar.client.state(StateRequest {}).await.unwrap().into_inner();
        // An answer is shorter than the largest cuts; all else must have been too short.
        if whole {
            assert!(to_kms.min(to_enclave) >= 1_200, "{to_kms} and {to_enclave} bytes");
            continue;
        }
        assert_eq!(reply.error(), ErrorCode::KmsUnreachable, "{to_kms} and {to_enclave} bytes");
        if to_kms.min(to_enclave) < 1_200 {
            assert!(state.deks.is_empty());
        }
    }
    assert_eq!(sidecar.unlock(&row).await.error(), ErrorCode::Ok);
}

/// Batches go on while a DEK ends: each item is signed or asks for the unlock, and after the first
/// that asks, none is signed.
#[tokio::test]
async fn a_dek_that_ends_under_load_ends_it_for_every_later_signature() {
    let ceilings = Ceilings { dek_soft_s: 1, dek_hard_s: 3, ..Ceilings::default() };
    let bench = Bench::start_with(ceilings);
    let mut sidecar = Sidecar::claim(&bench).await;
    let row = sidecar.seal_with_new_dek("default").await;
    let blob = sidecar.create("default", 1).await.blob;
    let deadline = Instant::now() + PATIENCE;
    let (mut signed, mut refused) = (0_usize, 0_usize);
    while refused < 96 {
        assert!(Instant::now() < deadline, "the DEK ends after three seconds");
        let items = vec![item("default", 1, &[7; 32], &blob); 32];
        for result in sidecar.sign_batch(items).await.results {
            match result.error() {
                ErrorCode::Ok => {
                    assert_eq!((result.signature.len(), refused), (64, 0));
                    signed += 1;
                }
                ErrorCode::UnlockRequired => {
                    assert_eq!((result.dek_id, result.signature.len()), (row.dek_id.clone(), 0));
                    refused += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(signed > 0);
}
