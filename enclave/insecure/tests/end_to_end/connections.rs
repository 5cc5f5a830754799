//! Who may connect.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use sigil_enclave_client::connect::{HandshakeError, claim, connect};
use sigil_enclave_protocol::bounds::STREAMS_PER_CONNECTION_MAX;
use sigil_enclave_protocol::handshake::{ClaimToken, HELLO_BYTES, Purpose, Refusal};
use sigil_enclave_protocol::v1::{HealthRequest, SignBatch};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;

use crate::bench::Bench;
use crate::sidecar::{Sidecar, generate, item};

/// Far above a handshake on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn refusal<T>(result: Result<T, HandshakeError>) -> Refusal {
    match result {
        Err(HandshakeError::Refused(refusal)) => refusal,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted"),
    }
}

#[tokio::test]
async fn unclaimed_connection_is_refused() {
    let bench = Bench::start();
    let token = ClaimToken::new([7; 32]);
    let result = connect(&mut bench.connect().await, Purpose::Rpc, &token).await;
    assert_eq!(refusal(result), Refusal::NotClaimed);
}

#[tokio::test]
async fn second_claim_is_refused() {
    let bench = Bench::start();
    let mut sidecar = Sidecar::claim(&bench).await;
    let second = claim(&mut bench.connect().await).await;
    assert_eq!(refusal(second), Refusal::AlreadyClaimed);
    sidecar.client.health(HealthRequest {}).await.unwrap();
}

#[tokio::test]
async fn wrongly_proved_connection_is_refused() {
    let bench = Bench::start();
    let _sidecar = Sidecar::claim(&bench).await;
    let token = ClaimToken::new([7; 32]);
    for purpose in [Purpose::Rpc, Purpose::Tunnel([1; 16])] {
        let result = connect(&mut bench.connect().await, purpose, &token).await;
        assert_eq!(refusal(result), Refusal::WrongProof, "{purpose:?}");
    }
}

#[tokio::test]
async fn tunnel_without_unlock_is_refused() {
    let bench = Bench::start();
    let mut sidecar = Sidecar::claim(&bench).await;
    assert_eq!(refusal(sidecar.tunnel(&[1; 16]).await), Refusal::UnknownUnlock);
    let begun = sidecar.begin(generate("default")).await;
    let _first = sidecar.tunnel(&begun.unlock_id).await.unwrap();
    let second = sidecar.tunnel(&begun.unlock_id).await;
    assert_eq!(refusal(second), Refusal::UnknownUnlock, "one tunnel an unlock");
}

#[tokio::test]
async fn connections_are_dealt_to_all_workers() {
    let bench = Bench::start();
    let sidecar = Sidecar::claim(&bench).await;
    let mut workers = Vec::new();
    for _ in 0..4 {
        let mut stream = bench.connect().await;
        let accepted = connect(&mut stream, Purpose::Rpc, &sidecar.token).await.unwrap();
        assert_eq!(accepted.worker_count, 2);
        workers.push(accepted.worker_index);
    }
    workers.sort_unstable();
    assert_eq!(workers, [0, 0, 1, 1]);
}

/// The enclave closes what it has no room for, so the sidecar tries again.
async fn until_it_works<T, E: std::fmt::Display>(
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}

#[tokio::test]
async fn a_flood_of_silent_connections_keeps_nobody_out() {
    let bench = Bench::start();
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(bench.connect().await);
    }
    let claimed = async || claim(&mut bench.connect().await).await;
    let (_, token) = until_it_works(claimed).await;
    let mut client = until_it_works(async || Sidecar::client(&bench, &token).await).await;
    client.health(HealthRequest {}).await.unwrap();
    let mut last = Vec::new();
    silent[199].read_to_end(&mut last).await.unwrap();
    assert!(last.len() <= HELLO_BYTES, "closed without a verdict");
}

/// Connects and closes until `stop`, at most 500,000 times. Says whether it was stopped.
fn flood(socket: &Path, stop: &Arc<AtomicBool>) -> JoinHandle<bool> {
    let (socket, stop) = (socket.to_owned(), Arc::clone(stop));
    std::thread::spawn(move || {
        for _ in 0..500_000 {
            if stop.load(Ordering::Relaxed) {
                return true;
            }
            drop(UnixStream::connect(&socket).unwrap());
        }
        false
    })
}

/// The control thread must get to its other work however many connections wait to be accepted.
#[tokio::test]
async fn a_flood_of_connections_that_close_at_once_stops_no_unlock() {
    let bench = Bench::start();
    let mut sidecar = Sidecar::claim(&bench).await;
    let stop = Arc::new(AtomicBool::new(false));
    let floods: Vec<_> = (0..3).map(|_| flood(&bench.socket, &stop)).collect();
    let served = timeout(PATIENCE, async {
        let token = &sidecar.token;
        let mut client = until_it_works(async || Sidecar::client(&bench, token).await).await;
        client.health(HealthRequest {}).await.unwrap();
        let id = sidecar.begin(generate("default")).await.unlock_id;
        let sidecar = &sidecar;
        until_it_works(async || sidecar.tunnel(&id).await).await;
    });
    let served = served.await;
    stop.store(true, Ordering::Relaxed);
    let stopped: Vec<_> = floods.into_iter().map(|flood| flood.join().unwrap()).collect();
    served.expect("served in time");
    assert_eq!(stopped, [true; 3], "served during the flood");
}

/// The memory of unfinished messages is bounded by it. Frames of a connection keep their order, so
/// a call that might go out would have been answered before the batches are.
#[tokio::test]
async fn streams_of_a_connection_are_bounded_and_further_calls_wait() {
    let bench = Bench::start();
    let mut sidecar = Sidecar::claim(&bench).await;
    let mut open = Vec::new();
    for _ in 0..STREAMS_PER_CONNECTION_MAX {
        let (batches, stream) = mpsc::channel(1);
        let results = sidecar.client.sign(ReceiverStream::new(stream)).await.unwrap().into_inner();
        open.push((batches, results));
    }
    let mut client = sidecar.client.clone();
    let waiting = tokio::spawn(async move { client.health(HealthRequest {}).await });
    for _ in 0..20 {
        let (batches, results) = &mut open[0];
        let items = vec![item("default", 1, &[7; 32], b"")];
        batches.send(SignBatch { items }).await.unwrap();
        results.message().await.unwrap().unwrap();
    }
    assert_eq!((open.len(), waiting.is_finished()), (8, false), "no stream is free");
    open.pop();
    timeout(PATIENCE, waiting).await.expect("its turn comes").unwrap().unwrap();
}
