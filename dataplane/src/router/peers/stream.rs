//! The long-lived `Sign` stream to one member: whatever is queued goes as one message, at most 32
//! requests, and answers find their callers by tag. At most [`MESSAGES_MAX`] messages are without an
//! answer; while a member stands still, requests gather in full ones.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use futures_core::Stream;
use tokio::sync::{mpsc, oneshot};
use tonic::Streaming;

use super::connection::Client;
use crate::hop_v1::{SignAnswers, SignHop, SignHops};
use crate::v1::SignResult;

/// Requests of one message, as to an enclave.
const HOPS_MAX: usize = 32;
/// Requests that may wait for one member and worker: what its enclave's worker would queue.
pub(super) const QUEUE_DEPTH_MAX: usize = 1_024;
/// Messages of which something is unanswered. A message counts until its last answer.
const MESSAGES_MAX: usize = QUEUE_DEPTH_MAX / HOPS_MAX;

/// A request and who waits for its answer. Dropping it tells them that the connection is lost.
pub(super) struct Job {
    pub(super) hop: SignHop,
    pub(super) reply: oneshot::Sender<SignResult>,
}

/// Callers by tag. Tags are reused, so they stay small.
#[derive(Default)]
struct InFlight {
    /// What is unanswered of each message that was sent, by place; 0: the place is free.
    messages: [usize; MESSAGES_MAX],
    waits: Option<Waker>,
    callers: Vec<Option<(usize, oneshot::Sender<SignResult>)>>,
    free: Vec<u32>,
}

struct Outbound {
    queue: mpsc::Receiver<Job>,
    in_flight: Arc<Mutex<InFlight>>,
    jobs: Vec<Job>,
}

/// An open stream.
pub(super) struct Opened {
    inbound: Streaming<SignAnswers>,
    in_flight: Arc<Mutex<InFlight>>,
}

/// Opens the stream: the member lets us in.
pub(super) async fn open(
    client: &mut Client,
    queue: mpsc::Receiver<Job>,
) -> Result<Opened, tonic::Status> {
    let in_flight = Arc::new(Mutex::new(InFlight::default()));
    let outbound =
        Outbound { queue, in_flight: Arc::clone(&in_flight), jobs: Vec::with_capacity(HOPS_MAX) };
    let inbound = client.sign(outbound).await?.into_inner();
    Ok(Opened { inbound, in_flight })
}

// === impl Opened ===

impl Opened {
    /// Takes answers until the stream ends. Every caller without one then learns that it is lost.
    pub(super) async fn run(mut self) -> Result<(), tonic::Status> {
        let result = exchange(&mut self.inbound, &self.in_flight).await;
        *lock(&self.in_flight) = InFlight::default();
        result
    }
}

async fn exchange(
    inbound: &mut Streaming<SignAnswers>,
    in_flight: &Mutex<InFlight>,
) -> Result<(), tonic::Status> {
    while let Some(message) = inbound.message().await? {
        for answer in message.answers {
            let caller = lock(in_flight).take(answer.tag);
            if let (Some(caller), Some(result)) = (caller, answer.result) {
                // A caller whose deadline passed is gone.
                let _ = caller.send(result);
            }
        }
    }
    Ok(())
}

/// Held for a few instructions and never over an await.
fn lock(in_flight: &Mutex<InFlight>) -> MutexGuard<'_, InFlight> {
    in_flight.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl InFlight ===

impl InFlight {
    /// A place for one more message.
    fn poll_place(&mut self, cx: &Context<'_>) -> Poll<usize> {
        if let Some(place) = self.messages.iter().position(|unanswered| *unanswered == 0) {
            return Poll::Ready(place);
        }
        self.waits = Some(cx.waker().clone());
        Poll::Pending
    }

    fn put(&mut self, place: usize, caller: oneshot::Sender<SignResult>) -> u32 {
        if let Some(unanswered) = self.messages.get_mut(place) {
            *unanswered += 1;
        }
        if let Some(tag) = self.free.pop()
            && let Some(slot) = self.callers.get_mut(tag as usize)
        {
            *slot = Some((place, caller));
            return tag;
        }
        self.callers.push(Some((place, caller)));
        u32::try_from(self.callers.len() - 1).unwrap_or(u32::MAX)
    }

    /// `None` for a tag that is not in flight, whatever the member says.
    fn take(&mut self, tag: u32) -> Option<oneshot::Sender<SignResult>> {
        let (place, caller) = self.callers.get_mut(tag as usize)?.take()?;
        self.free.push(tag);
        let unanswered = self.messages.get_mut(place)?;
        *unanswered = unanswered.saturating_sub(1);
        if *unanswered == 0 {
            self.waits.take().into_iter().for_each(Waker::wake);
        }
        Some(caller)
    }
}

// === impl Outbound ===

impl Stream for Outbound {
    type Item = SignHops;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<SignHops>> {
        let this = self.get_mut();
        let mut in_flight = lock(&this.in_flight);
        let place = ready!(in_flight.poll_place(cx));
        if ready!(this.queue.poll_recv_many(cx, &mut this.jobs, HOPS_MAX)) == 0 {
            return Poll::Ready(None);
        }
        let tagged = this.jobs.drain(..).map(|Job { mut hop, reply }| {
            hop.tag = in_flight.put(place, reply);
            hop
        });
        Poll::Ready(Some(SignHops { hops: tagged.collect() }))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    fn outbound() -> (mpsc::Sender<Job>, Outbound) {
        let (sender, queue) = mpsc::channel(2 * QUEUE_DEPTH_MAX);
        (sender, Outbound { queue, in_flight: Arc::default(), jobs: Vec::new() })
    }

    fn send(sender: &mpsc::Sender<Job>) -> oneshot::Receiver<SignResult> {
        let (reply, answer) = oneshot::channel();
        sender.try_send(Job { hop: SignHop::default(), reply }).ok().unwrap();
        answer
    }

    #[tokio::test]
    async fn requests_gather_in_full_messages_while_a_member_stands_still() {
        let (sender, mut outbound) = outbound();
        let in_flight = Arc::clone(&outbound.in_flight);
        let mut waiting = Vec::new();
        for _ in 0..MESSAGES_MAX {
            waiting.extend([send(&sender), send(&sender)]);
            assert_eq!(outbound.next().await.unwrap().hops.len(), 2);
        }
        waiting.extend((0..40).map(|_| send(&sender)));
        let next = tokio::spawn(async move { (outbound.next().await, outbound) });
        tokio::task::yield_now().await;
        assert!(lock(&in_flight).take(6).is_some());
        tokio::task::yield_now().await;
        assert!(!next.is_finished(), "half of a message is unanswered");
        assert!(lock(&in_flight).take(7).is_some());
        let (message, mut outbound) = next.await.unwrap();
        assert_eq!(message.unwrap().hops.len(), HOPS_MAX);
        drop(sender);
        lock(&in_flight).take(0);
        lock(&in_flight).take(1);
        assert_eq!(outbound.next().await.unwrap().hops.len(), 8);
    }

    #[tokio::test]
    async fn an_answer_counts_once_and_who_waits_for_a_lost_one_learns_it() {
        let (sender, mut outbound) = outbound();
        let (first, second) = (send(&sender), send(&sender));
        let tags: Vec<_> = outbound.next().await.unwrap().hops.iter().map(|hop| hop.tag).collect();
        assert_eq!(tags, [0, 1]);
        let in_flight = Arc::clone(&outbound.in_flight);
        lock(&in_flight).take(0).unwrap().send(SignResult::default()).unwrap();
        assert!(lock(&in_flight).take(0).is_none() && lock(&in_flight).take(9).is_none());
        assert!(first.await.is_ok());
        *lock(&in_flight) = InFlight::default();
        assert!(second.await.is_err());
    }
}
