//! Connections to the other members, opened ahead of requests. Each worker has its own, so that nothing of
//! a request crosses threads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::membership::PeerAddress;
use super::table::Table;
use crate::hop_v1::{CreateHop, SignHop};
use crate::metrics::Calls;
use crate::pool::backoff::{self, Backoff};
use crate::v1;

mod connection;
mod health;
mod identity;
mod stream;

use connection::{Client, Connection};
use health::Health;
pub(crate) use identity::Identity;
use stream::{Job, QUEUE_DEPTH_MAX};

/// First and longest wait before a member is dialled again. It may be a node that is gone, so the longest
/// one is longer than for the enclave beside us.
const RECONNECT_MIN: Duration = Duration::from_millis(25);
const RECONNECT_MAX: Duration = Duration::from_secs(1);
/// Time that requests in flight to a member have when it leaves the ring.
const LEAVE_TIME_MAX: Duration = Duration::from_secs(5);

/// The other members as one worker reaches them.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    members: ArcSwap<BTreeMap<u16, Arc<Peer>>>,
}

/// Another member.
#[derive(Debug)]
pub(crate) struct Peer {
    slot: u16,
    /// While it is connected and lets us in.
    link: ArcSwapOption<Link>,
    health: Mutex<Health>,
    calls: Arc<Calls>,
}

#[derive(Debug)]
struct Link {
    queue: mpsc::Sender<Job>,
    client: Client,
}

/// Why a hop has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HopError {
    /// Nothing was sent: there is no connection.
    NotConnected,
    /// Nothing was sent: as many as may wait are waiting.
    Full,
    /// The connection ended before the answer came; the member may have done the work.
    Lost,
    /// No answer in time; the same.
    Late,
}

/// Until when a hop waits for its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// When its caller gives up.
    pub(crate) deadline: Instant,
    /// Time after which the member is at fault.
    pub(crate) time_max: Duration,
}

/// A member that is being kept connected; told to leave when dropped.
struct Kept {
    address: PeerAddress,
    peer: Arc<Peer>,
    _here: watch::Sender<()>,
}

// === impl Peers ===

impl Peers {
    /// Keeps connections to whoever `table` names, on the current runtime.
    pub(crate) fn start(table: Arc<Table>, identity: Arc<Identity>) -> Arc<Self> {
        let this = Arc::new(Self::default());
        tokio::spawn(follow(Arc::clone(&this), table, identity));
        this
    }

    /// The member of this slot, if a request may be sent to it now.
    pub(crate) fn usable(&self, slot: u16) -> Option<Arc<Peer>> {
        let members = self.members.load();
        let peer = members.get(&slot)?;
        let usable = peer.link.load().is_some() && peer.health().admits(Instant::now());
        usable.then(|| Arc::clone(peer))
    }
}

async fn follow(peers: Arc<Peers>, table: Arc<Table>, identity: Arc<Identity>) {
    let mut kept: BTreeMap<u16, Kept> = BTreeMap::new();
    let mut changed = table.subscribe();
    loop {
        changed.borrow_and_update();
        let wanted = table.load().peers.clone();
        kept.retain(|slot, kept| wanted.get(slot) == Some(&kept.address));
        for (slot, address) in wanted {
            let calls = &table.metrics.calls;
            kept.entry(slot).or_insert_with(|| Kept::start((slot, calls), address, &identity));
        }
        let members = kept.iter().map(|(slot, kept)| (*slot, Arc::clone(&kept.peer))).collect();
        peers.members.store(Arc::new(members));
        if changed.changed().await.is_err() {
            return;
        }
    }
}

// === impl Kept ===

impl Kept {
    fn start(
        (slot, calls): (u16, &Arc<Calls>),
        address: PeerAddress,
        identity: &Arc<Identity>,
    ) -> Self {
        let peer = Arc::new(Peer {
            slot,
            link: ArcSwapOption::empty(),
            health: Mutex::new(Health::NEW),
            calls: Arc::clone(calls),
        });
        let (here, stays) = watch::channel(());
        let keeper =
            keep_connected(Arc::clone(&peer), address.clone(), Arc::clone(identity), stays);
        tokio::spawn(keeper);
        Self { address, peer, _here: here }
    }
}

async fn keep_connected(
    peer: Arc<Peer>,
    address: PeerAddress,
    identity: Arc<Identity>,
    mut stays: watch::Receiver<()>,
) {
    let mut backoff = Backoff::new(RECONNECT_MIN, RECONNECT_MAX);
    let mut told = None;
    // A watch whose sender is gone has an error for whoever asks.
    while stays.has_changed().is_ok() {
        let why = match serve(&peer, &address, &identity, &mut backoff, &mut stays).await {
            Ok(()) => "ended".to_owned(),
            Err(why) => why,
        };
        let wait = backoff.wait(backoff::random());
        let slot = peer.slot;
        // Once for each reason: a member that is gone stays so for a while.
        if told.as_ref() == Some(&why) {
            tracing::debug!(slot, %address, why, "no connection to a member");
        } else {
            tracing::info!(slot, %address, why, "no connection to a member; it is tried again");
            told = Some(why);
        }
        tokio::select! {
            () = sleep(wait) => {}
            _ = stays.changed() => {}
        }
    }
}

/// One connection from its beginning to its end. When the member leaves the ring, nothing more is sent
/// and what is under way is waited for.
async fn serve(
    peer: &Peer,
    address: &PeerAddress,
    identity: &Identity,
    backoff: &mut Backoff,
    stays: &mut watch::Receiver<()>,
) -> Result<(), String> {
    let connection =
        Connection::open(address, identity).await.map_err(|error| error.to_string())?;
    let (queue, receiver) = mpsc::channel(QUEUE_DEPTH_MAX);
    let mut client = connection.client.clone();
    let opened = stream::open(&mut client, receiver).await;
    let opened = opened.map_err(|status| status.message().to_owned())?;
    backoff.reset();
    let _connected = peer.calls.connected();
    tracing::info!(slot = peer.slot, %address, "connected to a member");
    peer.link.store(Some(Arc::new(Link { queue, client })));
    let run = opened.run();
    tokio::pin!(run);
    let ended = tokio::select! {
        ended = run.as_mut() => ended,
        _ = stays.changed() => {
            peer.link.store(None);
            timeout(LEAVE_TIME_MAX, run).await.unwrap_or(Ok(()))
        }
    };
    peer.link.store(None);
    ended.map_err(|status| status.message().to_owned())
}

// === impl Peer ===

impl Peer {
    /// Its slot.
    pub(crate) fn slot(&self) -> u16 {
        self.slot
    }

    /// Sends one item with whatever else is queued.
    pub(crate) async fn sign(
        &self,
        hop: SignHop,
        patience: Patience,
    ) -> Result<v1::SignResult, HopError> {
        let link = self.link.load_full().ok_or(HopError::NotConnected)?;
        self.step(|health| health.passed(Instant::now()));
        let (reply, answer) = oneshot::channel();
        let sent = link.queue.try_send(Job { hop, reply });
        drop(link);
        match sent {
            Ok(()) => self.wait(patience, async { answer.await.map_err(|_| HopError::Lost) }).await,
            Err(mpsc::error::TrySendError::Full(_)) => Err(HopError::Full),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(HopError::NotConnected),
        }
    }

    /// Has it make a key; the outer error is the hop's, the inner one its answer.
    pub(crate) async fn create(
        &self,
        hop: CreateHop,
        (request_id, patience): (&str, Patience),
    ) -> Result<Result<v1::CreateResponse, tonic::Status>, HopError> {
        let link = self.link.load_full().ok_or(HopError::NotConnected)?;
        let mut client = link.client.clone();
        drop(link);
        self.step(|health| health.passed(Instant::now()));
        let mut request = tonic::Request::new(hop);
        let left = patience.deadline.saturating_duration_since(Instant::now());
        request.set_timeout(left.min(patience.time_max));
        if let Ok(id) = request_id.parse() {
            request.metadata_mut().insert("x-request-id", id);
        }
        let call = async {
            match client.create(request).await {
                Ok(response) => Ok(Ok(response.into_inner())),
                // What the member itself says has its code with it; anything else is the connection's.
                Err(status) if status.metadata().contains_key("sigil-code") => Ok(Err(status)),
                Err(_) => Err(HopError::Lost),
            }
        };
        self.wait(patience, call).await
    }

    /// The answer says that the member's enclave is there, or that it is not.
    pub(crate) fn judge(&self, enclave_answered: bool) {
        let now = Instant::now();
        self.step(|health| if enclave_answered { health.answered() } else { health.failed(now) });
    }

    async fn wait<T>(
        &self,
        patience: Patience,
        answer: impl Future<Output = Result<T, HopError>>,
    ) -> Result<T, HopError> {
        let call = self.calls.begin();
        let late = Instant::now() + patience.time_max;
        let answer = timeout_at(late.min(patience.deadline), answer).await;
        let result = answer.unwrap_or(Err(HopError::Late));
        let at_fault = match &result {
            Err(HopError::Late) => late <= patience.deadline,
            Err(_) => true,
            Ok(_) => false,
        };
        call.end(!at_fault);
        if at_fault {
            self.judge(false);
        }
        result
    }

    fn step(&self, step: impl FnOnce(Health) -> Health) {
        let mut health = self.health();
        let before = *health;
        *health = step(before);
        let (was, is) = (before.name(), health.name());
        if was != is {
            tracing::info!(slot = self.slot, was, is, "breaker of a member");
        }
    }

    /// Held for a few instructions and never over an await.
    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
