//! The long-lived `Sign` stream of one connection. Whatever is queued goes as one message, at most
//! 32 digests; nobody waits when idle. Answers find their callers by tag, in any order.
//!
//! At most [`MESSAGES_MAX`] are without an answer: while an enclave stands still, requests gather in
//! full messages and not in many small ones, for which HTTP/2 ends a connection (a budget against
//! floods of small DATA frames: half the window, at 256 bytes for each frame that is not read).

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use futures_core::Stream;
use sigil_enclave_protocol::bounds::{BATCH_ITEMS_MAX, QUEUED_ITEMS_MAX, WINDOW_BYTES};
use sigil_enclave_protocol::v1::{SignBatch, SignItem, SignResult};
use tokio::sync::{mpsc, oneshot};

use super::PoolError;
use super::group::Member;
use super::session::Client;
use crate::metrics::Metrics;

/// Requests that may wait for one connection: 32 batches, about 16 ms of one worker.
pub(super) const QUEUE_DEPTH_MAX: usize = 1_024;

/// Messages without an answer: full ones are as many digests as a worker of the enclave queues.
const MESSAGES_MAX: usize = QUEUED_ITEMS_MAX / BATCH_ITEMS_MAX;
/// What HTTP/2 counts for a small frame.
const SMALL_FRAME_BYTES: usize = 256;
const _: () = assert!(
    MESSAGES_MAX * SMALL_FRAME_BYTES <= WINDOW_BYTES / 2,
    "no number of small messages ends a connection"
);

/// A request and who waits for its answer.
pub(super) struct Job {
    pub(super) item: SignItem,
    pub(super) reply: Reply,
}

/// Who waits for an answer. Dropping it tells them that the connection is lost.
pub(super) enum Reply {
    /// A task of its own.
    One(oneshot::Sender<SignResult>),
    /// A task that waits for others too.
    Member(Member),
}

/// Callers by tag. Tags are reused, so they stay small.
#[derive(Default)]
struct InFlight {
    /// Sent and not answered.
    messages: usize,
    /// Of the outbound half, while it waits for an answer.
    waits: Option<Waker>,
    callers: Vec<Option<Reply>>,
    free: Vec<u32>,
}

/// The outbound half.
struct Outbound {
    queue: mpsc::Receiver<Job>,
    in_flight: Arc<Mutex<InFlight>>,
    jobs: Vec<Job>,
    metrics: Arc<Metrics>,
}

/// Runs the stream until it ends. Every caller without an answer then learns that it is lost.
pub(super) async fn run(
    mut client: Client,
    queue: mpsc::Receiver<Job>,
    metrics: Arc<Metrics>,
) -> Result<(), tonic::Status> {
    let in_flight = Arc::new(Mutex::new(InFlight::default()));
    let outbound = Outbound {
        queue,
        in_flight: Arc::clone(&in_flight),
        jobs: Vec::with_capacity(BATCH_ITEMS_MAX),
        metrics,
    };
    let result = exchange(&mut client, outbound, &in_flight).await;
    *lock(&in_flight) = InFlight::default();
    result
}

async fn exchange(
    client: &mut Client,
    outbound: Outbound,
    in_flight: &Mutex<InFlight>,
) -> Result<(), tonic::Status> {
    let mut inbound = client.sign(outbound).await?.into_inner();
    while let Some(batch) = inbound.message().await? {
        let mut in_flight = lock(in_flight);
        in_flight.answered();
        for result in batch.results {
            if let Some(caller) = in_flight.take(result.tag) {
                caller.answer(Ok(result));
            }
        }
    }
    Ok(())
}

/// The lock is held for a few instructions and never over an await.
fn lock(in_flight: &Mutex<InFlight>) -> std::sync::MutexGuard<'_, InFlight> {
    in_flight.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Reply ===

impl Reply {
    /// A caller whose deadline passed is gone; the answer is dropped.
    pub(super) fn answer(self, answer: Result<SignResult, PoolError>) {
        match (self, answer) {
            (Self::One(caller), Ok(result)) => drop(caller.send(result)),
            (Self::One(_), Err(_)) => {}
            (Self::Member(caller), answer) => caller.answer(answer),
        }
    }
}

// === impl InFlight ===

impl InFlight {
    /// Ready while one more message may go.
    fn poll_room(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.messages < MESSAGES_MAX {
            return Poll::Ready(());
        }
        self.waits = Some(cx.waker().clone());
        Poll::Pending
    }

    fn answered(&mut self) {
        self.messages = self.messages.saturating_sub(1);
        self.waits.take().into_iter().for_each(Waker::wake);
    }

    fn put(&mut self, caller: Reply) -> u32 {
        if let Some(tag) = self.free.pop()
            && let Some(slot) = self.callers.get_mut(tag as usize)
        {
            *slot = Some(caller);
            return tag;
        }
        self.callers.push(Some(caller));
        u32::try_from(self.callers.len() - 1).unwrap_or(u32::MAX)
    }

    /// `None` for a tag that is not in flight, whatever the enclave says.
    fn take(&mut self, tag: u32) -> Option<Reply> {
        let caller = self.callers.get_mut(tag as usize)?.take()?;
        self.free.push(tag);
        Some(caller)
    }
}

// === impl Outbound ===

impl Stream for Outbound {
    type Item = SignBatch;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<SignBatch>> {
        let this = self.get_mut();
        let mut in_flight = lock(&this.in_flight);
        ready!(in_flight.poll_room(cx));
        match ready!(this.queue.poll_recv_many(cx, &mut this.jobs, BATCH_ITEMS_MAX)) {
            0 => Poll::Ready(None),
            count => {
                in_flight.messages += 1;
                this.metrics.boundary_crossings.inc();
                #[allow(clippy::cast_precision_loss, reason = "at most 32")]
                this.metrics.batch_size.observe(count as f64);
                let tagged = this.jobs.drain(..).map(|Job { mut item, reply }| {
                    item.tag = in_flight.put(reply);
                    item
                });
                Poll::Ready(Some(SignBatch { items: tagged.collect() }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;

    fn caller() -> Reply {
        Reply::One(oneshot::channel().0)
    }

    fn outbound() -> (mpsc::Sender<Job>, Outbound) {
        let (sender, queue) = mpsc::channel(QUEUE_DEPTH_MAX);
        let (in_flight, metrics) = (Arc::default(), Arc::new(Metrics::new()));
        (sender, Outbound { queue, in_flight, jobs: Vec::new(), metrics })
    }

    #[tokio::test]
    async fn what_is_queued_goes_together_and_at_most_32_at_once() {
        let (sender, mut outbound) = outbound();
        for _ in 0..40 {
            sender.try_send(Job { item: SignItem::default(), reply: caller() }).ok().unwrap();
        }
        let first = outbound.next().await.unwrap();
        let second = outbound.next().await.unwrap();
        assert_eq!((first.items.len(), second.items.len()), (32, 8));
        let mut tags: Vec<_> =
            first.items.iter().chain(&second.items).map(|item| item.tag).collect();
        tags.sort_unstable();
        tags.dedup();
        assert_eq!(tags.len(), 40, "tags in flight are unique");
        drop(sender);
        assert!(outbound.next().await.is_none());
    }

    #[tokio::test]
    async fn without_answers_requests_gather_in_full_messages() {
        let (sender, mut outbound) = outbound();
        let in_flight = Arc::clone(&outbound.in_flight);
        let send = || {
            sender.try_send(Job { item: SignItem::default(), reply: caller() }).ok().unwrap();
        };
        for _ in 0..MESSAGES_MAX {
            send();
            assert_eq!(outbound.next().await.unwrap().items.len(), 1);
        }
        (0..40).for_each(|_| send());
        let waiting = tokio::spawn(async move { outbound.next().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        lock(&in_flight).answered();
        assert_eq!(waiting.await.unwrap().unwrap().items.len(), 32);
    }

    #[test]
    fn tags_are_reused_and_unknown_ones_ignored() {
        let mut in_flight = InFlight::default();
        let tag = in_flight.put(caller());
        assert!(in_flight.take(tag + 1).is_none());
        assert!(in_flight.take(tag).is_some());
        assert!(in_flight.take(tag).is_none(), "an answer counts once");
        assert_eq!(in_flight.put(caller()), tag);
    }
}
