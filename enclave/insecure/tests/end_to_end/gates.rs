//! What is refused while the enclave is drained or without the right random source goes on nowhere
//! else: the workers refresh no key behind the callers' backs, and nobody has one proved.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sigil_enclave::rng::RngSource;
use sigil_enclave_protocol::v1::{
    CacheSettings, DrainRequest, ErrorCode, ForceRefreshRequest, KeyspaceStats, ProveRequest,
    StateRequest, StatsRequest,
};
use tokio::time::Instant;

use crate::bench::Bench;
use crate::sidecar::{Sidecar, item};

/// Far above a few sweeps on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between opening a key and using it last. The prefetcher wants a key that is old and in use, and
/// looks once a second: so it has three times to see this one.
const IN_USE_MS: u64 = 3_000;
/// Until the key is old enough, from the moment at which the gate is closed.
const MARGIN_MS: u64 = 500;

/// Milliseconds since the enclave's start, by its own clock, and what it counted.
async fn counted(sidecar: &mut Sidecar<'_>) -> (u64, KeyspaceStats) {
    let reply = sidecar.client.stats(StatsRequest {}).await.unwrap().into_inner();
    let mut rows = reply.keyspaces.into_iter();
    let row = rows.find(|row| row.keyspace == "default").unwrap_or_default();
    (reply.uptime_us / 1_000, row)
}

async fn until(
    sidecar: &mut Sidecar<'_>,
    what: &str,
    wanted: impl Fn(u64, &KeyspaceStats) -> bool,
) -> KeyspaceStats {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (now_ms, counted) = counted(sidecar).await;
        if wanted(now_ms, &counted) {
            return counted;
        }
        assert!(Instant::now() < deadline, "not {what}: {counted:?}");
    }
}

async fn prove(sidecar: &mut Sidecar<'_>) -> ErrorCode {
    let key_id = Bytes::from_static(&[1; 16]);
    let nonce = Bytes::from_static(b"nonce");
    let request = ProveRequest { keyspace: "default".into(), key_id, nonce };
    let proved = sidecar.client.prove(request).await.unwrap().into_inner();
    assert_eq!(proved.possession.is_some(), proved.error() == ErrorCode::Ok);
    proved.error()
}

async fn force_refresh(sidecar: &mut Sidecar<'_>) -> ErrorCode {
    let key_id = Bytes::from_static(&[1; 16]);
    let request = ForceRefreshRequest { keyspace: "default".into(), key_id };
    sidecar.client.force_refresh(request).await.unwrap().into_inner().error()
}

/// The same history with an open gate, first: there the key is opened again.
#[tokio::test]
async fn nothing_is_opened_behind_a_closed_gate() {
    static CHANGED: AtomicBool = AtomicBool::new(false);
    let rng_source =
        || if CHANGED.load(Ordering::Relaxed) { RngSource::Other } else { RngSource::Software };
    for code in [ErrorCode::Ok, ErrorCode::Draining, ErrorCode::RngUnhealthy] {
        let bench = Bench::start_parts(|parts| parts.rng_source = rng_source);
        let mut sidecar = Sidecar::claim(&bench).await;
        sidecar.seal_with_new_dek("default").await;
        let blob = sidecar.create("default", 1).await.blob;
        let (before_ms, _) = counted(&mut sidecar).await;
        let signed = sidecar.sign(item("default", 1, &[7; 32], &blob)).await;
        assert_eq!(signed.error(), ErrorCode::Ok);
        let (opened_ms, _) = counted(&mut sidecar).await;
        until(&mut sidecar, "older", |now_ms, _| now_ms >= opened_ms + IN_USE_MS).await;
        assert_eq!(prove(&mut sidecar).await, ErrorCode::Ok, "which uses it");

        match code {
            ErrorCode::Ok => {}
            ErrorCode::Draining => drop(sidecar.client.drain(DrainRequest {}).await.unwrap()),
            _ => CHANGED.store(true, Ordering::Relaxed),
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            sidecar.client = Sidecar::client(&bench, &sidecar.token).await.unwrap();
            if prove(&mut sidecar).await == code {
                break;
            }
            assert!(Instant::now() < deadline, "the gate is not closed");
        }
        if code != ErrorCode::Ok {
            assert_eq!(force_refresh(&mut sidecar).await, code);
        }
        let reply = sidecar.client.state(StateRequest {}).await.unwrap().into_inner();
        let (now_ms, closed) = counted(&mut sidecar).await;
        let window = now_ms - before_ms + MARGIN_MS;
        let settings = CacheSettings {
            key_soft_ttl_ms: 2 * window,
            prefetch_window_ms: window,
            prefetch_jitter_percent: 0,
            ..reply.settings.unwrap()
        };
        let taken = sidecar.client.configure(settings).await.unwrap().into_inner();
        assert_eq!(taken.error(), ErrorCode::Ok);
        let triggered = |_, counted: &KeyspaceStats| counted.prefetch_triggered == 1;
        until(&mut sidecar, "due", triggered).await;
        if code == ErrorCode::Ok {
            let opened = |_, counted: &KeyspaceStats| counted.rehydrated == closed.rehydrated + 1;
            until(&mut sidecar, "opened again", opened).await;
            continue;
        }
        // Both workers have had their turn since.
        for _ in 0..4 {
            sidecar.client = Sidecar::client(&bench, &sidecar.token).await.unwrap();
            let (_, after) = counted(&mut sidecar).await;
            assert_eq!(after.rehydrated, closed.rehydrated, "{code:?}");
        }
    }
}
