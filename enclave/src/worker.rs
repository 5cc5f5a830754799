//! Signing workers: one pinned thread a core, each with its own runtime and signing contexts. A
//! connection stays on the worker it was dealt to, and its requests are signed inline.

use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use sigil_enclave_protocol::bounds;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use crate::enclave::Enclave;
use crate::signer::Signer;
use crate::stream::Stream;
use crate::{residue, rpc};

/// Silence after which the peer is asked whether it is there, and how long it may take.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// Polls of ready tasks after which a busy worker looks what has arrived: each is a batch of
/// signatures or what carries batches, so about half as many batches delay whoever comes. To look
/// more often costs more system calls than a signature should have. Tokio's own is 61.
const TURNS_BETWEEN_EVENTS: u32 = 12;
/// What a drained connection has to end in. All that was received takes a fraction of a second.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes of a request's header list: a path and a handful of fields.
const HEADER_LIST_BYTES_MAX: u32 = 4 * 1024;
#[expect(clippy::cast_possible_truncation, reason = "256 KiB")]
const WINDOW_BYTES: u32 = bounds::WINDOW_BYTES as u32;

/// A connection that passed the handshake, with its place among the open ones.
#[derive(Debug)]
pub struct Dealt {
    /// The socket.
    pub socket: OwnedFd,
    /// Given back when the connection ends.
    pub permit: OwnedSemaphorePermit,
}

/// The control thread's end of a worker. Dropping it ends the worker.
#[derive(Debug)]
pub struct Worker {
    connections: mpsc::UnboundedSender<Dealt>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts worker `index`.
    ///
    /// # Errors
    /// The thread or its runtime cannot be made.
    pub fn start(index: u16, enclave: Arc<Enclave>, signer: Signer) -> std::io::Result<Self> {
        let (connections, dealt) = mpsc::unbounded_channel();
        let runtime = residue::runtime()?.event_interval(TURNS_BETWEEN_EVENTS).build()?;
        let stats = enclave.worker_stats.get(usize::from(index)).cloned().unwrap_or_default();
        // Set by nobody else.
        let _ = stats.runtime.set(runtime.handle().metrics());
        let draining = enclave.draining.subscribe();
        let signer = Arc::new(Mutex::new(signer));
        let refreshing = Arc::clone(&enclave).refresh_queued(Arc::clone(&signer));
        let service = rpc::Service::new(enclave, signer, stats);
        let thread =
            std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                if !pin_to_core(usize::from(index)) {
                    eprintln!("sigil-enclave: worker {index} is not pinned to a core");
                }
                runtime.spawn(refreshing);
                runtime.block_on(serve(dealt, service, draining));
            })?;
        Ok(Self { connections, thread })
    }

    /// Hands a connection over. False if the worker has ended.
    pub fn deal(&self, dealt: Dealt) -> bool {
        self.connections.send(dealt).is_ok()
    }

    /// Ends the worker and its connections.
    pub fn stop(self) {
        drop(self.connections);
        let _ = self.thread.join();
    }
}

async fn serve(
    mut dealt: mpsc::UnboundedReceiver<Dealt>,
    service: rpc::Service,
    draining: watch::Receiver<bool>,
) {
    while let Some(Dealt { socket, permit }) = dealt.recv().await {
        let (service, mut draining) = (service.clone(), draining.clone());
        draining.mark_unchanged();
        tokio::spawn(async move {
            // An error is the peer's: it went away or broke the protocol.
            if let Ok(stream) = Stream::new(socket) {
                let _ = serve_connection(stream, service, draining).await;
            }
            drop(permit);
        });
    }
}

/// Serves until the peer goes away, or until the enclave is drained: then what is under way ends
/// first, within [`DRAIN_TIME_MAX`]. Connections that come later only ask, and stay.
async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    service: rpc::Service,
    mut draining: watch::Receiver<bool>,
) -> hyper::Result<()> {
    let (interval, answer) = KEEPALIVE;
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(interval)
        .keep_alive_timeout(answer)
        .max_concurrent_streams(bounds::STREAMS_PER_CONNECTION_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_send_buf_size(bounds::SEND_BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service.into_server()));
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        Ok(()) = draining.changed() => connection.as_mut().graceful_shutdown(),
    }
    // A peer that never stops sending is not waited for.
    tokio::time::timeout(DRAIN_TIME_MAX, connection).await.unwrap_or(Ok(()))
}

/// Pins the thread to the core of this index among those the process may use.
pub(crate) fn pin_to_core(index: usize) -> bool {
    let Ok(allowed) = sched_getaffinity(None) else { return false };
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
    let Some(core) = index.checked_rem(cores.len()).and_then(|at| cores.get(at)) else {
        return false;
    };
    let mut only = CpuSet::new();
    only.set(*core);
    sched_setaffinity(None, &only).is_ok()
}

#[cfg(test)]
mod tests;
