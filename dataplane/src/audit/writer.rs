//! The thread that carries lines out.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::entry::write_gap;
use super::sink::Sink;
use super::{Buffer, Shared};

/// Between two rounds. What a process that dies had not carried out is this old at most.
const EVERY: Duration = Duration::from_millis(50);
/// Between two looks for a rotation, and between two lines in the log about a failing output.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Tells the thread to end, and hears that it has.
#[derive(Default)]
pub(super) struct Stop {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Running,
    Told,
    Ended,
}

/// Carries lines out until told to stop; then what is there, once.
pub(super) fn write_out(shared: &Shared, mut sink: Sink, stop: &Stop) {
    let mut looked = Instant::now();
    let mut complained: Option<Instant> = None;
    loop {
        let is_last = stop.wait(EVERY);
        if looked.elapsed() >= LOOK_EVERY {
            looked = Instant::now();
            sink.follow_rotation();
        }
        if let Err(error) = round(shared, &mut sink)
            && complained.is_none_or(|at| at.elapsed() >= LOOK_EVERY)
        {
            complained = Some(Instant::now());
            tracing::error!(%error, "the audit cannot be written; its lines wait and are then dropped");
        }
        if is_last {
            stop.ended();
            return;
        }
    }
}

/// Takes nothing more from the workers while the output has not taken what it was given: their buffers
/// are the bound.
fn round(shared: &Shared, sink: &mut Sink) -> std::io::Result<()> {
    sink.write_out()?;
    let buffers = shared.buffers.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut lines = Vec::new();
    for buffer in buffers {
        if !sink.is_empty() {
            return Ok(());
        }
        let dropped = buffer.take(&mut lines);
        sink.add(&lines);
        if dropped > 0 {
            lines.clear();
            write_gap(&mut lines, dropped);
            sink.add(&lines);
        }
        lines.clear();
        sink.write_out()?;
    }
    Ok(())
}

// === impl Buffer ===

impl Buffer {
    /// Puts its lines into `lines`, which must be empty; gives how many are missing behind them.
    fn take(&self, lines: &mut Vec<u8>) -> u64 {
        let mut mine = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut mine.bytes, lines);
        std::mem::take(&mut mine.dropped)
    }
}

// === impl Stop ===

impl Stop {
    /// Waits for `time`, less if told to stop; true if so.
    fn wait(&self, time: Duration) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let running = |state: &mut State| *state == State::Running;
        let waited = self.changed.wait_timeout_while(state, time, running);
        *waited.unwrap_or_else(PoisonError::into_inner).0 != State::Running
    }

    fn ended(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::Ended;
        self.changed.notify_all();
    }

    /// True if the thread ended within `limit`.
    pub(super) fn tell_and_wait(&self, limit: Duration) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *state == State::Running {
            *state = State::Told;
        }
        self.changed.notify_all();
        let going = |state: &mut State| *state != State::Ended;
        let waited = self.changed.wait_timeout_while(state, limit, going);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == State::Ended
    }
}
