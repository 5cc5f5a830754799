//! The signing stream: batches in, signed inline, one result batch for each.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use sigil_enclave_protocol::bounds::BATCH_ITEMS_MAX;
use sigil_enclave_protocol::v1::{ErrorCode, SignBatch, SignBatchResult, SignItem, SignResult};
use tonic::{Status, Streaming};

use super::reply::Refused;
use super::{Service, check};
use crate::clock::boot_ms;
use crate::keys::{Use, sign_batch};
use crate::signer::Signer;

/// Answers to one caller's stream.
pub struct SignStream {
    service: Service,
    batches: Streaming<SignBatch>,
    /// Items signed since other connections of the worker last had their turn.
    signed_in_turn: usize,
}

impl SignStream {
    pub(super) fn new(service: Service, batches: Streaming<SignBatch>) -> Self {
        Self { service, batches, signed_in_turn: 0 }
    }
}

impl Stream for SignStream {
    type Item = Result<SignBatchResult, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.signed_in_turn >= BATCH_ITEMS_MAX {
            // What was signed goes out now, as one write, and the others get their turn.
            self.signed_in_turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let received = match Pin::new(&mut self.batches).poll_next(cx) {
            Poll::Ready(received) => received,
            Poll::Pending => {
                self.signed_in_turn = 0;
                return Poll::Pending;
            }
        };
        Poll::Ready(received.map(|batch| {
            let batch = batch?;
            if batch.items.len() > BATCH_ITEMS_MAX {
                return Err(Status::invalid_argument("batch"));
            }
            self.signed_in_turn += batch.items.len().max(1);
            Ok(self.service.sign_items(&batch.items))
        }))
    }
}

impl Service {
    fn sign_items(&self, items: &[SignItem]) -> SignBatchResult {
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
        let mut signatures = signed.as_deref().unwrap_or_default().iter().zip(&uses);
        for result in results.iter_mut().filter(|result| result.error == ErrorCode::Ok as i32) {
            match signatures.next() {
                Some((signature, Use { key, .. })) => {
                    result.signature = Bytes::copy_from_slice(&signature.compact);
                    result.recovery_id = signature.recovery_id.into();
                    result.public_key = Bytes::copy_from_slice(&key.public_key);
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
