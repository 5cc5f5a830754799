//! The signing stream: batches in, signed inline, one result batch for each.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use sigil_enclave_protocol::bounds::{BATCH_ITEMS_MAX, QUEUED_BLOB_BYTES_MAX, QUEUED_ITEMS_MAX};
use sigil_enclave_protocol::v1::ErrorCode;
use sigil_enclave_protocol::wire::Raw;
use tonic::{Status, Streaming};

use super::Service;
use super::batch::{Batch, Item, RESULT_BYTES_MAX, put, read};
use super::reply::Refused;
use crate::clock::boot_ms;
use crate::key_cache::slot::Event;
use crate::keys::PlainKey;
use crate::signer;

/// For a number of items: all that was answered in this turn has gone out.
const SENT: usize = usize::MAX;

/// Answers to one caller's stream.
pub struct SignStream {
    service: Service,
    batches: Streaming<Raw>,
    /// Received and not yet signed.
    queue: VecDeque<Batch>,
    /// Items of them.
    queued: usize,
    /// Bytes of their blobs.
    queued_bytes: usize,
    /// Items answered since other connections of the worker last had their turn, or [`SENT`].
    answered_in_turn: usize,
    /// Ends when the enclave is drained. A stream that is opened later refuses and stays.
    drained: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl SignStream {
    pub(super) fn new(service: Service, batches: Streaming<Raw>) -> Self {
        let mut draining = service.enclave.draining.subscribe();
        let drained = Box::pin(async move {
            let _ = draining.changed().await;
        });
        let queue = VecDeque::new();
        Self { service, batches, queue, queued: 0, queued_bytes: 0, answered_in_turn: 0, drained }
    }

    /// Takes in what has come. Ready with an answer that goes out before what waits, a refusal; or
    /// with none if nothing more will come.
    fn receive(&mut self, cx: &mut Context<'_>) -> Poll<Option<Answer>> {
        // From now on all is refused, and with nothing under way the stream ends.
        let draining = *self.service.enclave.draining.borrow();
        loop {
            let Some(message) = ready!(Pin::new(&mut self.batches).poll_next(cx)?) else {
                return Poll::Ready(None);
            };
            let Some(batch) = read(&message.0) else {
                return Poll::Ready(Some(Err(Status::invalid_argument("batch"))));
            };
            if draining {
                return Poll::Ready(Some(Ok(refuse(&batch, ErrorCode::Draining))));
            }
            let (items, blob_bytes) = room(&batch);
            if self.queued + items > self.share(QUEUED_ITEMS_MAX).max(BATCH_ITEMS_MAX)
                || self.queued_bytes + blob_bytes > self.share(QUEUED_BLOB_BYTES_MAX)
            {
                self.service.stats.refused.add(items as u64);
                return Poll::Ready(Some(Ok(refuse(&batch, ErrorCode::Overloaded))));
            }
            self.count(self.queued + items);
            self.queued_bytes += blob_bytes;
            self.queue.push_back(batch);
        }
    }

    /// This stream's part of what may wait on the worker.
    fn share(&self, whole: usize) -> usize {
        let others = self.service.stats.queueing_streams.get() - u64::from(self.queued > 0);
        whole / usize::try_from(others).unwrap_or(usize::MAX).saturating_add(1)
    }

    fn count(&mut self, now: usize) {
        let before = std::mem::replace(&mut self.queued, now);
        let stats = &self.service.stats;
        stats.queued.sub(before as u64);
        stats.queued.add(now as u64);
        stats.queueing_streams.sub(u64::from(before > 0));
        stats.queueing_streams.add(u64::from(now > 0));
    }
}

impl Drop for SignStream {
    fn drop(&mut self) {
        self.count(0);
    }
}

type Answer = Result<Raw, Status>;

impl Stream for SignStream {
    type Item = Answer;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.answered_in_turn >= BATCH_ITEMS_MAX {
            // Once for what was answered to go out, as one frame: with a frame to send, the caller
            // comes back at once. Then once more for the others to have their turn.
            self.answered_in_turn = if self.answered_in_turn == SENT { 0 } else { SENT };
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let received = self.receive(cx);
        if let Poll::Ready(Some(_)) = received {
            // To refuse a batch costs about as much as one signature.
            self.answered_in_turn += 1;
            return received;
        }
        if let Some(batch) = self.queue.pop_front() {
            let (items, blob_bytes) = room(&batch);
            let left = self.queued - items;
            self.count(left);
            self.queued_bytes -= blob_bytes;
            self.answered_in_turn += items;
            return Poll::Ready(Some(Ok(self.service.sign_items(&batch))));
        }
        self.answered_in_turn = 0;
        match received {
            Poll::Pending if self.drained.as_mut().poll(cx).is_pending() => Poll::Pending,
            _ => Poll::Ready(None),
        }
    }
}

/// What a batch counts for: items, of which an empty one has one too, and bytes of their blobs.
fn room(batch: &Batch) -> (usize, usize) {
    let blobs = batch.iter().filter_map(|(_, item)| item.as_ref().ok()?.blob.as_ref());
    (batch.len().max(1), blobs.map(|blob| blob.len()).sum())
}

/// The same answer for every item.
fn refuse(batch: &Batch, code: ErrorCode) -> Raw {
    let mut results = Vec::new();
    batch.iter().for_each(|(tag, _)| put(&mut results, *tag, Err(code.into())));
    Raw(results.into())
}

impl Service {
    fn sign_items(&self, batch: &Batch) -> Raw {
        match self.enclave.gate() {
            // A drained enclave does what it had received.
            Ok(()) | Err(ErrorCode::Draining) => {
                self.stats.batch(batch.len() as u64, || self.sign_served(batch))
            }
            Err(code) => refuse(batch, code),
        }
    }

    fn sign_served(&self, batch: &Batch) -> Raw {
        let now_ms = boot_ms();
        let mut signer = self.signer();
        let by = self.enclave.opener(&signer, now_ms);
        // What is signed for an item, and the key.
        let acquire = |(_, item): &(u32, Result<Item, ErrorCode>)| {
            let Item { name, digest, blob } = item.as_ref().map_err(|code| *code)?;
            let key = self.enclave.cache.ask(name, blob.as_deref(), Event::Sign, &by)?;
            Ok::<_, Refused>((*digest, key.ok_or(ErrorCode::Internal)?))
        };
        let acquired: Vec<_> = batch.iter().map(acquire).collect();
        let wanted = acquired.iter().flatten().map(|(digest, key)| {
            let PlainKey { scalar, public_key, .. } = &**key;
            signer::Item { digest: *digest, scalar, public_key }
        });
        let items: Vec<_> = wanted.collect();
        let signed = signer.sign_batch(&items, now_ms).unwrap_or_default();
        self.stats.signed.add(signed.len() as u64);
        let mut signed = signed.iter().zip(items.iter().map(|item| item.public_key));
        let mut results = Vec::with_capacity(batch.len() * RESULT_BYTES_MAX);
        for ((tag, _), acquired) in batch.iter().zip(&acquired) {
            let signed = match acquired {
                // A fault anywhere in the batch: none of it leaves.
                Ok(_) => signed.next().ok_or(ErrorCode::Internal.into()),
                Err(refused) => Err(*refused),
            };
            put(&mut results, *tag, signed);
        }
        Raw(results.into())
    }
}
