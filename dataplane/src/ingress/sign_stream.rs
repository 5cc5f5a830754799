//! `SignStream`: one task reads requests, sends them on and answers, so nothing of it crosses a queue
//! of its own. Answers are written before more is read, and what is under way is bounded: a caller that
//! does not read stops being read.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_util::future::BoxFuture;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tokio_stream::wrappers::WatchStream;
use tonic::{Status, Streaming};

use super::grpc::{Face, checked, refuse, to_result};
use super::idle::{Connection, OpenStream};
use crate::admission::Slot;
use crate::app::{Asker, Done, Many, SignRequest};
use crate::error::{Code, Error};
use crate::metrics::Method;
use crate::v1;

/// Requests of one stream that are under way: eight messages to an enclave, so that one is always being
/// worked on while others travel.
pub(super) const IN_FLIGHT_MAX: usize = 256;

/// What a stream was opened with.
pub(super) struct Opened {
    pub(super) asker: Asker,
    /// `grpc-timeout`, if there was one: of the whole stream.
    pub(super) deadline: Option<Instant>,
    pub(super) connection: Arc<Connection>,
    /// Held until the stream ends.
    pub(super) _place: OwnedSemaphorePermit,
    pub(super) _open: OpenStream,
}

/// The answers of one stream.
pub(crate) struct Answers {
    face: Face,
    requests: Inbound,
    many: Many,
    /// Nothing is read behind a request that waits.
    waiting: Option<Waiting>,
    opened: Opened,
    timer: Option<Pin<Box<Sleep>>>,
    ending: WatchStream<bool>,
}

/// A request that was read and has no place in flight yet.
struct Waiting {
    tag: u64,
    request: SignRequest,
    deadline: Instant,
    turn: BoxFuture<'static, Result<Slot, Error>>,
}

enum Inbound {
    Open(Box<Streaming<v1::SignStreamRequest>>),
    /// No more is read. What is under way is answered, then this is the end.
    Closed(Result<(), Error>),
    Over,
}

impl Answers {
    pub(super) fn new(
        face: Face,
        requests: Streaming<v1::SignStreamRequest>,
        opened: Opened,
    ) -> Self {
        Self {
            many: Many::new(Arc::clone(&face.app)),
            waiting: None,
            requests: Inbound::Open(Box::new(requests)),
            timer: opened.deadline.map(|deadline| Box::pin(sleep_until(deadline))),
            ending: WatchStream::new(opened.connection.ending()),
            face,
            opened,
        }
    }

    /// Reads all there is, as far as there is room. True if anything came of it.
    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        let waited = self.waiting.is_some();
        let mut read = self.start_waiting(cx) && waited;
        while self.waiting.is_none()
            && self.many.len() < IN_FLIGHT_MAX
            && let Inbound::Open(requests) = &mut self.requests
        {
            match Pin::new(requests.as_mut()).poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(v1::SignStreamRequest { tag, request }))) => {
                    let now = Instant::now();
                    let limit = now + self.face.live.load().limits.request_timeout();
                    let deadline = self.opened.deadline.map_or(limit, |stream| stream.min(limit));
                    let missing = || Error::invalid("request", "the field request is missing");
                    let request = request.ok_or_else(missing).and_then(|request| checked(&request));
                    self.opened.connection.stream_begins();
                    self.begin(tag, request, deadline);
                }
                Poll::Ready(Some(Err(status))) => {
                    let error = Error::invalid(
                        "request",
                        "the stream ended in the middle, or a message of it is not a SignStreamRequest",
                    );
                    self.requests = Inbound::Closed(Err(error.because(status.to_string())));
                }
                Poll::Ready(None) => self.requests = Inbound::Closed(Ok(())),
            }
            read = true;
        }
        read
    }

    /// Starts a request if there is a place for it in flight, now or later.
    fn begin(&mut self, tag: u64, request: Result<SignRequest, Error>, deadline: Instant) {
        let request = match request {
            Ok(request) => request,
            Err(error) => {
                return self.many.begin(&self.opened.asker, tag, Err(error), deadline);
            }
        };
        let guards = &self.face.app.guards;
        let asker = &mut self.opened.asker;
        // The stream may outlive the rules, and the token, that it was opened under.
        if let Some(renewed) = guards.access.renewed(&asker.caller) {
            asker.caller = renewed;
        }
        if let Err(error) = asker.caller.is_current() {
            self.requests = Inbound::Closed(Err(error.clone()));
            return self.many.begin(asker, tag, Err(error), deadline);
        }
        let admission = &guards.admission;
        if let Some(slot) = admission.enter_now() {
            return self.many.begin(asker, tag, slot.map(|slot| (request, slot)), deadline);
        }
        let admission = Arc::clone(admission);
        let turn = Box::pin(async move {
            timeout_at(deadline, admission.enter()).await.unwrap_or_else(|_| Err(Error::deadline()))
        });
        self.waiting = Some(Waiting { tag, request, deadline, turn });
    }

    /// Starts the request that waits if its turn has come. False if it still waits.
    fn start_waiting(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(mut waiting) = self.waiting.take() else { return true };
        let Poll::Ready(slot) = waiting.turn.as_mut().poll(cx) else {
            self.waiting = Some(waiting);
            return false;
        };
        let Waiting { tag, request, deadline, .. } = waiting;
        let request = slot.map(|slot| (request, slot));
        self.many.begin(&self.opened.asker, tag, request, deadline);
        true
    }

    /// Requests that were read and are not answered.
    fn unanswered(&self) -> usize {
        self.many.len() + usize::from(self.waiting.is_some())
    }

    /// Closes the stream at its deadline, or when its connection is being closed.
    fn close_in_time(&mut self, cx: &mut Context<'_>) {
        if !matches!(self.requests, Inbound::Open(_)) {
            return;
        }
        if let Some(timer) = &mut self.timer
            && timer.as_mut().poll(cx).is_ready()
        {
            self.requests = Inbound::Closed(Err(Error::deadline()));
        }
        while let Poll::Ready(change) = Pin::new(&mut self.ending).poll_next(cx) {
            if change != Some(false) {
                let why = "the connection is being closed; send on a new one";
                self.requests = Inbound::Closed(Err(Error::new(Code::RetryLater, why)));
                return;
            }
        }
    }

    fn answer(&mut self, done: Done) -> v1::SignStreamResponse {
        self.opened.connection.stream_ends(1);
        let (app, id) = (&self.face.app, &self.opened.asker.request_id);
        let as_what = (Method::SignStream, "grpc");
        super::ended(app, as_what, id, done.begun, done.result.as_ref().err());
        v1::SignStreamResponse { tag: done.tag, result: Some(to_result(done.result)) }
    }

    fn over(&mut self) -> Option<Result<v1::SignStreamResponse, Status>> {
        let Inbound::Closed(Err(error)) = std::mem::replace(&mut self.requests, Inbound::Over)
        else {
            return None;
        };
        let (app, id) = (&self.face.app, &self.opened.asker.request_id);
        super::ended(app, (Method::SignStream, "grpc"), id, Instant::now(), Some(&error));
        Some(Err(refuse(&error, id)))
    }
}

impl Stream for Answers {
    type Item = Result<v1::SignStreamResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Poll::Ready(Some(done)) = this.many.poll_done(cx) {
                return Poll::Ready(Some(Ok(this.answer(done))));
            }
            if !this.read(cx) {
                break;
            }
        }
        this.close_in_time(cx);
        if matches!(this.requests, Inbound::Open(_)) || this.unanswered() > 0 {
            return Poll::Pending;
        }
        Poll::Ready(this.over())
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.opened.connection.stream_ends(self.unanswered());
    }
}

#[cfg(test)]
mod tests;
