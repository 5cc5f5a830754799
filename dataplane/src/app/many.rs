//! Signatures that one task asks for and waits for: the items of a batch, the requests of a stream.
//! They are sent at once, so they share messages to the enclave, and answered in any order.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use sigil_enclave_protocol::v1::SignResult;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use super::sign::{Located, item, wants_blob};
use super::{App, Asker, Audited, SignRequest, Signed};
use crate::admission::Slot;
use crate::error::Error;
use crate::metrics::{Method, Phase};
use crate::pool::{Group, PoolError};
use crate::router::{Place, failed, may_be_sent_again};

/// Requests under way. Its owner bounds how many it begins.
pub(crate) struct Many {
    app: Arc<App>,
    group: Group,
    begun: u64,
    /// Sent and not answered, oldest first.
    sent: BTreeMap<u64, Sent>,
    /// What needs more than one message: a key's place, its blob, or sending again.
    slow: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Refused before anything was sent.
    refused: VecDeque<Done>,
    /// They came from another member, and are answered here or not at all.
    arrived: bool,
    /// For the oldest of those that were sent.
    timer: Option<Pin<Box<Sleep>>>,
}

/// A request's end.
#[derive(Debug)]
pub(crate) struct Done {
    /// What its owner knows it by.
    pub(crate) tag: u64,
    /// When it began.
    pub(crate) begun: Instant,
    /// The signature, or why there is none.
    pub(crate) result: Result<Signed, Error>,
}

struct Sent {
    tag: u64,
    begun: Instant,
    deadline: Instant,
    request: SignRequest,
    located: Located,
    slot: Slot,
    audited: Audited,
}

impl Many {
    /// Nothing under way.
    pub(crate) fn new(app: Arc<App>) -> Self {
        Self {
            app,
            group: Group::new(),
            begun: 0,
            sent: BTreeMap::new(),
            slow: FuturesUnordered::new(),
            refused: VecDeque::new(),
            arrived: false,
            timer: None,
        }
    }

    /// For requests of another member, which go nowhere else.
    pub(crate) fn arrived(app: Arc<App>) -> Self {
        Self { arrived: true, ..Self::new(app) }
    }

    /// Requests that have no answer yet.
    pub(crate) fn len(&self) -> usize {
        self.sent.len() + self.slow.len() + self.refused.len()
    }

    /// Starts one request. A deadline is never before that of an earlier request.
    pub(crate) fn begin(
        &mut self,
        asker: &Asker,
        tag: u64,
        request: Result<(SignRequest, Slot), Error>,
        deadline: Instant,
    ) {
        let begun = Instant::now();
        let (request, slot) = match request {
            Ok(request) => request,
            Err(error) => {
                return self.refused.push_back(Done { tag, begun, result: Err(error) });
            }
        };
        let mut audited = self.app.audited_sign(asker, &request);
        let own = self.arrived || self.app.router.is_for_own(request.key_id);
        let keyspace = own.then(|| self.app.known_keyspace(request.key_id)).flatten();
        let Some(keyspace) = keyspace else {
            let (app, arrived) = (Arc::clone(&self.app), self.arrived);
            let work = async move {
                let work = async {
                    if arrived {
                        app.sign_admitted(&mut audited, &request).await
                    } else {
                        app.sign_placed(&mut audited, &request, deadline).await
                    }
                };
                let result = timeout_at(deadline, work).await;
                let result = result.unwrap_or_else(|_| Err(Error::deadline()));
                audited.end(&result);
                result
            };
            return self.slowly((tag, slot), begun, work);
        };
        if let Err(error) = audited.may(&keyspace) {
            let result = Err(error);
            audited.end(&result);
            return self.refused.push_back(Done { tag, begun, result });
        }
        let located = Located { keyspace, blob: None };
        let number = self.begun;
        self.begun += 1;
        self.app.router.begin(item(&located, &request, Bytes::new()), &self.group, number);
        self.sent.insert(number, Sent { tag, begun, deadline, request, located, slot, audited });
    }

    /// A request that is refused before anybody knows who asks.
    pub(crate) fn refuse(&mut self, tag: u64, error: Error) {
        self.refused.push_back(Done { tag, begun: Instant::now(), result: Err(error) });
    }

    /// The next answer; nothing when every request has its own.
    pub(crate) fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<Option<Done>> {
        if let Some(done) = self.refused.pop_front() {
            return Poll::Ready(Some(done));
        }
        while let Poll::Ready(Some((number, answer))) = self.group.poll_answer(cx) {
            // One whose deadline passed was answered before.
            let Some(sent) = self.sent.remove(&number) else { continue };
            if let Some(done) = self.answered(sent, answer) {
                return Poll::Ready(Some(done));
            }
        }
        if let Poll::Ready(Some(done)) = Pin::new(&mut self.slow).poll_next(cx) {
            return Poll::Ready(Some(done));
        }
        if let Some(Sent { tag, begun, audited, .. }) = self.late(cx) {
            let result = Err(Error::deadline());
            audited.end(&result);
            return Poll::Ready(Some(Done { tag, begun, result }));
        }
        if self.len() == 0 { Poll::Ready(None) } else { Poll::Pending }
    }

    /// The end of a request, unless its first answer is not the last one.
    fn answered(&mut self, sent: Sent, answer: Result<SignResult, PoolError>) -> Option<Done> {
        let Sent { tag, begun, deadline, request, located, slot, mut audited } = sent;
        self.app.metrics.phase(Method::Sign, Phase::Enclave, begun.elapsed());
        let last = match &answer {
            Ok(answer) if wants_blob(answer) => false,
            Err(_) if !self.arrived && self.app.router.has_others() => false,
            answer => !may_be_sent_again(answer),
        };
        if last {
            let answer = answer.map_err(|error| failed(&self.app.metrics, error).after(begun));
            let result =
                answer.and_then(|answer| self.app.signed(&located, &request, (&answer, begun)));
            audited.end(&result);
            if !self.arrived {
                self.app.router.answered_by(request.key_id, Place::Own);
            }
            return Some(Done { tag, begun, result });
        }
        let (app, arrived) = (Arc::clone(&self.app), self.arrived);
        let work = async move {
            let work = async {
                let again = item(&located, &request, Bytes::new());
                let result = match app.router.settle(again, (answer, begun), &app.metrics).await {
                    Ok(answer) => app.finish(&located, &request, (answer, begun)).await,
                    Err(error) => Err(error),
                };
                if arrived {
                    return result;
                }
                app.after_own(&mut audited, &request, deadline, (result, begun)).await
            };
            let result = timeout_at(deadline, work).await;
            let result = result.unwrap_or_else(|_| Err(Error::deadline()));
            audited.end(&result);
            result
        };
        self.slowly((tag, slot), begun, work);
        None
    }

    fn slowly(
        &mut self,
        (tag, slot): (u64, Slot),
        begun: Instant,
        work: impl Future<Output = Result<Signed, Error>> + Send + 'static,
    ) {
        self.slow.push(Box::pin(async move {
            let _slot = slot;
            Done { tag, begun, result: work.await }
        }));
    }

    /// The oldest request if its deadline has passed.
    fn late(&mut self, cx: &mut Context<'_>) -> Option<Sent> {
        loop {
            let oldest = self.sent.first_entry()?;
            let deadline = oldest.get().deadline;
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
            if timer.as_mut().poll(cx).is_pending() {
                // It may be that of an older request; then it only wakes early.
                return None;
            }
            self.timer = None;
            if deadline <= Instant::now() {
                return Some(oldest.remove());
            }
        }
    }
}
