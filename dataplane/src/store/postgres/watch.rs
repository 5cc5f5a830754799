//! Looks at the server from time to time and at once when something failed, so that readiness and status
//! need no request to be true.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

use super::super::{StoreError, StoreStatus};
use super::connect::facts;
use super::durability::Durability;
use super::failure::Failure;
use super::pool::Pool;
use super::session::Session;

/// Between two looks at a server that answers.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// Between two looks at one that does not: what its return may go unseen.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// What the engine is called in status and log.
const ENGINE: &str = "postgres";

/// Reports for ever: once at the start, then at every change.
pub(super) async fn run(pool: Arc<Pool>, report: impl Fn(StoreStatus)) {
    let mut session = None;
    let mut last = StoreStatus { engine: ENGINE, ..StoreStatus::default() };
    loop {
        let found = look(&pool, &mut session).await;
        let works = found.is_ok();
        let status = judged(&pool, found, last.ready);
        if status != last {
            match &status.error {
                None => tracing::info!(durability = ?status.durability, "store works"),
                Some(error) => tracing::error!(error, "store does not work"),
            }
            report(status.clone());
            last = status;
        }
        if works {
            tokio::select! {
                () = sleep(CHECK_EVERY) => {}
                () = pool.wake.notified() => {}
            }
        } else {
            sleep(RETRY_EVERY).await;
        }
    }
}

/// Asks over a connection of its own: those of the pool may all be waiting.
async fn look(pool: &Pool, session: &mut Option<Session>) -> Result<Durability, StoreError> {
    if let Some(open) = session {
        let limit = pool.dialer.settings.statement_timeout();
        match timeout(limit, ask(open.client())).await {
            Ok(Ok(durability)) => {
                pool.reached();
                return Ok(durability);
            }
            // What happened to an old connection says little: a new one is tried first.
            Ok(Err(_)) | Err(_) => *session = None,
        }
    }
    let (open, durability) = pool.dialer.dial().await?;
    pool.reached();
    *session = Some(open);
    Ok(durability)
}

async fn ask(client: &Client) -> Result<Durability, StoreError> {
    match facts(client).await.map_err(Failure::into_error)? {
        (false, durability) => Ok(durability),
        (true, _) => Err(StoreError::Unavailable("the server became a standby".to_owned())),
    }
}

/// A member stays ready through an outage that all members share: it signs with what is cached, and
/// callers get their hints. It is not ready before the store has worked once.
fn judged(pool: &Pool, found: Result<Durability, StoreError>, was_ready: bool) -> StoreStatus {
    let (durability, error) = match found {
        Ok(durability) => {
            let objection = pool.judge(&durability);
            let read_only = (durability.read_only != "off")
                .then(|| "the server is read-only: nothing can be stored".to_owned());
            (Some(durability), objection.or(read_only))
        }
        Err(error) => (None, Some(error.to_string())),
    };
    let durable = error.is_none();
    StoreStatus { engine: ENGINE, ready: was_ready || durable, durable, error, durability }
}
