//! Which member signs. There is one: the node's own enclave.

use std::sync::Arc;
use std::time::Duration;

use sigil_enclave_protocol::v1::{ErrorCode, SignItem, SignResult};
use tokio::time::Instant;

use crate::error::{Code, Error};
use crate::metrics::Metrics;
use crate::pool::session::Client;
use crate::pool::{Group, Pool, PoolError};

mod budget;
pub mod membership;
mod metrics;
pub mod ring;
mod table;

pub(crate) use budget::RetryBudget;
pub(crate) use metrics::RouteMetrics;
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
}

impl Router {
    /// A router with one member. The budget is that of the process.
    pub(crate) fn new(local: Pool, budget: Arc<RetryBudget>) -> Self {
        Self { local, budget }
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
            return first.map_err(pool_error);
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
        let send = || self.local.sign(item.clone());
        send_again(&self.budget, metrics, (first, started), send).await.map_err(pool_error)
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
        Err(error) => *error == PoolError::Lost,
    }
}

/// Sends again within the bounds of one request and the budget of all.
async fn send_again<S: Future<Output = Result<SignResult, PoolError>>>(
    budget: &RetryBudget,
    metrics: &Metrics,
    (mut result, started): (S::Output, Instant),
    send: impl Fn() -> S,
) -> S::Output {
    let mut sends = 1;
    loop {
        let late = started.elapsed() + RETRY_WAIT > RETRY_TIME_MAX;
        let more = may_be_sent_again(&result) && sends < SENDS_MAX && !late;
        if !more || !budget.spend(Instant::now()) {
            return result;
        }
        sends += 1;
        metrics.retries.inc();
        tokio::time::sleep(RETRY_WAIT).await;
        result = send().await;
    }
}

/// What the pool's failure means to a caller.
pub(crate) fn pool_error(error: PoolError) -> Error {
    match error {
        PoolError::NoEnclave => Error::enclave_unavailable(),
        PoolError::Lost => Error::enclave_unavailable().because("the connection ended"),
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
        let all = (0..requests).map(|_| {
            budget.earn();
            count.fetch_add(1, Ordering::Relaxed);
            send_again(&budget, &metrics, (answer.clone(), Instant::now()), || {
                count.fetch_add(1, Ordering::Relaxed);
                std::future::ready(answer.clone())
            })
        });
        futures_util::future::join_all(all).await;
        (count.into_inner(), metrics.retries.get())
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_sent_three_times_and_a_storm_hardly_more_than_once_each() {
        let later = SignResult { error: ErrorCode::RetryLater.into(), ..SignResult::default() };
        let locked =
            SignResult { error: ErrorCode::UnlockRequired.into(), ..SignResult::default() };
        for (answer, once) in [(Ok(later), 3), (Err(PoolError::Lost), 3), (Ok(locked), 1)] {
            assert_eq!(sends(1, answer.clone()).await, (once, once - 1));
            let (all, again) = sends(10_000, answer).await;
            assert_eq!(all, 10_000 + again);
            assert!(again <= 1_000 + 510, "{again} retries");
            assert_eq!(again == 0, once == 1);
        }
    }
}
