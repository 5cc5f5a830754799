//! The signing stream: batches in, signed inline, one result batch for each.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use sigil_enclave_protocol::bounds::{BATCH_ITEMS_MAX, QUEUED_ITEMS_MAX};
use sigil_enclave_protocol::v1::{ErrorCode, SignBatch, SignBatchResult, SignItem, SignResult};
use tonic::{Status, Streaming};

use super::reply::Refused;
use super::{Service, check};
use crate::clock::boot_ms;
use crate::keys::{Use, sign_batch};
use crate::signer::Signer;

/// Bytes of a signature and its public key.
const SIGNED_BYTES: usize = 64 + 33;

/// Answers to one caller's stream.
pub struct SignStream {
    service: Service,
    batches: Streaming<SignBatch>,
    /// Received and not yet signed.
    queue: VecDeque<SignBatch>,
    queued: usize,
    /// Items answered since other connections of the worker last had their turn.
    answered_in_turn: usize,
    /// Ends when the enclave is drained. A stream that is opened later refuses and stays.
    drained: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl SignStream {
    pub(super) fn new(service: Service, batches: Streaming<SignBatch>) -> Self {
        let mut draining = service.enclave.draining.subscribe();
        let drained = Box::pin(async move {
            let _ = draining.changed().await;
        });
        let (queue, queued) = (VecDeque::new(), 0);
        Self { service, batches, queue, queued, answered_in_turn: 0, drained }
    }

    /// Takes in what has come. Ready with an answer that goes out before what waits, a refusal; or
    /// with none if nothing more will come.
    fn receive(&mut self, cx: &mut Context<'_>) -> Poll<Option<Answer>> {
        // From now on all is refused, and with nothing under way the stream ends.
        let draining = *self.service.enclave.draining.borrow();
        loop {
            let Some(batch) = ready!(Pin::new(&mut self.batches).poll_next(cx)?) else {
                return Poll::Ready(None);
            };
            let items = room(&batch);
            if items > BATCH_ITEMS_MAX {
                return Poll::Ready(Some(Err(Status::invalid_argument("batch"))));
            }
            if draining {
                return Poll::Ready(Some(Ok(refuse(&batch.items, ErrorCode::Draining))));
            }
            if self.queued + items > self.share() {
                self.service.stats.refused.add(items as u64);
                return Poll::Ready(Some(Ok(refuse(&batch.items, ErrorCode::Overloaded))));
            }
            self.count(|queued| queued + items);
            self.queue.push_back(batch);
        }
    }

    /// Items that this stream may have waiting: its part of the worker's, and a batch in any case.
    fn share(&self) -> usize {
        let others = self.service.stats.queueing_streams.get() - u64::from(self.queued > 0);
        let streams = usize::try_from(others).unwrap_or(usize::MAX).saturating_add(1);
        (QUEUED_ITEMS_MAX / streams).max(BATCH_ITEMS_MAX)
    }

    fn count(&mut self, change: impl FnOnce(usize) -> usize) {
        let (before, after) = (self.queued, change(self.queued));
        let stats = &self.service.stats;
        stats.queued.sub(before as u64);
        stats.queued.add(after as u64);
        stats.queueing_streams.sub(u64::from(before > 0));
        stats.queueing_streams.add(u64::from(after > 0));
        self.queued = after;
    }
}

impl Drop for SignStream {
    fn drop(&mut self) {
        self.count(|_| 0);
    }
}

type Answer = Result<SignBatchResult, Status>;

impl Stream for SignStream {
    type Item = Answer;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.answered_in_turn >= BATCH_ITEMS_MAX {
            // What was answered goes out now, as one write, and the others get their turn.
            self.answered_in_turn = 0;
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
            let items = room(&batch);
            self.count(|queued| queued - items);
            self.answered_in_turn += items;
            return Poll::Ready(Some(Ok(self.service.sign_items(&batch.items))));
        }
        self.answered_in_turn = 0;
        match received {
            Poll::Pending if self.drained.as_mut().poll(cx).is_pending() => Poll::Pending,
            _ => Poll::Ready(None),
        }
    }
}

/// What a batch counts for; an empty one takes room too.
fn room(batch: &SignBatch) -> usize {
    batch.items.len().max(1)
}

/// The same answer for every item.
fn refuse(items: &[SignItem], code: ErrorCode) -> SignBatchResult {
    let results = items.iter().map(|item| SignResult {
        tag: item.tag,
        error: code.into(),
        ..SignResult::default()
    });
    SignBatchResult { results: results.collect() }
}

impl Service {
    fn sign_items(&self, items: &[SignItem]) -> SignBatchResult {
        match self.enclave.gate() {
            // A drained enclave does what it had received.
            Ok(()) | Err(ErrorCode::Draining) => {
                self.stats.batch(items.len() as u64, || self.sign_served(items))
            }
            Err(code) => refuse(items, code),
        }
    }

    fn sign_served(&self, items: &[SignItem]) -> SignBatchResult {
        let now_ms = boot_ms();
        let mut signer = self.signer();
        let mut uses = Vec::with_capacity(items.len());
        let mut results: Vec<SignResult> = items
            .iter()
            .map(|item| {
                let (error, dek_id) = match self.acquire(&signer, item, now_ms) {
                    Ok(acquired) => {
                        uses.push(acquired);
                        (ErrorCode::Ok, Bytes::new())
                    }
                    Err(refused) => (refused.code, refused.dek_id_bytes()),
                };
                SignResult { tag: item.tag, error: error.into(), dek_id, ..SignResult::default() }
            })
            .collect();
        let signed = sign_batch(&mut signer, &uses, now_ms);
        self.stats.signed.add(signed.as_ref().map_or(0, |signed| signed.len() as u64));
        let mut signatures = signed.as_deref().unwrap_or_default().iter().zip(&uses);
        // One allocation for the batch.
        let mut bytes = BytesMut::with_capacity(uses.len() * SIGNED_BYTES);
        let mut keep = |part: &[u8]| {
            bytes.extend_from_slice(part);
            bytes.split().freeze()
        };
        for result in results.iter_mut().filter(|result| result.error == ErrorCode::Ok as i32) {
            match signatures.next() {
                Some((signature, Use { key, .. })) => {
                    result.signature = keep(&signature.compact);
                    result.recovery_id = signature.recovery_id.into();
                    result.public_key = keep(&key.public_key);
                }
                // A fault anywhere in the batch: none of it leaves.
                None => result.error = ErrorCode::Internal.into(),
            }
        }
        SignBatchResult { results }
    }

    fn acquire(&self, signer: &Signer, item: &SignItem, now_ms: u64) -> Result<Use, Refused> {
        let check::Item { name, digest, blob } = check::item(item)?;
        let key = self.enclave.acquire(signer, &name, blob, now_ms)?;
        Ok(Use { key, digest })
    }
}
