//! Who did what with which key (decision 27): one line of JSON for each request, and for each call of
//! KMS. Workers write into buffers of their own; one thread carries them out. What it cannot carry out in
//! time is dropped, counted, and said in the log itself. Signing never waits for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;

use crate::config::{Audit as Settings, AuditOutput};
use crate::metrics::Metrics;

mod entry;
mod sink;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use entry::{Entry, UnlockCall};
use sink::Sink;
use writer::{Stop, write_out};

/// Bytes of lines that wait in one worker's buffer: some 4,000 requests, a tenth of a second of one core.
const BUFFER_BYTES_MAX: usize = 1024 * 1024;

/// The log of a process. Dropping it leaves the thread to itself; [`AuditTrail::stop`] ends it.
pub(crate) struct AuditTrail {
    shared: Arc<Shared>,
    thread: Mutex<Option<(Arc<Stop>, JoinHandle<()>)>>,
}

/// Where one worker writes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AuditLog {
    /// Absent where no audit is kept.
    buffer: Option<Arc<Buffer>>,
}

/// What the thread and the workers share.
struct Shared {
    is_on: bool,
    buffers: Mutex<Vec<Arc<Buffer>>>,
    dropped: Counter,
}

/// Lines of one worker. Its lock is free but for the moment in which the thread takes them away.
struct Buffer {
    lines: Mutex<Lines>,
    dropped: Counter,
}

#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    /// Lines that found no room since the last that did.
    dropped: u64,
}

// === impl AuditTrail ===

impl AuditTrail {
    /// Opens the output and starts the thread.
    ///
    /// # Errors
    /// The output cannot be opened. A pipe that nobody reads is no error: somebody may come.
    pub(crate) fn start(settings: &Settings, metrics: &Metrics) -> std::io::Result<Self> {
        let is_on = settings.output != AuditOutput::Off;
        let dropped = metrics.audit_dropped.clone();
        let shared = Arc::new(Shared { is_on, buffers: Mutex::default(), dropped });
        let thread = if is_on {
            let sink = Sink::open(&settings.output)?;
            let stop = Arc::new(Stop::default());
            let (of_thread, told) = (Arc::clone(&shared), Arc::clone(&stop));
            let thread = std::thread::Builder::new()
                .name("audit".to_owned())
                .spawn(move || write_out(&of_thread, sink, &told))?;
            Some((stop, thread))
        } else {
            None
        };
        Ok(Self { shared, thread: Mutex::new(thread) })
    }

    /// For one worker.
    pub(crate) fn log(&self) -> AuditLog {
        let buffer = self.shared.is_on.then(|| {
            let dropped = self.shared.dropped.clone();
            let buffer = Arc::new(Buffer { lines: Mutex::default(), dropped });
            let mut all = self.shared.buffers.lock().unwrap_or_else(PoisonError::into_inner);
            all.push(Arc::clone(&buffer));
            buffer
        });
        AuditLog { buffer }
    }

    /// Carries out what is there and ends the thread; gives it up after `limit`.
    pub(crate) fn stop(&self, limit: Duration) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((stop, thread)) = thread else { return };
        if stop.tell_and_wait(limit) {
            drop(thread.join());
        } else {
            tracing::error!("the audit's output takes nothing; its last lines are lost");
        }
    }
}

// === impl AuditLog ===

impl AuditLog {
    /// Whether anything is kept.
    pub(crate) fn is_on(&self) -> bool {
        self.buffer.is_some()
    }

    /// Writes one request's line.
    pub(crate) fn request(&self, entry: &Entry<'_>) {
        self.line(|bytes| entry.write(bytes));
    }

    /// Writes the line of one call of KMS.
    pub(crate) fn unlock(&self, call: &UnlockCall<'_>) {
        self.line(|bytes| call.write(bytes));
    }

    fn line(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let Some(buffer) = &self.buffer else { return };
        let mut lines = buffer.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.bytes.len() + entry::LINE_BYTES_MAX > BUFFER_BYTES_MAX {
            lines.dropped += 1;
            buffer.dropped.inc();
            return;
        }
        write(&mut lines.bytes);
        lines.bytes.push(b'\n');
    }
}
