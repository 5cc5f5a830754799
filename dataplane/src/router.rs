//! Which member signs. There is one: the node's own enclave.

use std::time::Duration;

use sigil_enclave_protocol::v1::{ErrorCode, SignItem, SignResult};
use tokio::time::Instant;

use crate::error::{Code, Error};
use crate::metrics::Metrics;
use crate::pool::session::Client;
use crate::pool::{Pool, PoolError};

/// Sends of one request, the first included (row S14a).
const SENDS_MAX: u32 = 3;
/// Time in which a request may be sent again.
const RETRY_TIME_MAX: Duration = Duration::from_millis(200);
/// Time for a lost connection's place to be taken by another, 20-30 ms.
const RETRY_WAIT: Duration = Duration::from_millis(30);

/// Routes requests to members.
pub(crate) struct Router {
    local: Pool,
}

impl Router {
    /// A router with one member.
    pub(crate) fn new(local: Pool) -> Self {
        Self { local }
    }

    /// Sends one item. Signing is deterministic, so an item whose answer was lost may be sent again;
    /// `UNLOCK_REQUIRED` never is.
    pub(crate) async fn sign(
        &self,
        item: SignItem,
        metrics: &Metrics,
    ) -> Result<SignResult, Error> {
        let started = Instant::now();
        let mut sends = 1;
        loop {
            let result = self.local.sign(item.clone()).await;
            let again = match &result {
                Ok(result) => result.error == i32::from(ErrorCode::RetryLater),
                Err(error) => *error == PoolError::Lost,
            };
            if !again || sends >= SENDS_MAX || started.elapsed() + RETRY_WAIT > RETRY_TIME_MAX {
                return result.map_err(pool_error);
            }
            sends += 1;
            metrics.retries.inc();
            tokio::time::sleep(RETRY_WAIT).await;
        }
    }

    /// A client for single calls.
    pub(crate) fn client(&self) -> Result<Client, Error> {
        self.local.client().map(|(client, _)| client).map_err(pool_error)
    }
}

fn pool_error(error: PoolError) -> Error {
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
