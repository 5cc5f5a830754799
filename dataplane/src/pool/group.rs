//! Answers that one task waits for together: a batch, or a stream of a caller. They share one channel,
//! so that a message of the enclave with 32 answers wakes the task once and allocates nothing for each.

use std::task::{Context, Poll};

use sigil_enclave_protocol::v1::SignResult;
use tokio::sync::mpsc;

use super::PoolError;
use super::lane::Permit;

/// A request's number in its group, and its answer or why there is none.
pub(crate) type Answer = (u64, Result<SignResult, PoolError>);

/// Where answers arrive. It holds no more than its owner has begun.
#[derive(Debug)]
pub(crate) struct Group {
    sender: mpsc::UnboundedSender<Answer>,
    receiver: mpsc::UnboundedReceiver<Answer>,
}

/// One request's place in a group. Dropping it tells the group that the connection is lost.
pub(super) struct Member {
    sender: mpsc::UnboundedSender<Answer>,
    number: u64,
    answered: bool,
    _permit: Permit,
}

// === impl Group ===

impl Group {
    /// A group without requests.
    pub(crate) fn new() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self { sender, receiver }
    }

    /// The next answer. Never ends: the group itself holds a sender.
    pub(crate) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Option<Answer>> {
        self.receiver.poll_recv(cx)
    }

    pub(super) fn put(&self, number: u64, answer: Result<SignResult, PoolError>) {
        // The receiver lives as long as this.
        let _ = self.sender.send((number, answer));
    }
}

// === impl Member ===

impl Member {
    pub(super) fn new(group: &Group, number: u64, permit: Permit) -> Self {
        Self { sender: group.sender.clone(), number, answered: false, _permit: permit }
    }

    /// Whoever waited may be gone; the answer is dropped then.
    pub(super) fn answer(mut self, answer: Result<SignResult, PoolError>) {
        self.answered = true;
        let _ = self.sender.send((self.number, answer));
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if !self.answered {
            let _ = self.sender.send((self.number, Err(PoolError::Lost)));
        }
    }
}
