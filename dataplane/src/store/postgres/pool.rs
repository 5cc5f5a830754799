//! A few connections, used by one statement each at a time. A statement that takes too long keeps its
//! connection: its caller is answered, and nothing is cancelled, since PostgreSQL reports a cancelled wait
//! for a standby as success. So a server that hangs never has more than these connections to hold.

use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::super::{Connections, StoreError};
use super::connect::Dialer;
use super::durability::Durability;
use super::failure::Failure;
use super::session::Session;
use crate::pool::backoff::{Backoff, random};

/// First wait after a connection that failed; doubles.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest wait: what a server that came back is not used for at most.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Statements that may wait for a connection; each is a request that waits, as in the embedded store.
const WAITING_MAX: usize = 4_096;

const RUNNING: u8 = 0;
const OVERDUE: u8 = 1;
const DONE: u8 = 2;

/// The connections.
pub(super) struct Pool {
    pub(super) dialer: Dialer,
    places: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    state: Mutex<State>,
    /// Connections whose statement has had no answer in time.
    stuck: AtomicUsize,
    /// Statements that got no connection.
    refused: AtomicU64,
    /// Something failed: the watch should look now.
    pub(super) wake: Notify,
}

struct State {
    idle: Vec<Session>,
    backoff: Backoff,
    /// No connection is tried before this time, and why.
    shut: Option<(Instant, StoreError)>,
    /// Why writes are refused.
    objection: Option<String>,
}

/// A connection and the right to use it.
struct Lease {
    session: Session,
    _place: OwnedSemaphorePermit,
}

// === impl Pool ===

impl Pool {
    pub(super) fn new(dialer: Dialer) -> Self {
        let state = State {
            idle: Vec::new(),
            backoff: Backoff::new(BACKOFF_MIN, BACKOFF_MAX),
            shut: None,
            objection: None,
        };
        Self {
            places: Arc::new(Semaphore::new(dialer.settings.connections)),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            state: Mutex::new(state),
            stuck: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            wake: Notify::new(),
            dialer,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the newest answer of the server means for writes.
    pub(super) fn judge(&self, durability: &Durability) -> Option<String> {
        let objection = durability.objection(self.dialer.settings.accept_single_node_durability);
        self.state().objection.clone_from(&objection);
        objection
    }

    /// How the connections are used at this moment.
    pub(super) fn connections(&self) -> Connections {
        let places = self.dialer.settings.connections;
        Connections {
            in_use: places.saturating_sub(self.places.available_permits()),
            idle: self.state().idle.len(),
            acquire_failures: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Why writes are refused, if they are.
    pub(super) fn objection(&self) -> Option<String> {
        self.state().objection.clone()
    }

    /// Runs `work` on a connection. Its failure says whether a write may have happened.
    pub(super) async fn statement<T, W>(self: &Arc<Self>, work: W) -> Result<T, Failure>
    where
        T: Send + 'static,
        W: for<'s> FnOnce(&'s mut Session) -> BoxFuture<'s, Result<T, Failure>> + Send + 'static,
    {
        let call = self.dialer.calls.begin();
        let lease = self.acquire().await.map_err(|error| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            Failure::Refused(error)
        })?;
        let phase = Arc::new(AtomicU8::new(RUNNING));
        let limit = self.dialer.settings.statement_timeout();
        let task = tokio::spawn(Arc::clone(self).run(lease, Arc::clone(&phase), work));
        match timeout(limit, task).await {
            Ok(Ok(result)) => {
                // A transaction that was in the way is everyday work.
                call.end(matches!(result, Ok(_) | Err(Failure::Again(_))));
                result
            }
            Ok(Err(_)) => Err(unknown("a statement was cut short")),
            Err(_) => {
                // Counted before the task may see it.
                self.stuck.fetch_add(1, Ordering::SeqCst);
                if phase.swap(OVERDUE, Ordering::SeqCst) == DONE {
                    self.stuck.fetch_sub(1, Ordering::SeqCst);
                }
                self.wake.notify_one();
                Err(unknown(&format!("no answer within {} ms", limit.as_millis())))
            }
        }
    }

    async fn run<T, W>(
        self: Arc<Self>,
        mut lease: Lease,
        phase: Arc<AtomicU8>,
        work: W,
    ) -> Result<T, Failure>
    where
        W: for<'s> FnOnce(&'s mut Session) -> BoxFuture<'s, Result<T, Failure>>,
    {
        let result = work(&mut lease.session).await;
        if phase.swap(DONE, Ordering::SeqCst) == OVERDUE {
            self.stuck.fetch_sub(1, Ordering::SeqCst);
        }
        if matches!(result, Err(Failure::Lost(_))) {
            // The others most likely went the same way.
            self.state().idle.clear();
            self.wake.notify_one();
        } else if !lease.session.is_closed() {
            let Lease { session, _place } = lease;
            self.state().idle.push(session);
        }
        result
    }

    async fn acquire(&self) -> Result<Lease, StoreError> {
        let busy = |why: String| StoreError::Unavailable(why);
        let connections = self.dialer.settings.connections;
        if self.stuck.load(Ordering::SeqCst) >= connections {
            return Err(busy(format!("all {connections} connections wait for the server")));
        }
        let _waits = Arc::clone(&self.waiting)
            .try_acquire_owned()
            .map_err(|_| busy(format!("{WAITING_MAX} statements are waiting")))?;
        let limit = self.dialer.settings.acquire_timeout();
        let place = timeout(limit, Arc::clone(&self.places).acquire_owned())
            .await
            .map_err(|_| busy(format!("no connection was free within {} ms", limit.as_millis())))?
            .map_err(|_| busy("the store is closed".to_owned()))?;
        if let Some(session) = self.idle()? {
            return Ok(Lease { session, _place: place });
        }
        match self.dialer.dial().await {
            Ok((session, durability)) => {
                self.judge(&durability);
                self.reached();
                Ok(Lease { session, _place: place })
            }
            Err(error) => {
                let mut state = self.state();
                let wait = state.backoff.wait(random());
                state.shut = Some((Instant::now() + wait, error.clone()));
                drop(state);
                self.wake.notify_one();
                Err(error)
            }
        }
    }

    /// A connection that is open, or none if one may be made now.
    fn idle(&self) -> Result<Option<Session>, StoreError> {
        let mut state = self.state();
        while let Some(session) = state.idle.pop() {
            if !session.is_closed() {
                return Ok(Some(session));
            }
        }
        match &state.shut {
            Some((until, why)) if Instant::now() < *until => Err(why.clone()),
            _ => Ok(None),
        }
    }

    /// A connection worked: the next one may be made at once.
    pub(super) fn reached(&self) {
        let mut state = self.state();
        state.backoff.reset();
        state.shut = None;
    }
}

fn unknown(why: &str) -> Failure {
    Failure::Unknown(StoreError::Unavailable(format!("{why}; what was asked may still be done")))
}
