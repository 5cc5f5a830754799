//! A peer that knows the token and means harm, or is broken: what it sends is bounded, what it gets
//! is its share, and an honest stream beside it is served. Counted in items; no times.

use std::time::Duration;

use bytes::Bytes;
use sigil_enclave_protocol::bounds::{BATCH_ITEMS_MAX, MESSAGE_BYTES_MAX, QUEUED_ITEMS_MAX};
use sigil_enclave_protocol::v1::{
    ErrorCode, HealthRequest, SignBatch, SignBatchResult, SignItem, StatsRequest,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::bench::Bench;
use crate::sidecar::{Sidecar, item};

/// Far above an answer on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// Batches that wait in the hostile peer itself.
const BACKLOG: usize = 256;

/// One worker, so that everybody meets on it.
fn one_worker() -> Bench {
    Bench::start_parts(|parts| parts.workers = Some(1))
}

struct SignStream {
    batches: mpsc::Sender<SignBatch>,
    results: Streaming<SignBatchResult>,
}

impl SignStream {
    /// A `Sign` stream on a connection of its own.
    async fn open(sidecar: &Sidecar<'_>) -> Self {
        let mut client = Sidecar::client(sidecar.bench, &sidecar.token).await.unwrap();
        let (batches, stream) = mpsc::channel(BACKLOG);
        let results = client.sign(ReceiverStream::new(stream)).await.unwrap().into_inner();
        Self { batches, results }
    }

    /// Sends full batches. False answers come later: the stream may have ended.
    async fn send(&self, count: usize) {
        for _ in 0..count {
            let _ = self.batches.send(SignBatch { items: digests(BATCH_ITEMS_MAX) }).await;
        }
    }

    async fn exchange(&mut self, items: Vec<SignItem>) -> SignBatchResult {
        self.batches.send(SignBatch { items }).await.unwrap();
        timeout(PATIENCE, self.results.message()).await.expect("served").unwrap().unwrap()
    }
}

fn digests(count: usize) -> Vec<SignItem> {
    vec![item("default", 1, &[7; 32], b""); count]
}

async fn signed(sidecar: &mut Sidecar<'_>) -> u64 {
    let stats = sidecar.client.stats(StatsRequest {}).await.unwrap().into_inner();
    stats.workers.iter().map(|worker| worker.signed).sum()
}

/// Batches that the honest stream keeps under way: its part of the queue when two streams share it.
const UNDER_WAY: usize = QUEUED_ITEMS_MAX / 2 / BATCH_ITEMS_MAX;

/// Two streams that always have something to sign take turns, however much more one of them sends:
/// exactly so in `a_greedy_stream_is_answered_no_more_than_a_modest_one`. Here, over sockets, the
/// honest stream has nothing waiting while its batches are under way, for as long as the machine
/// takes, and the greedy one has the worker for itself; without turns it would have it always.
#[tokio::test]
async fn a_stream_that_sends_more_than_its_share_is_not_served_more() {
    const BATCHES: usize = 320;
    let bench = one_worker();
    let mut sidecar = Sidecar::with_key(&bench).await;
    let mut greedy = SignStream::open(&sidecar).await;
    let greedy = tokio::spawn(async move {
        let mut answered = [0_usize; 2];
        greedy.send(8 * UNDER_WAY).await;
        while let Ok(Some(batch)) = greedy.results.message().await {
            match batch.results[0].error() {
                ErrorCode::Ok => answered[0] += 1,
                ErrorCode::Overloaded => answered[1] += 1,
                other => panic!("{other:?}"),
            }
            greedy.send(1).await;
        }
        answered
    });
    let mut honest = SignStream::open(&sidecar).await;
    let before = signed(&mut sidecar).await;
    honest.send(UNDER_WAY).await;
    let mut refused = 0;
    for _ in 0..BATCHES {
        let answer = honest.exchange(digests(BATCH_ITEMS_MAX)).await;
        refused += usize::from(answer.results[0].error() == ErrorCode::Overloaded);
    }
    let all = signed(&mut sidecar).await - before;
    let own = ((BATCHES - refused) * BATCH_ITEMS_MAX) as u64;
    // Until the greedy stream's half of the queue is worked off, the other half may be short.
    assert!(refused <= 2 * UNDER_WAY, "{refused} of {BATCHES} refused");
    assert!(all <= 12 * own, "{all} signatures while the honest stream got {own}");
    drop(bench);
    let [ok, overloaded] = timeout(PATIENCE, greedy).await.expect("its stream ends").unwrap();
    assert!(ok > 0 && overloaded > 0, "it sent more than its share: {ok} and {overloaded}");
}

/// What does not fit a stream's part of the queue is refused at once and does not wait.
#[tokio::test]
async fn a_full_queue_fails_fast() {
    let bench = one_worker();
    let mut sidecar = Sidecar::with_key(&bench).await;
    let (batches, stream) = mpsc::channel(BACKLOG);
    let sent = 4 * QUEUED_ITEMS_MAX / BATCH_ITEMS_MAX;
    for _ in 0..sent {
        batches.send(SignBatch { items: digests(BATCH_ITEMS_MAX) }).await.unwrap();
    }
    drop(batches);
    let mut results = sidecar.client.sign(ReceiverStream::new(stream)).await.unwrap().into_inner();
    let (mut signed, mut refused) = (0, 0);
    while let Some(batch) = timeout(PATIENCE, results.message()).await.unwrap().unwrap() {
        let code = batch.results[0].error();
        assert!(batch.results.iter().all(|result| result.error() == code), "whole batches");
        match code {
            ErrorCode::Ok => signed += 1,
            ErrorCode::Overloaded => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(signed + refused, sent, "each is answered");
    let stats = sidecar.client.stats(StatsRequest {}).await.unwrap().into_inner();
    assert_eq!(stats.workers[0].refused, (refused * BATCH_ITEMS_MAX) as u64);
    assert!(signed >= QUEUED_ITEMS_MAX / BATCH_ITEMS_MAX, "{signed} batches signed");
}

/// The answers that nobody reads fill the windows and stop that stream alone.
#[tokio::test]
async fn a_peer_that_never_reads_stops_nobody_else() {
    let bench = one_worker();
    let mut sidecar = Sidecar::with_key(&bench).await;
    let SignStream { batches, results } = SignStream::open(&sidecar).await;
    // Until its own windows and the channel are full: nothing more goes out then.
    let mut sent = 0_u32;
    while batches.try_send(SignBatch { items: digests(BATCH_ITEMS_MAX) }).is_ok()
        || timeout(Duration::from_millis(200), batches.reserve()).await.is_ok_and(|place| {
            place.unwrap().send(SignBatch { items: digests(BATCH_ITEMS_MAX) });
            true
        })
    {
        sent += 1;
        assert!(sent < 100_000, "bounded by windows");
    }
    let mut honest = SignStream::open(&sidecar).await;
    for _ in 0..50 {
        let answer = honest.exchange(digests(1)).await;
        assert_eq!(answer.results[0].error(), ErrorCode::Ok);
    }
    drop((batches, results));
    sidecar.client.health(HealthRequest {}).await.unwrap();
}

#[tokio::test]
async fn each_message_out_of_bounds_ends_its_stream_and_nothing_else() {
    let bench = one_worker();
    let mut sidecar = Sidecar::with_key(&bench).await;
    let mut long = item("default", 1, &[7; 32], b"");
    long.authorization = Bytes::from(vec![0; MESSAGE_BYTES_MAX]);
    for (what, items, code) in [
        ("33 items", digests(BATCH_ITEMS_MAX + 1), Code::InvalidArgument),
        ("too many bytes", vec![long], Code::OutOfRange),
    ] {
        let batches = tokio_stream::iter([SignBatch { items }]);
        let ended = match sidecar.client.sign(batches).await {
            Ok(results) => results.into_inner().message().await.map(drop),
            Err(status) => Err(status),
        };
        assert_eq!(ended.unwrap_err().code(), code, "{what}");
        let signed = sidecar.sign(item("default", 1, &[7; 32], b"")).await;
        assert_eq!(signed.error(), ErrorCode::Ok, "the connection is served on");
    }
}

#[tokio::test]
async fn each_field_out_of_bounds_is_an_answer_of_its_own() {
    let bench = one_worker();
    let mut sidecar = Sidecar::with_key(&bench).await;
    let good = || item("default", 1, &[7; 32], b"");
    let bad = [
        SignItem { keyspace: String::new(), ..good() },
        SignItem { keyspace: "UPPER".into(), ..good() },
        SignItem { keyspace: "k".repeat(64), ..good() },
        SignItem { key_id: Bytes::from_static(&[1; 15]), ..good() },
        SignItem { digest: Bytes::from_static(&[1; 31]), ..good() },
        SignItem { digest: Bytes::from_static(&[1; 33]), ..good() },
        SignItem { digest: Bytes::new(), ..good() },
        SignItem { blob: Bytes::from(vec![0; 2_049]), ..good() },
        SignItem { authorization: Bytes::from_static(b"x"), ..good() },
    ];
    let mut items = bad.to_vec();
    items.push(good());
    let results = sidecar.sign_batch(items).await.results;
    let (last, refused) = results.split_last().unwrap();
    assert_eq!(last.error(), ErrorCode::Ok, "beside nine bad ones");
    for (result, item) in refused.iter().zip(&bad) {
        assert_eq!(result.error(), ErrorCode::InvalidArgument, "{item:?}");
        assert!(result.signature.is_empty() && result.public_key.is_empty());
    }
}

/// Who sends batches without an item as fast as it can.
#[tokio::test]
async fn a_flood_of_empty_batches_stops_nobody_else() {
    let bench = one_worker();
    let sidecar = Sidecar::with_key(&bench).await;
    let SignStream { batches, mut results } = SignStream::open(&sidecar).await;
    let flood = tokio::spawn(async move {
        while batches.send(SignBatch { items: Vec::new() }).await.is_ok() {}
    });
    let reader = tokio::spawn(async move {
        let mut read = 0_u64;
        while let Ok(Some(batch)) = results.message().await {
            assert!(batch.results.is_empty());
            read += 1;
        }
        read
    });
    let mut honest = SignStream::open(&sidecar).await;
    for _ in 0..50 {
        assert_eq!(honest.exchange(digests(1)).await.results[0].error(), ErrorCode::Ok);
    }
    flood.abort();
    drop(bench);
    assert!(timeout(PATIENCE, reader).await.expect("its stream ends").unwrap() > 0);
}
