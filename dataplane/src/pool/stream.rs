//! The long-lived `Sign` stream of one connection. Whatever is queued goes as one message, at most
//! 32 digests; nobody waits when idle. Answers find their callers by tag, in any order.
//!
//! At most [`MESSAGES_MAX`] are without an answer: while an enclave stands still, requests gather in
//! full messages and not in many small ones, for which HTTP/2 ends a connection (a budget against
//! floods of small DATA frames: half the window, at 256 bytes for each frame that is not read).

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use futures_core::Stream;
use sigil_enclave_protocol::bounds::{BATCH_ITEMS_MAX, QUEUED_ITEMS_MAX, WINDOW_BYTES};
use sigil_enclave_protocol::v1::{SignBatch, SignItem, SignResult};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Sleep, sleep};

use super::counters::Counters;
use super::group::Member;
use super::lane::Permit;
use super::session::Client;
use super::{PoolError, Upstream};

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
    /// When a connection was asked for, if this one is timed.
    pub(super) asked: Option<Instant>,
}

/// Who waits for an answer. Dropping it tells them that the connection is lost.
pub(super) enum Reply {
    /// A task of its own.
    One(oneshot::Sender<Result<SignResult, PoolError>>, Permit),
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

/// What a stream tells others of.
pub(super) struct Wiring {
    pub(super) upstream: Arc<Upstream>,
    pub(super) counters: Arc<Counters>,
    /// Messages that were answered.
    pub(super) answered: Arc<AtomicU64>,
}

/// Leaves nobody without an answer, however the stream ends.
struct Clear(Arc<Mutex<InFlight>>);

/// The outbound half.
struct Outbound {
    queue: mpsc::Receiver<Job>,
    in_flight: Arc<Mutex<InFlight>>,
    jobs: Vec<Job>,
    upstream: Arc<Upstream>,
    counters: Arc<Counters>,
    /// For a message that waits for more.
    timer: Option<Pin<Box<Sleep>>>,
}

/// Runs the stream until it ends. Every caller without an answer then learns that it is lost.
pub(super) async fn run(
    mut client: Client,
    queue: mpsc::Receiver<Job>,
    wiring: Wiring,
) -> Result<(), tonic::Status> {
    let in_flight = Arc::new(Mutex::new(InFlight::default()));
    let clear = Clear(Arc::clone(&in_flight));
    let outbound = Outbound {
        queue,
        in_flight,
        jobs: Vec::with_capacity(BATCH_ITEMS_MAX),
        upstream: Arc::clone(&wiring.upstream),
        counters: Arc::clone(&wiring.counters),
        timer: None,
    };
    exchange(&mut client, outbound, &clear.0, &wiring).await
}

async fn exchange(
    client: &mut Client,
    outbound: Outbound,
    in_flight: &Mutex<InFlight>,
    wiring: &Wiring,
) -> Result<(), tonic::Status> {
    let mut inbound = client.sign(outbound).await?.into_inner();
    while let Some(batch) = inbound.message().await? {
        wiring.answered.fetch_add(1, Ordering::Relaxed);
        wiring.upstream.answered();
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
            (Self::One(caller, _permit), answer) => drop(caller.send(answer)),
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

// === impl Clear ===

impl Drop for Clear {
    fn drop(&mut self) {
        let callers = std::mem::take(&mut *lock(&self.0));
        drop(callers);
    }
}

// === impl Outbound ===

impl Outbound {
    /// What goes in one message: all that is queued, unless a setting has it wait for more.
    fn poll_jobs(&mut self, cx: &mut Context<'_>, idle: bool) -> Poll<usize> {
        let items_max = self.upstream.batching.items_max();
        let Some(wait) = self.upstream.batching.wait() else {
            let room = items_max.saturating_sub(self.jobs.len());
            return match self.queue.poll_recv_many(cx, &mut self.jobs, room) {
                // What waited goes with the others, or alone.
                Poll::Pending if !self.jobs.is_empty() => Poll::Ready(self.jobs.len()),
                Poll::Ready(_) => Poll::Ready(self.jobs.len()),
                Poll::Pending => Poll::Pending,
            };
        };
        while self.jobs.len() < items_max {
            let room = items_max - self.jobs.len();
            match self.queue.poll_recv_many(cx, &mut self.jobs, room) {
                Poll::Ready(0) => return Poll::Ready(self.jobs.len()),
                Poll::Ready(_) => {}
                Poll::Pending if self.jobs.is_empty() => return Poll::Pending,
                Poll::Pending if idle => break,
                Poll::Pending => {
                    let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(wait)));
                    ready!(timer.as_mut().poll(cx));
                    break;
                }
            }
        }
        self.timer = None;
        Poll::Ready(self.jobs.len())
    }

    fn count(&self) {
        self.counters.batch.observe(self.jobs.len() as u64);
        for asked in self.jobs.iter().filter_map(|job| job.asked) {
            let took_us = asked.elapsed().as_micros();
            self.counters.acquire_us.observe(u64::try_from(took_us).unwrap_or(u64::MAX));
        }
    }
}

impl Stream for Outbound {
    type Item = SignBatch;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<SignBatch>> {
        let this = self.get_mut();
        let idle = {
            let mut in_flight = lock(&this.in_flight);
            ready!(in_flight.poll_room(cx));
            in_flight.messages == 0
        };
        if ready!(this.poll_jobs(cx, idle)) == 0 {
            return Poll::Ready(None);
        }
        this.count();
        let mut in_flight = lock(&this.in_flight);
        in_flight.messages += 1;
        let tagged = this.jobs.drain(..).map(|Job { mut item, reply, .. }| {
            item.tag = in_flight.put(reply);
            item
        });
        Poll::Ready(Some(SignBatch { items: tagged.collect() }))
    }
}

impl Drop for Outbound {
    /// What never went out may be sent again, whatever became of the enclave.
    fn drop(&mut self) {
        self.queue.close();
        let waited = self.jobs.drain(..);
        let queued = std::iter::from_fn(|| self.queue.try_recv().ok());
        for job in waited.chain(queued) {
            job.reply.answer(Err(PoolError::NotSent));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use futures_util::StreamExt;

    fn job() -> (Job, oneshot::Receiver<Result<SignResult, PoolError>>) {
        let (sender, answer) = oneshot::channel();
        let reply = Reply::One(sender, Permit::of_nobody());
        (Job { item: SignItem::default(), reply, asked: None }, answer)
    }

    fn caller() -> Reply {
        job().0.reply
    }

    fn outbound_with(settings: config::Pool) -> (mpsc::Sender<Job>, Outbound) {
        let (sender, queue) = mpsc::channel(QUEUE_DEPTH_MAX);
        let upstream = Arc::new(Upstream::new("e", settings));
        let (in_flight, counters) = (Arc::default(), upstream.counters());
        (sender, Outbound { queue, in_flight, jobs: Vec::new(), upstream, counters, timer: None })
    }

    fn outbound() -> (mpsc::Sender<Job>, Outbound) {
        outbound_with(config::Pool::default())
    }

    #[tokio::test]
    async fn what_is_queued_goes_together_and_at_most_32_at_once() {
        let (sender, mut outbound) = outbound();
        for _ in 0..40 {
            sender.try_send(job().0).ok().unwrap();
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
            sender.try_send(job().0).ok().unwrap();
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

    #[tokio::test]
    async fn batching_off_is_one_digest_a_message() {
        let (sender, mut outbound) =
            outbound_with(config::Pool { max_batch: 1, ..Default::default() });
        for _ in 0..3 {
            sender.try_send(job().0).ok().unwrap();
        }
        for _ in 0..3 {
            assert_eq!(outbound.next().await.unwrap().items.len(), 1);
        }
        assert_eq!(outbound.counters.batch.read().0[0], 3);
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_wait_an_idle_stream_sends_at_once_and_a_busy_one_gathers_for_that_long() {
        let settings = config::Pool { no_wait: false, max_wait_ms: 2, ..Default::default() };
        let (sender, mut outbound) = outbound_with(settings);
        let send = |count: usize| {
            (0..count).for_each(|_| sender.try_send(job().0).ok().unwrap());
        };
        let start = Instant::now();
        send(1);
        assert_eq!(outbound.next().await.unwrap().items.len(), 1);
        assert_eq!(start.elapsed().as_millis(), 0, "nothing was under way");
        send(3);
        assert_eq!(outbound.next().await.unwrap().items.len(), 3);
        assert_eq!(start.elapsed().as_millis(), 2);
        send(40);
        assert_eq!(outbound.next().await.unwrap().items.len(), 32);
        assert_eq!(start.elapsed().as_millis(), 2, "a full one does not wait");
        assert_eq!(outbound.next().await.unwrap().items.len(), 8);
        // The bypass, while one waits.
        send(2);
        assert!(futures_util::poll!(outbound.next()).is_pending());
        outbound.upstream.configure(config::Pool::default());
        assert_eq!(outbound.next().await.unwrap().items.len(), 2);
    }

    #[tokio::test]
    async fn what_was_sent_is_lost_and_what_was_not_is_not() {
        let (sender, mut outbound) =
            outbound_with(config::Pool { max_batch: 1, ..Default::default() });
        let (first, sent) = job();
        let (second, waiting) = job();
        sender.try_send(first).ok().unwrap();
        sender.try_send(second).ok().unwrap();
        outbound.next().await.unwrap();
        let clear = Clear(Arc::clone(&outbound.in_flight));
        drop(outbound);
        drop(clear);
        assert_eq!(waiting.await.unwrap(), Err(PoolError::NotSent));
        assert!(sent.await.is_err(), "lost");
    }
}
