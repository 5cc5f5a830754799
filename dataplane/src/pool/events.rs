//! What happened to connections, with when and why: a bounded list for `/debug/status`, and lines of
//! the log.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::app::now_ms;

/// Events that are kept: a cut of every connection and their return fit several times.
const EVENTS_MAX: usize = 256;
/// Between two events of requests that found no connection; they come as fast as requests do.
const EXHAUSTED_EVERY: Duration = Duration::from_secs(1);

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Kind {
    /// A connection takes requests, its place's first.
    Opened,
    /// One takes requests again.
    Recovered,
    /// One ended; it is tried again.
    Ended,
    /// One does not answer its probes.
    TakenOut,
    /// One is not wanted any more.
    Draining,
    /// A request found no connection, or a full one.
    Exhausted,
    /// The breaker shut.
    Shut,
    /// It admits again.
    Admitting,
}

/// One event.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event {
    /// Unix time.
    at_ms: u64,
    #[serde(rename = "event")]
    kind: Kind,
    /// Worker thread of this process.
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<usize>,
    /// Place of the connection in that worker's pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<usize>,
    reason: String,
}

/// The newest events.
#[derive(Debug, Default)]
pub(super) struct Events {
    list: Mutex<VecDeque<Event>>,
    exhausted: Mutex<BTreeMap<usize, Instant>>,
}

// === impl Event ===

impl Event {
    /// Of a connection of a worker, or of none.
    pub(super) fn new(kind: Kind, at: Option<(usize, usize)>, reason: impl Into<String>) -> Self {
        let (worker, connection) = at.unzip();
        Self { at_ms: now_ms(), kind, worker, connection, reason: reason.into() }
    }
}

// === impl Events ===

impl Events {
    /// Keeps it and writes it to the log.
    pub(super) fn add(&self, enclave_id: &str, event: Event) {
        let Event { worker, connection, ref reason, .. } = event;
        macro_rules! log {
            ($level:ident, $message:literal) => {
                tracing::$level!(enclave_id, worker, connection, reason, $message)
            };
        }
        match event.kind {
            Kind::Opened => log!(info, "connection opened"),
            Kind::Recovered => log!(info, "connection recovered"),
            // The keeper says it with the wait that follows.
            Kind::Ended => {}
            Kind::TakenOut => log!(warn, "connection taken out"),
            Kind::Draining => log!(info, "connection draining"),
            Kind::Exhausted => log!(warn, "pool exhausted"),
            Kind::Shut => log!(warn, "breaker shut"),
            Kind::Admitting => log!(info, "breaker admitting"),
        }
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() >= EVENTS_MAX {
            list.pop_front();
        }
        list.push_back(event);
    }

    /// The same for a request that found no connection, at most once a second and worker.
    pub(super) fn exhausted(&self, enclave_id: &str, worker: usize, reason: &'static str) {
        let now = Instant::now();
        {
            let mut last = self.exhausted.lock().unwrap_or_else(PoisonError::into_inner);
            let soon = |last: &Instant| now.saturating_duration_since(*last) < EXHAUSTED_EVERY;
            if last.get(&worker).is_some_and(soon) {
                return;
            }
            last.insert(worker, now);
        }
        let event = Event { worker: Some(worker), ..Event::new(Kind::Exhausted, None, reason) };
        self.add(enclave_id, event);
    }

    /// All of them, oldest first.
    pub(super) fn all(&self) -> Vec<Event> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept() {
        let events = Events::default();
        for number in 0..EVENTS_MAX + 3 {
            events.add("e", Event::new(Kind::Opened, Some((0, number)), ""));
        }
        let all = events.all();
        assert_eq!((all.len(), all[0].connection), (EVENTS_MAX, Some(3)));
    }

    #[tokio::test(start_paused = true)]
    async fn exhaustion_is_said_once_a_second_and_worker() {
        let events = Events::default();
        for _ in 0..1_000 {
            events.exhausted("e", 0, "no connection");
            events.exhausted("e", 1, "no connection");
        }
        assert_eq!(events.all().len(), 2);
        tokio::time::advance(EXHAUSTED_EVERY).await;
        events.exhausted("e", 0, "no connection");
        assert_eq!(events.all().len(), 3);
    }
}
