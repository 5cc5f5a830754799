//! The control thread: accepts and admits connections, deals them to workers, renews documents and
//! entropy, erases what has expired. RSA, TLS and NSM calls of the workers' requests run here too.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sigil_enclave_protocol::bounds::CONNECTIONS_MAX;
use sigil_enclave_protocol::handshake::{Purpose, Refusal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::{AbortHandle, yield_now};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::enclave::Enclave;
use crate::handshake::Door;
use crate::rng::{self, NSM_ENTROPY_EVERY_S};
use crate::stream::{Listener, Stream};
use crate::vsock;
use crate::worker::{Dealt, Worker};

/// Connections in the handshake at once. Anybody who may open a socket can start one.
const HANDSHAKES_MAX: usize = 64;
/// Age up to which a handshake is never given up for another: an honest peer is done by then.
const HANDSHAKE_SPARED: Duration = Duration::from_millis(50);
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
        let admitted = self.door.admit(&mut stream, |purpose| self.place(purpose)).await?;
        let Some((purpose, worker, permit)) = admitted else { return Ok(()) };
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

    /// A worker for a connection, and its place among the open ones.
    fn place(&self, purpose: Purpose) -> Result<(u16, OwnedSemaphorePermit), Refusal> {
        let permit = Arc::clone(&self.connections).try_acquire_owned();
        let permit = permit.map_err(|_| Refusal::TooMany)?;
        let worker = match purpose {
            Purpose::Tunnel(id) if !self.enclave.unlocks.expects(&id) => {
                return Err(Refusal::UnknownUnlock);
            }
            Purpose::Tunnel(_) => 0,
            _ => self.next_worker.fetch_add(1, Ordering::Relaxed) % self.workers.len().max(1),
        };
        Ok((u16::try_from(worker).map_err(|_| Refusal::TooMany)?, permit))
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
    let mut handshakes = Handshakes::default();
    loop {
        // Accepting never waits while connections queue, and all other work here would.
        yield_now().await;
        let Ok(socket) = listener.accept().await else {
            // No descriptor is left; connections end by themselves.
            sleep(ACCEPT_RETRY).await;
            continue;
        };
        if !handshakes.make_room(Instant::now()) {
            continue;
        }
        let control = Arc::clone(&control);
        // An error is the peer's: it went away, was slow or broke the protocol.
        let handshake = tokio::spawn(async move { control.admit(socket).await });
        handshakes.0.push((Instant::now(), handshake.abort_handle()));
    }
}

/// Handshakes under way, oldest first.
#[derive(Default)]
struct Handshakes(Vec<(Instant, AbortHandle)>);

impl Handshakes {
    /// Makes room for one more. At the bound any old one may go, so that nobody can aim at
    /// another's; false if all are young.
    fn make_room(&mut self, now: Instant) -> bool {
        self.0.retain(|(_, handshake)| !handshake.is_finished());
        if self.0.len() < HANDSHAKES_MAX {
            return true;
        }
        let is_old = |(since, _): &_| now.duration_since(*since) >= HANDSHAKE_SPARED;
        let old = self.0.partition_point(is_old);
        let random = rng::public_bytes().map_or(0, usize::from_be_bytes);
        let Some(index) = random.checked_rem(old) else { return false };
        self.0.remove(index).1.abort();
        true
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
            failed |= enclave.bind_statement_key().is_err();
        }
        if seconds.is_multiple_of(NSM_ENTROPY_EVERY_S) {
            failed |= enclave.rng.refresh(&*enclave.nsm).is_err();
        }
        if failed && !failing {
            eprintln!("sigil-enclave: the NSM refuses documents or entropy; tried again");
        }
        failing = failed;
    }
}

async fn send_heartbeat(parent_cid: u32) {
    match timeout(HEARTBEAT_TIME_MAX, vsock::heartbeat(parent_cid)).await {
        Ok(Ok(())) => eprintln!("sigil-enclave: heartbeat answered"),
        _ => eprintln!("sigil-enclave: heartbeat not answered"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_old_handshake_makes_room_and_a_young_one_does_not() {
        let start = Instant::now();
        let spared = start + HANDSHAKE_SPARED;
        let mut handshakes = Handshakes::default();
        for index in 0..HANDSHAKES_MAX {
            assert!(handshakes.make_room(start), "below the bound");
            let since = if index < 2 { start } else { spared };
            let silent = tokio::spawn(std::future::pending::<()>());
            handshakes.0.push((since, silent.abort_handle()));
        }
        assert!(!handshakes.make_room(start), "all are young");
        for left in [1, 0] {
            assert!(handshakes.make_room(spared));
            let old = handshakes.0.iter().filter(|(since, _)| *since == start).count();
            assert_eq!(old, left);
            let silent = tokio::spawn(std::future::pending::<()>());
            handshakes.0.push((spared, silent.abort_handle()));
        }
        assert!(!handshakes.make_room(spared), "only young ones are left");
        handshakes.0[7].1.abort();
        yield_now().await;
        assert!(handshakes.make_room(spared), "one has ended");
    }
}
