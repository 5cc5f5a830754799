//! Which member signs: the node's own enclave, or another one that the ring names. What is sent to
//! others arrives at their [`crate::ingress`] and is never sent on from there.

use std::sync::Arc;
use std::time::Duration;

use sigil_enclave_client::KeyId;
use sigil_enclave_protocol::v1::{ErrorCode, SignItem, SignResult};
use tokio::time::Instant;

use crate::config::Policy;
use crate::error::{Code, Error};
use crate::metrics::Metrics;
use crate::pool::session::Client;
use crate::pool::{Group, Pool, PoolError};

mod budget;
mod hop;
pub mod membership;
mod metrics;
mod peers;
mod plan;
pub mod ring;
mod table;

pub(crate) use budget::RetryBudget;
pub(crate) use metrics::RouteMetrics;
pub(crate) use peers::{Identity, Peers};
pub(crate) use plan::{Place, Plan, Step};
use table::Routes;
pub use table::Table;

/// Sends of one request, the first included (row S14a).
const SENDS_MAX: u32 = 3;
/// Time in which a request may be sent again.
const RETRY_TIME_MAX: Duration = Duration::from_millis(200);
/// Time for a lost connection's place to be taken by another, 20-30 ms.
const RETRY_WAIT: Duration = Duration::from_millis(30);

/// Routes requests to members.
pub(crate) struct Router {
    local: Pool,
    budget: Arc<RetryBudget>,
    members: Members,
}

/// The pool as one worker sees it.
pub(crate) struct Members {
    pub(crate) table: Arc<Table>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) policy: Policy,
    /// Time after which another member is at fault.
    pub(crate) hop_time_max: Duration,
}

impl Router {
    /// A router with one member. The budget is that of the process.
    pub(crate) fn new(local: Pool, budget: Arc<RetryBudget>) -> Self {
        let members = Members {
            table: Arc::new(Table::new(1, None)),
            peers: Arc::default(),
            policy: Policy::LocalFirst,
            hop_time_max: RETRY_TIME_MAX,
        };
        Self { local, budget, members }
    }

    /// The same among others.
    pub(crate) fn among(self, members: Members) -> Self {
        Self { members, ..self }
    }

    /// Epoch of the ring that requests are routed by; 0 without one.
    pub(crate) fn epoch(&self) -> i64 {
        self.members.table.load().epoch
    }

    /// Whether a request for this key goes to the own enclave first.
    pub(crate) fn is_for_own(&self, key_id: KeyId) -> bool {
        let routes = self.members.table.load();
        let first = self.places(&routes, key_id).next();
        first == Some(Place::Own) && (routes.peers.is_empty() || self.local.is_up())
    }

    /// Whether anybody else could be asked.
    pub(crate) fn has_others(&self) -> bool {
        !self.members.table.load().peers.is_empty()
    }

    /// The next place for a request that has been to those of `plan`; none when nobody is left who could
    /// be asked now.
    pub(crate) fn next(&self, key_id: KeyId, plan: &mut Plan) -> Option<Step> {
        let routes = self.members.table.load();
        for place in self.places(&routes, key_id) {
            if plan.has(place) {
                continue;
            }
            let step = match place {
                Place::Own => self.local.is_up().then_some(Step::Own),
                Place::Member(slot) => self.members.peers.usable(slot).map(Step::Member),
            };
            if let Some(step) = step {
                return plan.note(place).then_some(step);
            }
        }
        None
    }

    /// Counts an answer by who gave it (row S9a), if there is a choice at all.
    pub(crate) fn answered_by(&self, key_id: KeyId, place: Place) {
        let routes = self.members.table.load();
        if routes.epoch == 0 {
            return;
        }
        let metrics = &self.members.table.metrics;
        let first = self.places(&routes, key_id).next() == Some(place);
        if first {
            metrics.sticky.inc()
        } else {
            metrics.cross_enclave.inc()
        };
    }

    /// Takes one more send for a request that began then, if it may be sent again.
    pub(crate) fn may_send_again(&self, started: Instant, metrics: &Metrics) -> bool {
        let may = started.elapsed() <= RETRY_TIME_MAX && self.budget.spend(Instant::now());
        if may {
            metrics.retries.inc();
        }
        may
    }

    fn places<'a>(
        &self,
        routes: &'a Routes,
        key_id: KeyId,
    ) -> impl Iterator<Item = Place> + use<'a> {
        plan::places((self.members.policy, self.members.table.own()), routes, key_id)
    }

    /// Sends one item, `started` being now. Signing is deterministic, so an item whose answer was lost
    /// may be sent again; `UNLOCK_REQUIRED` never is.
    pub(crate) async fn sign(
        &self,
        item: impl Fn() -> SignItem,
        started: Instant,
        metrics: &Metrics,
    ) -> Result<SignResult, Error> {
        self.budget.earn();
        let first = self.local.sign(item()).await;
        if !may_be_sent_again(&first) {
            return first.map_err(|error| failed(metrics, error));
        }
        // Seldom, and larger than all the rest: every request would carry its state.
        Box::pin(self.settle(item(), (first, started), metrics)).await
    }

    /// Sends one item whose first answer comes to `group` with `number`; [`Router::settle`] takes it on.
    pub(crate) fn begin(&self, item: SignItem, group: &Group, number: u64) {
        self.budget.earn();
        self.local.begin(item, group, number);
    }

    /// From the first answer to an item that was sent at the given time to the one that counts.
    pub(crate) async fn settle(
        &self,
        item: SignItem,
        (first, started): (Result<SignResult, PoolError>, Instant),
        metrics: &Metrics,
    ) -> Result<SignResult, Error> {
        let again =
            Again { send: || self.local.sign(item.clone()), lost: || self.local.lost(&item) };
        let last = send_again(&self.budget, metrics, (first, started), again).await;
        last.map_err(|error| failed(metrics, error))
    }

    /// A client for single calls.
    pub(crate) fn client(&self) -> Result<Client, Error> {
        self.local.client().map(|(client, _)| client).map_err(pool_error)
    }
}

/// Whether sending the same item again may help.
pub(crate) fn may_be_sent_again(answer: &Result<SignResult, PoolError>) -> bool {
    match answer {
        Ok(result) => result.error == i32::from(ErrorCode::RetryLater),
        Err(error) => {
            matches!(error, PoolError::Lost | PoolError::NotSent | PoolError::Suspect)
        }
    }
}

/// How one request is sent again, and whom a lost answer is told.
struct Again<S, L> {
    send: S,
    lost: L,
}

/// Sends again within the bounds of one request and the budget of all.
async fn send_again<S: Future<Output = Result<SignResult, PoolError>>>(
    budget: &RetryBudget,
    metrics: &Metrics,
    (mut result, started): (S::Output, Instant),
    again: Again<impl Fn() -> S, impl Fn()>,
) -> S::Output {
    let mut sends = 1;
    loop {
        if result == Err(PoolError::Lost) {
            (again.lost)();
        }
        let late = started.elapsed() + RETRY_WAIT > RETRY_TIME_MAX;
        let more = may_be_sent_again(&result) && sends < SENDS_MAX && !late;
        if !more || !budget.spend(Instant::now()) {
            return result;
        }
        sends += 1;
        metrics.retries.inc();
        tokio::time::sleep(RETRY_WAIT).await;
        result = (again.send)().await;
    }
}

/// What the last failure of a request means to its caller. It is counted.
pub(crate) fn failed(metrics: &Metrics, error: PoolError) -> Error {
    metrics.enclave_failed();
    pool_error(error)
}

/// What the pool's failure means to a caller.
fn pool_error(error: PoolError) -> Error {
    match error {
        PoolError::NoEnclave => Error::enclave_unavailable(),
        PoolError::Shut { retry_after_ms } => Error {
            retry_after_ms: Some(retry_after_ms),
            circuit_open: true,
            ..Error::enclave_unavailable().because("the breaker is shut")
        },
        PoolError::Lost => Error::enclave_unavailable().because("the connection ended"),
        PoolError::NotSent => {
            Error::enclave_unavailable().because("the connection ended before the request went out")
        }
        PoolError::Suspect => Error::new(
            Code::RetryLater,
            "this request was in flight when an enclave ended, so it is tried alone; send it again",
        ),
        PoolError::Quarantined => Error::new(
            Code::Internal,
            "enclaves ended while they worked on this request; it is refused for some minutes",
        ),
        PoolError::Full => {
            Error::new(Code::Overloaded, "as many requests as may wait for the enclave are waiting")
        }
    }
}

/// A call that failed below the enclave's own error codes.
pub(crate) fn call_error(status: &tonic::Status) -> Error {
    match status.code() {
        tonic::Code::ResourceExhausted => {
            Error::new(Code::Overloaded, "the enclave is at its bound").because(status.message())
        }
        tonic::Code::InvalidArgument | tonic::Code::Unimplemented => {
            Error::internal(format!("enclave: {}", status.message()))
        }
        _ => Error::enclave_unavailable().because(status.message()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Sends of `requests` at once, and how many of them were retries.
    async fn sends(requests: u64, answer: Result<SignResult, PoolError>) -> (u64, u64) {
        let (budget, metrics) = (RetryBudget::new(Instant::now()), Metrics::new());
        let count = AtomicU64::new(0);
        let all = (0..requests).map(|_| async {
            budget.earn();
            count.fetch_add(1, Ordering::Relaxed);
            let send = || {
                count.fetch_add(1, Ordering::Relaxed);
                std::future::ready(answer.clone())
            };
            let again = Again { send, lost: || () };
            send_again(&budget, &metrics, (answer.clone(), Instant::now()), again).await
        });
        futures_util::future::join_all(all).await;
        (count.into_inner(), metrics.retries.get())
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_sent_three_times_and_a_storm_hardly_more_than_once_each() {
        let later = SignResult { error: ErrorCode::RetryLater.into(), ..SignResult::default() };
        let locked =
            SignResult { error: ErrorCode::UnlockRequired.into(), ..SignResult::default() };
        let shut = PoolError::Shut { retry_after_ms: 700 };
        for (answer, once) in [
            (Ok(later), 3),
            (Err(PoolError::Lost), 3),
            (Err(PoolError::NotSent), 3),
            (Ok(locked), 1),
            (Err(shut), 1),
            (Err(PoolError::Quarantined), 1),
        ] {
            assert_eq!(sends(1, answer.clone()).await, (once, once - 1));
            let (all, again) = sends(10_000, answer).await;
            assert_eq!(all, 10_000 + again);
            assert!(again <= 1_000 + 510, "{again} retries");
            assert_eq!(again == 0, once == 1);
        }
    }

    #[test]
    fn a_shut_breaker_is_said_with_how_long_it_stays_shut() {
        let error = pool_error(PoolError::Shut { retry_after_ms: 700 });
        assert_eq!((error.code, error.retry_after_ms), (Code::EnclaveUnavailable, Some(700)));
        assert!(error.circuit_open);
        assert!(pool_error(PoolError::Quarantined).retry_after_ms.is_none());
    }
}
