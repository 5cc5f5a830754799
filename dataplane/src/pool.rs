//! Connections to the attested enclave. Each runtime has a pool of its own, so nothing of a request
//! crosses threads. Connections are opened ahead of requests and restored behind their backs.
//!
//! `connection.rs`, `breaker.rs`, `size.rs` and `quarantine.rs` decide and are pure; `keeper.rs` and
//! `supervisor.rs` act; what the pools of all workers share is in `upstream.rs`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use sigil_enclave_client::EnclaveAddress;
use sigil_enclave_protocol::handshake::{BootId, ClaimToken};
use sigil_enclave_protocol::v1::{SignItem, SignResult};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

mod alone;
pub(crate) mod backoff;
mod breaker;
mod connection;
mod counters;
mod events;
mod gate;
mod group;
mod keeper;
mod lane;
mod lanes;
mod load;
mod metrics;
mod quarantine;
pub(crate) mod session;
mod size;
mod stream;
mod supervisor;
mod suspects;
mod sync;
pub(crate) mod transport;
mod upstream;

use counters::Counters;
pub(crate) use group::Group;
use group::Member;
use lane::{Lane, Permit};
use lanes::{Carries, Lanes};
pub(crate) use metrics::Upstreams;
use quarantine::{Fingerprint, Verdict};
use session::Client;
pub(crate) use size::Share;
use stream::{Job, Reply};
pub(crate) use supervisor::Wanted;
pub(crate) use upstream::Upstream;

/// Longest wait of a suspect for the one before it; with its own signature inside the time in which a
/// request may be sent again.
const SUSPECT_WAIT_MAX: Duration = Duration::from_millis(150);
/// Callers are told apart once they are authenticated.
const NO_CALLER: &str = "";

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
    /// The breaker refuses; one may find out after this time.
    Shut {
        /// At least 1.
        retry_after_ms: u32,
    },
    /// Every queue is full.
    Full,
    /// The connection ended before the request went out.
    NotSent,
    /// The connection ended before the answer came; the enclave may have done the work.
    Lost,
    /// It was in flight when an enclave ended and is sent alone; another such request is being tried.
    Suspect,
    /// Two enclaves ended with it; it is refused for a while.
    Quarantined,
}

/// What becomes of an item.
type Signed = Result<SignResult, PoolError>;

/// A pool. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    upstream: Arc<Upstream>,
    counters: Arc<Counters>,
    /// Number of the worker thread, for events.
    worker: usize,
    boots: BootWatch,
    /// Read by every request, replaced when a connection comes or goes.
    lanes: ArcSwap<Lanes<Lane>>,
    /// Held while `lanes` is replaced.
    change: Mutex<()>,
    changed: Notify,
    /// The last boot that connections were kept to.
    last_boot: Mutex<Option<BootId>>,
}

// === impl Pool ===

impl Pool {
    /// Starts a pool to `upstream` on the current runtime; it follows `boots` and what is ordered.
    pub(crate) fn start(boots: BootWatch, upstream: &Arc<Upstream>, wanted: Wanted) -> Self {
        let counters = match wanted {
            Wanted::Share(_) => upstream.counters(),
            // Of the control plane: it is none of the connections that requests are served by.
            Wanted::Fixed(_) => Arc::default(),
        };
        let worker = if let Wanted::Share(share) = wanted { share.index } else { usize::MAX };
        let shared = Arc::new(Shared {
            upstream: Arc::clone(upstream),
            counters,
            worker,
            boots: boots.clone(),
            lanes: ArcSwap::default(),
            change: Mutex::new(()),
            changed: Notify::new(),
            last_boot: Mutex::new(None),
        });
        tokio::spawn(supervisor::run(Arc::clone(&shared), boots, wanted));
        Self { shared }
    }

    /// Sends one item with whatever else is queued; alone if it may have ended an enclave. The future is
    /// part of every request's, so what is seldom is kept out of it.
    pub(crate) async fn sign(&self, item: SignItem) -> Signed {
        if !self.shared.upstream.suspects.is_empty() {
            return self.sign_judged(item).await;
        }
        self.send(item)?.await.unwrap_or(Err(PoolError::Lost))
    }

    /// The same while requests are suspected.
    fn sign_judged(&self, item: SignItem) -> BoxFuture<'_, Signed> {
        Box::pin(async move {
            let which = suspects::fingerprint(NO_CALLER, &item);
            match self.judge(which) {
                Verdict::Send => self.send(item)?.await.unwrap_or(Err(PoolError::Lost)),
                Verdict::SendAlone => self.sign_alone(which, item).await,
                Verdict::Refuse => Err(PoolError::Quarantined),
            }
        })
    }

    /// Queues one item on a connection; what comes of it.
    fn send(&self, item: SignItem) -> Result<oneshot::Receiver<Signed>, PoolError> {
        let (lane, permit) = self.acquire()?;
        let (reply, answer) = oneshot::channel();
        self.queue(&lane, item, Reply::One(reply, permit));
        Ok(answer)
    }

    /// Sends one item whose answer, or why there is none, comes to `group` with `number`.
    pub(crate) fn begin(&self, item: SignItem, group: &Group, number: u64) {
        let judged = if self.shared.upstream.suspects.is_empty() {
            Verdict::Send
        } else {
            self.judge(suspects::fingerprint(NO_CALLER, &item))
        };
        match judged {
            Verdict::Send => {}
            Verdict::SendAlone => return group.put(number, Err(PoolError::Suspect)),
            Verdict::Refuse => return group.put(number, Err(PoolError::Quarantined)),
        }
        match self.acquire() {
            Ok((lane, permit)) => {
                self.queue(&lane, item, Reply::Member(Member::new(group, number, permit)));
            }
            Err(error) => group.put(number, Err(error)),
        }
    }

    /// The item's answer was lost: it is suspect if the enclave is. To be told of every
    /// [`PoolError::Lost`] before the item is sent again.
    pub(crate) fn lost(&self, item: &SignItem) {
        let last = *self.shared.last_boot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(boot_id) = last {
            let which = suspects::fingerprint(NO_CALLER, item);
            self.shared.upstream.suspects.lost(which, boot_id);
        }
    }

    /// Whether a request would find a connection.
    pub(crate) fn is_up(&self) -> bool {
        self.shared.lanes.load().iter().next().is_some()
    }

    /// A client for single calls, with the boot that it leads to.
    pub(crate) fn client(&self) -> Result<(Client, Arc<Boot>), PoolError> {
        let (lane, _) = self.acquire()?;
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

    /// A place on a connection, at once or not at all.
    fn acquire(&self) -> Result<(Arc<Lane>, Permit), PoolError> {
        if let Err(wait) = self.shared.upstream.admit() {
            let retry_after_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1);
            return Err(PoolError::Shut { retry_after_ms });
        }
        let lanes = self.shared.lanes.load();
        let lane = lanes.choose().and_then(|lane| Some((Arc::clone(lane), Permit::new(lane)?)));
        lane.ok_or_else(|| {
            self.shared.exhausted("no connection is up");
            PoolError::NoEnclave
        })
    }

    fn queue(&self, lane: &Lane, item: SignItem, reply: Reply) {
        let asked = self.shared.counters.times_this().then(Instant::now);
        if let Err(error) = lane.queue.try_send(Job { item, reply, asked }) {
            let why = match &error {
                mpsc::error::TrySendError::Full(_) => {
                    self.shared.exhausted("as many requests as may wait are waiting");
                    PoolError::Full
                }
                mpsc::error::TrySendError::Closed(_) => PoolError::NotSent,
            };
            error.into_inner().reply.answer(Err(why));
        }
    }

    fn judge(&self, which: Fingerprint) -> Verdict {
        self.shared.upstream.suspects.asked(which, self.shared.boot_now())
    }

    /// One suspect at a time, on a connection of its own. It goes on when its caller has gone: what
    /// became of the enclave must be heard.
    async fn sign_alone(
        &self,
        which: Fingerprint,
        item: SignItem,
    ) -> Result<SignResult, PoolError> {
        let suspects = &self.shared.upstream.suspects;
        let turn = timeout(SUSPECT_WAIT_MAX, Arc::clone(&suspects.turn).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(PoolError::Suspect) };
        if self.judge(which) == Verdict::Refuse {
            return Err(PoolError::Quarantined);
        }
        let Some(boot) = self.shared.boots.borrow().clone() else {
            return Err(PoolError::NoEnclave);
        };
        let upstream = Arc::clone(&self.shared.upstream);
        let trial = tokio::spawn(async move {
            let answer = alone::sign(&boot, item).await;
            match &answer {
                Ok(result) if suspects::settles(result) => upstream.suspects.settled(which),
                Err(PoolError::Lost) => upstream.suspects.lost(which, boot.boot_id),
                Ok(_) | Err(_) => {}
            }
            drop(turn);
            answer
        });
        trial.await.unwrap_or(Err(PoolError::Lost))
    }
}

// === impl Shared ===

impl Shared {
    fn replace(&self, change: impl FnOnce(&mut Lanes<Lane>)) {
        let _guard = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lanes = self.lanes.load().as_ref().clone();
        change(&mut lanes);
        self.lanes.store(Arc::new(lanes));
        self.changed.notify_waiters();
    }

    /// Another boot: what was held against the one before does not count.
    fn boot_began(&self, boot_id: BootId) {
        let mut last = self.last_boot.lock().unwrap_or_else(PoisonError::into_inner);
        if last.replace(boot_id) != Some(boot_id) {
            self.upstream.reset_breaker();
        }
    }

    fn boot_now(&self) -> Option<BootId> {
        self.boots.borrow().as_ref().map(|boot| boot.boot_id)
    }

    fn exhausted(&self, reason: &'static str) {
        self.counters.exhausted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.upstream.events.exhausted(&self.upstream.enclave_id, self.worker, reason);
    }

    /// Finds out which connections stand still.
    fn look(&self) {
        self.lanes.load().iter().for_each(|lane| lane.look());
    }

    fn in_flight(&self) -> usize {
        self.lanes.load().iter().map(|lane| lane.load().in_flight()).sum()
    }
}
