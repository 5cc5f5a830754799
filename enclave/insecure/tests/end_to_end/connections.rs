//! Who may connect.

use sigil_enclave_protocol::handshake::io::{HandshakeError, claim, connect};
use sigil_enclave_protocol::handshake::{ClaimToken, HELLO_BYTES, Purpose, Refusal};
use sigil_enclave_protocol::v1::HealthRequest;
use tokio::io::AsyncReadExt;

use crate::bench::Bench;
use crate::sidecar::{Sidecar, generate};

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

#[tokio::test]
async fn a_flood_of_silent_connections_keeps_nobody_out() {
    let bench = Bench::start();
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(bench.connect().await);
    }
    let mut sidecar = Sidecar::claim(&bench).await;
    sidecar.client.health(HealthRequest {}).await.unwrap();
    let mut first = Vec::new();
    silent[0].read_to_end(&mut first).await.unwrap();
    assert!(first.len() <= HELLO_BYTES, "closed without a verdict");
}
