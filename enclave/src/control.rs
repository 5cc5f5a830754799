//! The control thread: accepts and admits connections, deals them to workers, renews documents and
//! entropy, erases what has expired. RSA, TLS and NSM calls of the workers' requests run here too.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sigil_attestation::UserData;
use sigil_enclave_protocol::bounds::CONNECTIONS_MAX;
use sigil_enclave_protocol::handshake::{Purpose, Refusal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::enclave::Enclave;
use crate::handshake::{Door, Room};
use crate::rng::NSM_ENTROPY_EVERY_S;
use crate::stream::{Listener, Stream};
use crate::vsock;
use crate::worker::{Dealt, Worker};

/// Connections in the handshake at once. Anybody who may open a socket can start one.
const HANDSHAKES_MAX: usize = 64;
/// Wait after a failed `accept`.
const ACCEPT_RETRY: Duration = Duration::from_millis(10);
/// Time the parent has to answer the heartbeat.
const HEARTBEAT_TIME_MAX: Duration = Duration::from_secs(5);

/// What the control thread owns.
pub(crate) struct Control {
    enclave: Arc<Enclave>,
    workers: Vec<Worker>,
    door: Door,
    connections: Arc<Semaphore>,
    next_worker: AtomicUsize,
}

impl Control {
    pub(crate) fn new(enclave: Arc<Enclave>, workers: Vec<Worker>) -> Self {
        let door = Door::new(enclave.boot_id, enclave.workers);
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Self { enclave, workers, door, connections, next_worker: AtomicUsize::new(0) }
    }

    async fn admit(&self, socket: OwnedFd) -> std::io::Result<()> {
        let mut stream = Stream::new(socket)?;
        let Some((purpose, (worker, permit))) = self.door.admit(&mut stream, self).await? else {
            return Ok(());
        };
        match purpose {
            Purpose::Tunnel(id) => self.enclave.unlocks.attach(&id, stream),
            _ => {
                if let Some(worker) = self.workers.get(usize::from(worker)) {
                    worker.deal(Dealt { socket: stream.into_fd(), permit });
                }
            }
        }
        Ok(())
    }
}

impl Room for Control {
    type Place = (u16, OwnedSemaphorePermit);

    fn take(&self, purpose: Purpose) -> Result<(u16, Self::Place), Refusal> {
        let permit = Arc::clone(&self.connections).try_acquire_owned();
        let permit = permit.map_err(|_| Refusal::TooMany)?;
        let worker = match purpose {
            Purpose::Tunnel(id) if !self.enclave.unlocks.expects(&id) => {
                return Err(Refusal::UnknownUnlock);
            }
            Purpose::Tunnel(_) => 0,
            _ => self.next_worker.fetch_add(1, Ordering::Relaxed) % self.workers.len().max(1),
        };
        let worker = u16::try_from(worker).map_err(|_| Refusal::TooMany)?;
        Ok((worker, (worker, permit)))
    }
}

/// Runs until `stopped`.
pub(crate) async fn run(
    control: Control,
    listener: OwnedFd,
    heartbeat: bool,
    stopped: oneshot::Receiver<()>,
) {
    let control = Arc::new(control);
    tokio::spawn(maintain(Arc::clone(&control.enclave)));
    if heartbeat {
        tokio::spawn(send_heartbeat(control.enclave.pins.parent_cid));
    }
    tokio::select! {
        () = accept(Arc::clone(&control), listener) => {}
        Ok(()) = stopped => {}
    }
    // Ends the runtime's tasks with it; handshakes still hold the control until then.
    if let Some(control) = Arc::into_inner(control) {
        control.workers.into_iter().for_each(Worker::stop);
    }
}

async fn accept(control: Arc<Control>, listener: OwnedFd) {
    let Ok(listener) = Listener::new(listener) else {
        eprintln!("sigil-enclave: the listener cannot be used");
        return;
    };
    let mut handshakes: VecDeque<AbortHandle> = VecDeque::with_capacity(HANDSHAKES_MAX);
    loop {
        let Ok(socket) = listener.accept().await else {
            // No descriptor is left; connections end by themselves.
            sleep(ACCEPT_RETRY).await;
            continue;
        };
        handshakes.retain(|handshake| !handshake.is_finished());
        if handshakes.len() >= HANDSHAKES_MAX
            && let Some(oldest) = handshakes.pop_front()
        {
            // A flood of silent connections must not keep out those who speak at once.
            oldest.abort();
        }
        let control = Arc::clone(&control);
        // An error is the peer's: it went away, was slow or broke the protocol.
        let handshake = tokio::spawn(async move { control.admit(socket).await });
        handshakes.push_back(handshake.abort_handle());
    }
}

/// Every second: expiry; in their own time: statement document and NSM entropy.
async fn maintain(enclave: Arc<Enclave>) {
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seconds = 0_u64;
    let mut failing = false;
    loop {
        ticks.tick().await;
        seconds += 1;
        enclave.sweep();
        let mut failed = false;
        if enclave.statements.is_due(enclave.clock.wall_ms()) {
            failed |= bind_statement_key(&enclave).is_err();
        }
        if seconds.is_multiple_of(NSM_ENTROPY_EVERY_S) {
            failed |= enclave.rng.refresh(&*enclave.nsm).is_err();
        }
        if failed && !failing {
            eprintln!("sigil-enclave: the NSM refuses");
        }
        failing = failed;
    }
}

fn bind_statement_key(enclave: &Enclave) -> Result<(), crate::nsm::NsmError> {
    let user_data = UserData::StatementKey { boot_id: enclave.boot_id.0 };
    let made = enclave.document(&user_data, None, Some(enclave.statements.public_key()))?;
    enclave.statements.bind(made.bytes, made.document.timestamp_ms);
    Ok(())
}

async fn send_heartbeat(parent_cid: u32) {
    match timeout(HEARTBEAT_TIME_MAX, vsock::heartbeat(parent_cid)).await {
        Ok(Ok(())) => eprintln!("sigil-enclave: heartbeat answered"),
        _ => eprintln!("sigil-enclave: heartbeat not answered"),
    }
}
