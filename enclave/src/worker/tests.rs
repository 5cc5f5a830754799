//! A worker's service over streams in memory, all in one thread: who is served when follows from
//! the order of tasks alone, and no clock decides.

use std::future::poll_fn;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use prost::Message;
use sigil_attestation::TrustRoot;
use sigil_enclave_image::Pins;
use sigil_enclave_image::pins::{Ceilings, KeyspaceRule, VerifyMode};
use sigil_enclave_protocol::bounds::{BATCH_ITEMS_MAX, QUEUED_BLOB_BYTES_MAX, QUEUED_ITEMS_MAX};
use sigil_enclave_protocol::v1::{ErrorCode, SignBatch, SignBatchResult, SignItem};
use tokio::io::{join, simplex};

use super::*;
use crate::boot::{Parts, assemble};
use crate::nsm::{DocumentRequest, Nsm, NsmError};
use crate::rng::RngSource;
use crate::secret::Secret32;
use crate::stats::{Count, WorkerStats};

/// Its documents verify nowhere, which no signature asks for.
struct NoModule;

impl Nsm for NoModule {
    fn document(&self, _: DocumentRequest<'_>) -> Result<Vec<u8>, NsmError> {
        Ok(Vec::new())
    }

    fn entropy(&self) -> Result<Secret32, NsmError> {
        Ok(Secret32::copy_from(&[7; 32]).unwrap())
    }
}

/// A worker that has no key: each item costs an answer, and a batch a turn, as if it were signed.
fn worker() -> (rpc::Service, Arc<WorkerStats>, Arc<Enclave>) {
    let root = TrustRoot::aws().der().to_vec();
    let rule = KeyspaceRule {
        prefix: "default".into(),
        key_arns: vec!["arn:aws:kms:eu-central-1:111122223333:key/of-nobody".into()],
        region: "eu-central-1".into(),
        host: "kms.eu-central-1.amazonaws.com".into(),
    };
    let pins = Pins {
        app: "sigil-test".into(),
        rules: vec![rule],
        tls_roots: vec![root.clone()],
        attestation_root: root,
        verify_mode: VerifyMode::BatchSample,
        ceilings: Ceilings::default(),
        parent_cid: 3,
        insecure: true,
    };
    let parts = Parts {
        pins: pins.encode().unwrap(),
        nsm: Arc::new(NoModule),
        listener: UnixStream::pair().unwrap().0.into(),
        rng_source: || RngSource::Software,
        insecure: true,
        workers: Some(1),
        heartbeat: false,
    };
    let enclave = Arc::new(assemble(&parts, tokio::runtime::Handle::current()).unwrap());
    let signer = Signer::new(VerifyMode::BatchSample, 0).unwrap();
    let stats = Arc::clone(&enclave.worker_stats[0]);
    let signer = Arc::new(Mutex::new(signer));
    (rpc::Service::new(Arc::clone(&enclave), signer, Arc::clone(&stats)), stats, enclave)
}

/// Runs a test as a task like any other, on a worker's runtime.
fn run<T: Send + 'static>(test: impl Future<Output = T> + Send + 'static) -> T {
    let runtime = residue::runtime().unwrap().event_interval(TURNS_BETWEEN_EVENTS).build().unwrap();
    runtime.block_on(async { tokio::spawn(test).await.unwrap() })
}

/// A request whose messages are sent as they come.
struct Requests(mpsc::UnboundedReceiver<Bytes>);

impl Body for Requests {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|message| message.map(|message| Ok(Frame::data(message))))
    }
}

/// The caller's end of a `Sign` stream on a connection of its own.
struct Caller {
    requests: mpsc::UnboundedSender<Bytes>,
    answers: Incoming,
    received: BytesMut,
    /// Its connection neither reads nor writes.
    stuck: Arc<AtomicBool>,
    /// Ends with the connection.
    served: tokio::task::JoinHandle<hyper::Result<()>>,
}

impl Caller {
    /// The connection holds `up_bytes` towards the worker and `down_bytes` back.
    async fn open(
        service: &rpc::Service,
        enclave: &Enclave,
        (up_bytes, down_bytes): (usize, usize),
    ) -> Self {
        let ((up_read, up_write), (down_read, down_write)) =
            (simplex(up_bytes), simplex(down_bytes));
        let draining = enclave.draining.subscribe();
        let stream = join(up_read, down_write);
        let served = tokio::spawn(serve_connection(stream, service.clone(), draining));
        let (mut calls, connection) =
            hyper::client::conn::http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(1 << 30)
                .initial_connection_window_size(1 << 30)
                .handshake(TokioIo::new(join(down_read, up_write)))
                .await
                .unwrap();
        let stuck = Arc::new(AtomicBool::new(false));
        let (mut connection, is_stuck) = (Box::pin(connection), Arc::clone(&stuck));
        tokio::spawn(poll_fn(move |cx| {
            if is_stuck.load(Ordering::Relaxed) {
                Poll::Pending
            } else {
                connection.as_mut().poll(cx)
            }
        }));
        let (requests, sent) = mpsc::unbounded_channel();
        let request = http::Request::post("http://enclave/sigil.enclave.v1.Enclave/Sign")
            .header("content-type", "application/grpc")
            .body(Requests(sent))
            .unwrap();
        let answers = calls.send_request(request).await.unwrap().into_body();
        Self { requests, answers, received: BytesMut::new(), stuck, served }
    }

    /// Full batches of one item.
    fn send(&self, batches: usize, item: &SignItem) {
        let message = SignBatch { items: vec![item.clone(); BATCH_ITEMS_MAX] }.encode_to_vec();
        for _ in 0..batches {
            self.requests.send(framed(&message)).unwrap();
        }
    }

    async fn answer(&mut self) -> ErrorCode {
        self.next().await.expect("the stream goes on")
    }

    /// The code of the next answer, which is that of all its items. None if the stream is cut off.
    async fn next(&mut self) -> Option<ErrorCode> {
        loop {
            let length = self.received.get(1..5).map(|mut length| length.get_u32() as usize);
            if let Some(length) = length.filter(|length| self.received.len() >= 5 + length) {
                self.received.advance(5);
                let batch = SignBatchResult::decode(self.received.split_to(length)).unwrap();
                let code = batch.results[0].error();
                assert!(batch.results.iter().all(|result| result.error() == code));
                return Some(code);
            }
            let frame = self.answers.frame().await?.ok()?;
            self.received.put(frame.into_data().ok()?);
        }
    }
}

/// A message with the head that gRPC gives it.
fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap());
    framed.put_slice(message);
    framed.freeze()
}

fn item(blob_bytes: usize) -> SignItem {
    SignItem {
        tag: 1,
        keyspace: "default".into(),
        key_id: Bytes::from_static(&[1; 16]),
        digest: Bytes::from_static(&[2; 32]),
        blob: vec![0; blob_bytes].into(),
        ..SignItem::default()
    }
}

/// More than a connection holds, even of the shortest: 570 KiB.
const BATCHES: usize = 8_192;
const ROOMY: (usize, usize) = (1 << 20, 1 << 20);

/// One keeps as much under way as the queue takes and more, the other so much that something of it
/// always waits. Both are answered in turn, batch for batch.
#[test]
fn a_greedy_stream_is_answered_no_more_than_a_modest_one() {
    const ANSWERS: usize = 200;
    let greedy = run(async {
        let (service, _, enclave) = worker();
        let greedy_answers = Arc::new(AtomicUsize::new(0));
        let mut greedy = Caller::open(&service, &enclave, ROOMY).await;
        let count = Arc::clone(&greedy_answers);
        tokio::spawn(async move {
            greedy.send(2 * QUEUED_ITEMS_MAX / BATCH_ITEMS_MAX, &item(0));
            loop {
                let served = greedy.answer().await != ErrorCode::Overloaded;
                count.fetch_add(usize::from(served), Ordering::Relaxed);
                greedy.send(1, &item(0));
            }
        });
        let mut modest = Caller::open(&service, &enclave, ROOMY).await;
        modest.send(8, &item(0));
        assert_eq!(modest.answer().await, ErrorCode::BlobRequired);
        let before = greedy_answers.load(Ordering::Relaxed);
        for _ in 0..ANSWERS {
            modest.send(1, &item(0));
            assert_eq!(modest.answer().await, ErrorCode::BlobRequired, "never refused");
        }
        greedy_answers.load(Ordering::Relaxed) - before
    });
    assert!(greedy >= ANSWERS / 2, "{greedy}: it has its share too");
    assert!(greedy <= 2 * ANSWERS, "{greedy} batches while the modest stream had {ANSWERS}");
}

#[test]
fn blobs_wait_only_where_there_is_room_for_their_bytes() {
    run(async {
        let (service, stats, enclave) = worker();
        let mut caller = Caller::open(&service, &enclave, ROOMY).await;
        // As if so many other streams of the worker had something waiting.
        let streams = QUEUED_BLOB_BYTES_MAX / (100 * BATCH_ITEMS_MAX);
        stats.queueing_streams.add(streams as u64 - 1);
        for (blob_bytes, code) in [
            (100, ErrorCode::InvalidKey),
            (101, ErrorCode::Overloaded),
            (0, ErrorCode::BlobRequired),
            (2_049, ErrorCode::InvalidArgument),
            // What was answered takes no room any more.
            (100, ErrorCode::InvalidKey),
        ] {
            caller.send(1, &item(blob_bytes));
            assert_eq!(caller.answer().await, code, "blobs of {blob_bytes} bytes");
        }
    });
}

/// What it had waiting is counted no more.
#[test]
fn a_stream_that_goes_away_leaves_its_room_to_others() {
    run(async {
        let (service, stats, enclave) = worker();
        let mut caller = Caller::open(&service, &enclave, ROOMY).await;
        caller.send(2 * QUEUED_ITEMS_MAX / BATCH_ITEMS_MAX, &item(0));
        caller.answer().await;
        assert!(stats.queued.get() > 0 && stats.queueing_streams.get() == 1, "it waits");
        drop(caller);
        until(|| stats.queued.get() == 0 && stats.queueing_streams.get() == 0).await;
    });
}

/// What was received before the drain is worked off, what comes later is refused, and the stream
/// ends without an error.
#[test]
fn batches_under_way_are_answered_before_a_drained_stream_ends() {
    const UNDER_WAY: usize = 20;
    run(async {
        let (service, stats, enclave) = worker();
        let mut caller = Caller::open(&service, &enclave, ROOMY).await;
        caller.send(UNDER_WAY, &item(0));
        until(|| stats.queued.get() >= 10 * BATCH_ITEMS_MAX as u64).await;
        let waiting = stats.queued.get() / BATCH_ITEMS_MAX as u64;

        enclave.draining.send_replace(true);
        caller.send(1, &item(0));
        let mut answers = [0_u64; 2];
        while let Some(code) = caller.next().await {
            assert!(matches!(code, ErrorCode::BlobRequired | ErrorCode::Draining), "{code:?}");
            answers[usize::from(code == ErrorCode::Draining)] += 1;
        }
        assert!(answers[0] >= waiting && answers[1] >= 1, "{answers:?}, {waiting} waited");
        caller.served.await.unwrap().unwrap();
    });
}

/// Its windows are wide open, but it takes in nothing: what it is answered waits here, within the
/// bound, and then it is not served.
#[test]
fn a_peer_that_never_reads_is_answered_into_a_bounded_buffer() {
    run(async {
        let (service, stats, enclave) = worker();
        // More than the worker's windows take in at once: 71 bytes each, 256 KiB.
        let caller = Caller::open(&service, &enclave, ROOMY).await;
        caller.send(BATCHES, &SignItem::default());
        until(|| answered(&stats) > 0).await;
        caller.stuck.store(true, Ordering::Relaxed);
        let mut before = 0;
        while std::mem::replace(&mut before, answered(&stats)) != answered(&stats) {
            for _ in 0..1_000 {
                tokio::task::yield_now().await;
            }
        }
        // An answer takes 133 bytes: 32 KiB are 247 of them, and as many are on their way.
        assert!((16..1_000).contains(&before), "{before} batches answered");
    });
}

#[tokio::test(start_paused = true)]
async fn a_drained_peer_that_goes_on_sending_is_cut_off() {
    let (service, _, enclave) = worker();
    let mut caller = Caller::open(&service, &enclave, ROOMY).await;
    caller.send(BATCHES, &item(0));
    caller.answer().await;
    enclave.draining.send_replace(true);
    while caller.answer().await != ErrorCode::Draining {}
    assert!(!caller.served.is_finished());
    tokio::time::advance(DRAIN_TIME_MAX).await;
    (&mut caller.served).await.unwrap().unwrap();
    let mut answered = 0;
    // Its end of the pipe is not told; it takes what is there.
    while let Ok(Some(_)) = tokio::time::timeout(DRAIN_TIME_MAX, caller.next()).await {
        answered += 1;
    }
    assert!(answered < BATCHES / 2, "{answered} were answered before that");
}

/// Batches answered, to within the 16 of which one is timed.
fn answered(stats: &WorkerStats) -> u64 {
    let timed: u64 = stats.sign_cpu.iter().map(Count::get).sum();
    16 * timed + stats.refused.get() / BATCH_ITEMS_MAX as u64
}

/// Lets the others run until something holds; they are never idle before.
async fn until(holds: impl Fn() -> bool) {
    for _ in 0..1_000_000 {
        if holds() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it never held");
}
