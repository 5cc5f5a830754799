//! The vsock of a guest: what is long arrives whole, who goes away is noticed.

use std::collections::BTreeSet;

use hyper_util::rt::{TokioExecutor, TokioIo};
use sigil_enclave_client::connect::connect;
use sigil_enclave_protocol::handshake::Purpose;
use sigil_enclave_protocol::v1::enclave_client::EnclaveClient;
use sigil_enclave_protocol::v1::{ErrorCode, SignBatch, SignItem, StatsReply, StatsRequest};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

use crate::bench::{Bench, PATIENCE};
use crate::life::{activate, assert_signed};
use crate::raw::{self, Peer};
use crate::sidecar::{Client, Http2, Sidecar, item};

/// Signatures of one stream, in full batches: some 350 KiB of answers.
const SIGNATURES: u32 = 96 * ITEMS;
const ITEMS: u32 = 32;

/// A guest's write above about 32 KiB is lost on its way through QEMU's vsock.
#[tokio::test]
async fn replies_of_several_hundred_kib_arrive_whole() {
    let bench = Bench::boot().await;
    let mut sidecar = Sidecar::claim(&bench).await;
    sidecar.seal_with_new_dek("default").await;
    let created = sidecar.create("default", 1).await;
    activate(&mut sidecar, 1, &created).await;
    let mut client = client_with_a_window(&bench, &sidecar).await;
    let (mut missing, mut bytes): (BTreeSet<u32>, _) = ((0..SIGNATURES).collect(), 0);
    let deadline = Instant::now() + PATIENCE;
    while !missing.is_empty() {
        assert!(Instant::now() < deadline, "{} signatures never came", missing.len());
        let asked: Vec<_> = missing.iter().copied().collect();
        let batches: Vec<_> = asked.chunks(ITEMS as usize).map(batch).collect();
        let mut answers = client.sign(tokio_stream::iter(batches)).await.unwrap().into_inner();
        let mut unanswered: BTreeSet<_> = asked.into_iter().collect();
        while let Some(answer) = answers.message().await.unwrap() {
            bytes += prost::Message::encoded_len(&answer);
            for one in answer.results {
                assert!(unanswered.remove(&one.tag), "one answer each: {}", one.tag);
                // A full queue says so at once, and is asked again.
                if one.error() != ErrorCode::Overloaded {
                    assert_signed(&one, &created.public_key, &digest(one.tag));
                    missing.remove(&one.tag);
                }
            }
        }
        assert!(unanswered.is_empty(), "{} without an answer", unanswered.len());
    }
    assert!(bytes > 300 * 1024, "{bytes}");
}

/// With a window of a megabyte, so that the enclave may write all it has at once.
async fn client_with_a_window(bench: &Bench, sidecar: &Sidecar<'_>) -> Client {
    let mut stream = bench.connect().await;
    connect(&mut stream, Purpose::Rpc, &sidecar.token).await.unwrap();
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(1 << 20)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    EnclaveClient::with_origin(Http2(sender), http::Uri::from_static("http://enclave"))
}

fn digest(tag: u32) -> [u8; 32] {
    let mut digest = [0; 32];
    digest[..4].copy_from_slice(&tag.to_be_bytes());
    digest
}

fn batch(tags: &[u32]) -> SignBatch {
    let item = |tag: &u32| SignItem { tag: *tag, ..item("default", 1, &digest(*tag), b"") };
    SignBatch { items: tags.iter().map(item).collect() }
}

/// Whoever goes away in the middle of a batch costs the others nothing: of each message the first
/// half has arrived, and is gone with the connection.
#[tokio::test]
async fn a_peer_that_goes_away_in_the_middle_of_a_batch_leaves_the_enclave_as_it_was() {
    let bench = Bench::boot().await;
    let mut sidecar = Sidecar::claim(&bench).await;
    sidecar.seal_with_new_dek("default").await;
    let created = sidecar.create("default", 1).await;
    activate(&mut sidecar, 1, &created).await;
    let before = stats(&mut sidecar).await;
    let tags: Vec<_> = (0..ITEMS).collect();
    let message = raw::message(&batch(&tags));
    for _ in 0..8 {
        let mut peer = Peer::new(bench.connect().await, &sidecar.token).await;
        peer.socket.write_all(&raw::sign_call(1)).await.unwrap();
        peer.send(1, &message[..message.len() / 2]).await.unwrap();
        timeout(PATIENCE, peer.ping()).await.expect("all before it has arrived").unwrap();
    }
    for tag in tags {
        let signed = sidecar.sign(item("default", 1, &digest(tag), b"")).await;
        assert_signed(&signed, &created.public_key, &digest(tag));
    }
    let after = stats(&mut sidecar).await;
    let signed = |stats: &StatsReply| stats.workers.iter().map(|one| one.signed).sum::<u64>();
    assert_eq!(signed(&after), signed(&before) + u64::from(ITEMS), "no half batch is signed");
    assert_eq!(after.secrets, before.secrets);
}

async fn stats(sidecar: &mut Sidecar<'_>) -> StatsReply {
    sidecar.client.stats(StatsRequest {}).await.unwrap().into_inner()
}
