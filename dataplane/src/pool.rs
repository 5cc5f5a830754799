//! Connections to the attested enclave. Each runtime has a pool of its own, so nothing of a request
//! crosses threads. Connections are opened ahead of requests and restored behind their backs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use sigil_enclave_client::EnclaveAddress;
use sigil_enclave_protocol::handshake::{BootId, ClaimToken};
use sigil_enclave_protocol::v1::{SignItem, SignResult};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::metrics::Metrics;

pub(crate) mod backoff;
mod group;
pub(crate) mod session;
mod stream;
pub(crate) mod transport;

use backoff::Backoff;
pub(crate) use group::Group;
use group::Member;
use session::{Client, Session};
use stream::{Job, QUEUE_DEPTH_MAX, Reply};

/// First and longest wait before a connection is tried again (row S2b).
const RECONNECT_MIN: Duration = Duration::from_millis(25);
const RECONNECT_MAX: Duration = Duration::from_millis(200);

/// A boot that was attested and may be routed to.
#[derive(Debug)]
#[allow(clippy::struct_field_names, reason = "`boot_id` is the word everywhere")]
pub(crate) struct Boot {
    /// Identity of the boot.
    pub(crate) boot_id: BootId,
    /// Where it listens.
    pub(crate) address: EnclaveAddress,
    /// What every connection proves.
    pub(crate) token: ClaimToken,
    /// PCR0 of its image.
    pub(crate) pcr0: [u8; 48],
    /// The document chains to the AWS root.
    pub(crate) trusted: bool,
}

/// The newest attested boot, or none.
pub(crate) type BootWatch = watch::Receiver<Option<Arc<Boot>>>;

/// Why a request has no answer of the enclave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PoolError {
    /// No connection is up.
    NoEnclave,
    /// Every queue is full.
    Full,
    /// The connection ended before the answer came; the enclave may have done the work.
    Lost,
}

/// One connection with its stream.
struct Lane {
    queue: mpsc::Sender<Job>,
    client: Client,
    worker_index: u16,
    in_flight: AtomicUsize,
    boot: Arc<Boot>,
}

/// A pool. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    /// Read by every request, replaced when a connection comes or goes.
    lanes: ArcSwap<Vec<Arc<Lane>>>,
    /// Held while `lanes` is replaced.
    change: Mutex<()>,
    changed: Notify,
    metrics: Arc<Metrics>,
}

/// Counts a request in flight until dropped.
struct Permit(Arc<Lane>);

// === impl Pool ===

impl Pool {
    /// Starts `connections` connections on the current runtime; they follow `boots`.
    pub(crate) fn start(boots: BootWatch, connections: usize, metrics: Arc<Metrics>) -> Self {
        let shared = Arc::new(Shared {
            lanes: ArcSwap::from_pointee(Vec::new()),
            change: Mutex::new(()),
            changed: Notify::new(),
            metrics,
        });
        tokio::spawn(supervise(Arc::clone(&shared), boots, connections));
        Self { shared }
    }

    /// Sends one item with whatever else is queued.
    pub(crate) async fn sign(&self, item: SignItem) -> Result<SignResult, PoolError> {
        let lane = self.acquire()?;
        let (reply, answer) = oneshot::channel();
        let permit = Permit::new(lane);
        let job = Job { item, reply: Reply::One(reply) };
        permit.0.queue.try_send(job).map_err(|error| self.not_queued(&error))?;
        answer.await.map_err(|_| PoolError::Lost)
    }

    /// Sends one item whose answer, or why there is none, comes to `group` with `number`.
    pub(crate) fn begin(&self, item: SignItem, group: &Group, number: u64) {
        let lane = match self.acquire() {
            Ok(lane) => lane,
            Err(error) => return group.put(number, Err(error)),
        };
        let reply = Reply::Member(Member::new(group, number, Permit::new(Arc::clone(&lane))));
        if let Err(error) = lane.queue.try_send(Job { item, reply }) {
            let why = self.not_queued(&error);
            error.into_inner().reply.answer(Err(why));
        }
    }

    fn not_queued(&self, error: &mpsc::error::TrySendError<Job>) -> PoolError {
        match error {
            mpsc::error::TrySendError::Full(_) => {
                self.shared.metrics.pool_exhausted.inc();
                PoolError::Full
            }
            mpsc::error::TrySendError::Closed(_) => PoolError::Lost,
        }
    }

    /// A client for single calls, with the boot that it leads to.
    pub(crate) fn client(&self) -> Result<(Client, Arc<Boot>), PoolError> {
        let lane = self.acquire()?;
        Ok((lane.client.clone(), Arc::clone(&lane.boot)))
    }

    /// Waits until a connection to `boot_id` is up. Not for requests, which never wait for one.
    pub(crate) async fn wait_for(&self, boot_id: BootId) {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.shared.lanes.load().iter().any(|lane| lane.boot.boot_id == boot_id) {
                return;
            }
            changed.await;
        }
    }

    /// The least loaded among the first connections to each worker. Ties go to the first, so a
    /// light load shares one connection and a heavy one reaches every worker.
    fn acquire(&self) -> Result<Arc<Lane>, PoolError> {
        let lanes = self.shared.lanes.load();
        let leads = lanes.iter().enumerate().filter(|(index, lane)| {
            lanes.iter().take(*index).all(|other| other.worker_index != lane.worker_index)
        });
        let least = leads.min_by_key(|(_, lane)| lane.in_flight.load(Ordering::Relaxed));
        if let Some((_, lane)) = least {
            return Ok(Arc::clone(lane));
        }
        self.shared.metrics.pool_exhausted.inc();
        Err(PoolError::NoEnclave)
    }
}

// === impl Permit ===

impl Permit {
    fn new(lane: Arc<Lane>) -> Self {
        lane.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(lane)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Shared ===

impl Shared {
    fn replace(&self, change: impl FnOnce(&mut Vec<Arc<Lane>>)) {
        let _guard = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lanes = self.lanes.load().as_ref().clone();
        let before = lanes.len();
        change(&mut lanes);
        let grown = i64::try_from(lanes.len()).unwrap_or(0) - i64::try_from(before).unwrap_or(0);
        self.metrics.active_conns.inc_by(grown);
        self.lanes.store(Arc::new(lanes));
        self.changed.notify_waiters();
    }
}

/// Keeps as many connections as asked to the newest boot, and none to an older one.
async fn supervise(shared: Arc<Shared>, mut boots: BootWatch, connections: usize) {
    loop {
        let boot = boots.borrow_and_update().clone();
        let mut slots = JoinSet::new();
        if let Some(boot) = boot {
            for _ in 0..connections {
                slots.spawn(keep_connected(Arc::clone(&shared), Arc::clone(&boot)));
            }
        }
        let changed = boots.changed().await;
        slots.shutdown().await;
        shared.replace(Vec::clear);
        if changed.is_err() {
            return;
        }
    }
}

async fn keep_connected(shared: Arc<Shared>, boot: Arc<Boot>) {
    let mut backoff = Backoff::new(RECONNECT_MIN, RECONNECT_MAX);
    loop {
        let ended = match Session::open(&boot.address, boot.boot_id, &boot.token).await {
            Ok(session) => {
                backoff.reset();
                Ok((session.worker_index, serve_lane(&shared, &session, &boot).await))
            }
            Err(error) => Err(error),
        };
        let wait = backoff.wait(backoff::random());
        let again_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        match ended {
            Ok((worker_index, reason)) => tracing::info!(
                boot_id = %boot.boot_id,
                worker_index,
                reason,
                again_in_ms,
                "sign stream ended"
            ),
            Err(error) => tracing::debug!(%error, again_in_ms, "no connection to the enclave"),
        }
        tokio::time::sleep(wait).await;
    }
}

/// Serves a connection until it ends; says why it did.
async fn serve_lane(shared: &Shared, session: &Session, boot: &Arc<Boot>) -> String {
    let (queue, receiver) = mpsc::channel(QUEUE_DEPTH_MAX);
    let lane = Arc::new(Lane {
        queue,
        client: session.client.clone(),
        worker_index: session.worker_index,
        in_flight: AtomicUsize::new(0),
        boot: Arc::clone(boot),
    });
    shared.replace(|lanes| lanes.push(Arc::clone(&lane)));
    let ended = stream::run(session.client.clone(), receiver, Arc::clone(&shared.metrics)).await;
    shared.replace(|lanes| lanes.retain(|other| !Arc::ptr_eq(other, &lane)));
    shared.metrics.stream_resets.inc();
    ended.err().map_or_else(|| "ended".to_owned(), |status| status.message().to_owned())
}
