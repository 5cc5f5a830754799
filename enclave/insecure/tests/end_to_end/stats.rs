//! What the enclave says about its own work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sigil_enclave::rng::RngSource;
use sigil_enclave_protocol::v1::{
    AttestRequest, ErrorCode, HealthRequest, StateRequest, StatsReply, StatsRequest,
};
use tokio::time::Instant;

use crate::bench::Bench;
use crate::sidecar::{Sidecar, generate, item};

/// Far above a second on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

async fn stats(sidecar: &mut Sidecar<'_>) -> StatsReply {
    let reply = sidecar.client.stats(StatsRequest {}).await.unwrap().into_inner();
    assert_eq!(reply.error(), ErrorCode::Ok);
    reply
}

#[tokio::test]
async fn work_is_counted_where_it_was_done() {
    let bench = Bench::start();
    let mut sidecar = Sidecar::claim(&bench).await;
    let before = stats(&mut sidecar).await;
    assert_eq!(before.workers.len(), 2);
    assert!(before.engine_init_us > 0 && before.secrets < before.secrets_max);
    sidecar.seal_with_new_dek("default").await;
    let blob = sidecar.create("default", 1).await.blob;
    for _ in 0..20 {
        let items = vec![item("default", 1, &[7; 32], &blob); 32];
        sidecar.sign_batch(items).await;
    }
    let deadline = Instant::now() + PATIENCE;
    while stats(&mut sidecar).await.keys_warm != 1 {
        assert!(Instant::now() < deadline, "keys are counted every second");
    }
    let after = stats(&mut sidecar).await;
    assert!(after.uptime_us >= before.uptime_us);
    // One connection, so one worker did it all.
    let (busy, idle): (Vec<_>, Vec<_>) = after.workers.iter().partition(|worker| worker.signed > 0);
    assert_eq!((busy.len(), idle.len()), (1, 1));
    assert_eq!((busy[0].signed, busy[0].refused), (640, 0));
    assert!(busy[0].busy_us > 0 && busy[0].queued_item_us > 0);
    let cpu = busy[0].sign_cpu_us.as_ref().unwrap();
    assert_eq!(cpu.counts.len(), cpu.upper_bounds.len() + 1);
    assert_eq!(cpu.counts.iter().sum::<u64>(), 1, "one batch in sixteen");
    assert!(cpu.sum > 0);
}

/// Row S16a: an enclave whose random source is not the one that it must be serves nothing, and
/// still says why to whoever asks.
#[tokio::test]
async fn with_another_random_source_only_questions_are_answered() {
    static CHANGED: AtomicBool = AtomicBool::new(false);
    let rng_source =
        || if CHANGED.load(Ordering::Relaxed) { RngSource::Other } else { RngSource::Software };
    let bench = Bench::start_parts(|parts| parts.rng_source = rng_source);
    let mut sidecar = Sidecar::claim(&bench).await;
    let row = sidecar.seal_with_new_dek("default").await;
    let blob = sidecar.create("default", 1).await.blob;
    let signed = sidecar.sign(item("default", 1, &[7; 32], &blob)).await;
    assert_eq!(signed.error(), ErrorCode::Ok);

    CHANGED.store(true, Ordering::Relaxed);
    until_rng(&mut sidecar, "other").await;
    let refused = sidecar.sign(item("default", 1, &[7; 32], b"")).await;
    assert_eq!((refused.error(), refused.signature.len()), (ErrorCode::RngUnhealthy, 0));
    let created = sidecar.create("default", 2).await;
    assert_eq!((created.error(), created.blob.len()), (ErrorCode::RngUnhealthy, 0));
    assert_eq!(sidecar.begin(generate("default")).await.error(), ErrorCode::RngUnhealthy);
    let again = crate::sidecar::unlock(&row, true);
    assert_eq!(sidecar.begin(again).await.error(), ErrorCode::RngUnhealthy);
    sidecar.client.state(StateRequest {}).await.unwrap();
    stats(&mut sidecar).await;
    let nonce = bytes::Bytes::from_static(&[3; 32]);
    let attested = sidecar.client.attest(AttestRequest { nonce }).await.unwrap().into_inner();
    assert_eq!(attested.error(), ErrorCode::Ok);

    CHANGED.store(false, Ordering::Relaxed);
    until_rng(&mut sidecar, "software").await;
    let signed = sidecar.sign(item("default", 1, &[7; 32], b"")).await;
    assert_eq!(signed.error(), ErrorCode::Ok, "it is looked at every second, both ways");
}

async fn until_rng(sidecar: &mut Sidecar<'_>, source: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let health = sidecar.client.health(HealthRequest {}).await.unwrap().into_inner();
        if health.rng_current == source {
            return;
        }
        assert!(Instant::now() < deadline, "the random source is looked at every second");
    }
}
