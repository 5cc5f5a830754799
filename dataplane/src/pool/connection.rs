//! A connection's life as a pure machine: what happened goes in, what to do next comes out. Time and
//! chance come from the caller; `keeper.rs` acts. docs/state-machines.md holds the table.

use std::time::Duration;

use tokio::time::Instant;

use super::backoff::Backoff;

/// First and longest wait before a connection is tried again (row S2b): attempts come about 25, 75 and
/// 175 ms after the end, then every 200 ms.
const RECONNECT_MIN: Duration = Duration::from_millis(25);
const RECONNECT_MAX: Duration = Duration::from_millis(200);

/// What a failure asks for (row S10a).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grade {
    /// The connection is gone, the enclave may be well: by the schedule, from its first wait.
    ReconnectNow,
    /// The enclave does not want it now: the longest wait at once.
    BackOff,
}

/// Settings that the machine follows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Probes in a row that fail before the connection is taken out.
    pub(super) failures_max: u32,
    /// How long it stays out.
    pub(super) cooldown: Duration,
    /// Longest wait for what is in flight when it is drained.
    pub(super) drain: Duration,
}

/// Where a connection is in its life; label `state` of `conn_pool_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Being opened, or waiting to be.
    Connecting,
    /// Takes requests.
    Healthy,
    /// Did not answer its probes; closed, and left alone for a while.
    Degraded,
    /// Finishes what is in flight.
    Draining,
    /// Gone for good.
    Closed,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The handshake succeeded.
    Opened,
    /// It could not be opened.
    Refused(Grade),
    /// It ended by itself.
    Ended(Grade),
    /// A probe was answered in time, or was not.
    Probed(bool),
    /// The time that was asked for is over.
    Elapsed,
    /// Nothing is in flight any more.
    Idle,
    /// It is not wanted any more.
    Drain,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Open it: [`Event::Opened`] or [`Event::Refused`].
    Connect,
    /// Close it and wait: [`Event::Elapsed`].
    Sleep(Instant),
    /// Give it requests and probe it: [`Event::Ended`] or [`Event::Probed`].
    Serve,
    /// No new requests: [`Event::Idle`], [`Event::Ended`], or [`Event::Elapsed`] at that time.
    Finish(Instant),
    /// Close it.
    Stop,
}

/// One connection's place in the pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    state: State,
    schedule: Backoff,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Waiting { until: Instant },
    Healthy { failures: u32 },
    Degraded { until: Instant },
    Draining { until: Instant },
    Closed,
}

// === impl Phase ===

impl Phase {
    pub(super) const ALL: [Self; 4] =
        [Self::Connecting, Self::Healthy, Self::Degraded, Self::Draining];

    /// The word of metrics, logs and pages.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "Connecting",
            Self::Healthy => "Healthy",
            Self::Degraded => "Degraded",
            Self::Draining => "Draining",
            Self::Closed => "Closed",
        }
    }
}

// === impl Connection ===

impl Connection {
    /// A place without a connection; the first thing to do is [`Effect::Connect`].
    pub(super) fn new() -> Self {
        Self { state: State::Connecting, schedule: Backoff::new(RECONNECT_MIN, RECONNECT_MAX) }
    }

    pub(super) fn phase(&self) -> Phase {
        match self.state {
            State::Connecting | State::Waiting { .. } => Phase::Connecting,
            State::Healthy { .. } => Phase::Healthy,
            State::Degraded { .. } => Phase::Degraded,
            State::Draining { .. } => Phase::Draining,
            State::Closed => Phase::Closed,
        }
    }

    /// Takes one event; `random` in 0..1 is for jitter. What cannot happen in a state changes nothing.
    pub(super) fn step(
        mut self,
        event: Event,
        (now, random): (Instant, f64),
        rules: &Rules,
    ) -> (Self, Effect) {
        self.state = match (self.state, event) {
            (State::Connecting, Event::Opened) => {
                self.schedule.reset();
                State::Healthy { failures: 0 }
            }
            (State::Connecting, Event::Refused(grade))
            | (State::Healthy { .. }, Event::Ended(grade)) => {
                if grade == Grade::BackOff {
                    self.schedule.exhaust();
                }
                State::Waiting { until: now + self.schedule.wait(random) }
            }
            (State::Healthy { .. }, Event::Probed(true)) => State::Healthy { failures: 0 },
            (State::Healthy { failures }, Event::Probed(false)) => {
                if failures.saturating_add(1) >= rules.failures_max {
                    State::Degraded { until: now + rules.cooldown }
                } else {
                    State::Healthy { failures: failures + 1 }
                }
            }
            (State::Healthy { .. }, Event::Drain) => State::Draining { until: now + rules.drain },
            (State::Waiting { until } | State::Degraded { until }, Event::Elapsed)
                if until <= now =>
            {
                State::Connecting
            }
            (State::Draining { .. }, Event::Idle | Event::Ended(_)) => State::Closed,
            (State::Draining { until }, Event::Elapsed) if until <= now => State::Closed,
            (State::Connecting | State::Waiting { .. } | State::Degraded { .. }, Event::Drain) => {
                State::Closed
            }
            (state, _) => state,
        };
        (self, self.effect())
    }

    fn effect(&self) -> Effect {
        match self.state {
            State::Connecting => Effect::Connect,
            State::Waiting { until } | State::Degraded { until } => Effect::Sleep(until),
            State::Healthy { .. } => Effect::Serve,
            State::Draining { until } => Effect::Finish(until),
            State::Closed => Effect::Stop,
        }
    }
}

#[cfg(test)]
mod tests;
