//! One enclave as the pools of all workers share it: what is ordered, its breaker, what happened, what
//! was counted, and who is suspected of having ended it. Nothing here is locked by a request while all
//! is well.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::breaker::{Event as BreakerEvent, Rules};
use super::connection::Phase;
use super::counters::Counters;
use super::events::{Event, Events, Kind};
use super::gate::{Change, Gate};
use super::suspects::Suspects;
use crate::config;

/// What the pools of an enclave are to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Orders {
    pub(super) settings: config::Pool,
    /// No connections, until told otherwise.
    pub(super) draining: bool,
}

/// Settings that each message reads.
#[derive(Debug)]
pub(super) struct Batching {
    items_max: AtomicUsize,
    /// Microseconds; 0: never.
    wait_us: AtomicU64,
}

/// One enclave.
#[derive(Debug)]
pub(crate) struct Upstream {
    /// Label `enclave_id`: the slot that it fills, the same over its boots.
    pub(crate) enclave_id: String,
    pub(super) batching: Batching,
    pub(super) events: Events,
    pub(super) suspects: Suspects,
    gate: Gate,
    orders: watch::Sender<Orders>,
    counters: Mutex<Vec<Arc<Counters>>>,
}

// === impl Batching ===

impl Batching {
    fn new(settings: &config::Pool) -> Self {
        let batching = Self { items_max: AtomicUsize::new(1), wait_us: AtomicU64::new(0) };
        batching.set(settings);
        batching
    }

    fn set(&self, settings: &config::Pool) {
        let wait_us = settings.wait().map_or(0, |wait| wait.as_micros());
        self.items_max.store(settings.max_batch.max(1), Ordering::Relaxed);
        self.wait_us.store(u64::try_from(wait_us).unwrap_or(0), Ordering::Relaxed);
    }

    /// Digests of one message, at least 1.
    pub(super) fn items_max(&self) -> usize {
        self.items_max.load(Ordering::Relaxed)
    }

    /// How long a message that is not full waits, if at all.
    pub(super) fn wait(&self) -> Option<Duration> {
        let wait_us = self.wait_us.load(Ordering::Relaxed);
        (wait_us > 0).then(|| Duration::from_micros(wait_us))
    }
}

// === impl Upstream ===

impl Upstream {
    /// An enclave without connections.
    pub(crate) fn new(enclave_id: impl Into<String>, settings: config::Pool) -> Self {
        Self {
            enclave_id: enclave_id.into(),
            batching: Batching::new(&settings),
            events: Events::default(),
            suspects: Suspects::default(),
            gate: Gate::new(),
            orders: watch::Sender::new(Orders { settings, draining: false }),
            counters: Mutex::default(),
        }
    }

    /// Takes other settings; every pool follows them.
    pub(crate) fn configure(&self, settings: config::Pool) {
        self.batching.set(&settings);
        self.orders.send_if_modified(|orders| {
            let other = orders.settings != settings;
            orders.settings = settings;
            other
        });
    }

    /// Fewest and most connections over all workers, from now on.
    pub(crate) fn resize(&self, min: usize, max: usize) -> Result<(), Vec<String>> {
        let settings = config::Pool { min, max, ..self.orders.borrow().settings.clone() };
        let mut errors = Vec::new();
        settings.validate(&mut errors);
        if errors.is_empty() {
            self.configure(settings);
            return Ok(());
        }
        Err(errors)
    }

    /// Finishes what is in flight and keeps no connection; false: opens them again.
    pub(crate) fn drain(&self, draining: bool) {
        self.orders.send_if_modified(|orders| {
            std::mem::replace(&mut orders.draining, draining) != draining
        });
    }

    /// An operator keeps connections closed.
    pub(crate) fn is_draining(&self) -> bool {
        self.orders.borrow().draining
    }

    /// Opens the breaker, as an operator asks or for another boot of the enclave.
    pub(crate) fn reset_breaker(&self) {
        self.tell(BreakerEvent::Reset);
    }

    pub(super) fn orders(&self) -> watch::Receiver<Orders> {
        self.orders.subscribe()
    }

    /// Counters of one more pool.
    pub(super) fn counters(&self) -> Arc<Counters> {
        let counters = Arc::new(Counters::default());
        self.all().push(Arc::clone(&counters));
        counters
    }

    /// `Err`: how long the breaker refuses.
    pub(super) fn admit(&self) -> Result<(), Duration> {
        if self.gate.is_admitting() {
            return Ok(());
        }
        self.gate.admit(Instant::now(), &self.rules()).map(|change| self.note(change))
    }

    /// The enclave answered something.
    pub(super) fn answered(&self) {
        if !self.gate.is_clear() {
            self.tell(BreakerEvent::Answered);
        }
    }

    /// It did not answer what began then.
    pub(super) fn failed(&self, begun: Instant) {
        self.tell(BreakerEvent::Failed { begun });
    }

    /// Value of `circuit_breaker_state`.
    pub(super) fn breaker_gauge(&self) -> i64 {
        self.gate.state().gauge()
    }

    /// Connections that are always open, unless somebody drains them.
    pub(super) fn connections_min(&self) -> i64 {
        let orders = self.orders.borrow();
        let min = if orders.draining { 0 } else { orders.settings.min };
        i64::try_from(min).unwrap_or(i64::MAX)
    }

    /// The sum of a number over all pools.
    pub(super) fn sum<T: std::iter::Sum>(&self, of: impl Fn(&Counters) -> T) -> T {
        self.all().iter().map(|counters| of(counters)).sum()
    }

    /// For `/debug/status`.
    pub(crate) fn debug(&self) -> Value {
        let orders = self.orders.borrow().clone();
        let states = Phase::ALL.map(|phase| {
            let count: i64 = self.sum(|counters| counters.count(phase));
            (phase.as_str().to_owned(), Value::from(count))
        });
        json!({
            "enclaveId": self.enclave_id,
            "breaker": self.gate.state().name(),
            "draining": orders.draining,
            "min": orders.settings.min,
            "max": orders.settings.max,
            "connections": Value::Object(states.into_iter().collect()),
            "suspects": self.suspects.debug(),
            "events": self.events.all(),
        })
    }

    fn all(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Counters>>> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: BreakerEvent) {
        let rules = self.rules();
        self.note(self.gate.tell(event, Instant::now(), &rules));
    }

    fn note(&self, (before, after): Change) {
        let reason = match (before.name(), after.name()) {
            (before, after) if before == after => return,
            ("Admitting", _) => "failures in a row without an answer",
            (_, "Shut") => "the request that was to find out failed",
            (_, "Probing") => return,
            _ => "the enclave answered",
        };
        let kind = if after.gauge() == 0 { Kind::Admitting } else { Kind::Shut };
        self.events.add(&self.enclave_id, Event::new(kind, None, reason));
    }

    fn rules(&self) -> Rules {
        let orders = self.orders.borrow();
        Rules {
            failures_max: orders.settings.failures,
            recovery: Duration::from_millis(orders.settings.cooldown_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_breaker_shuts_with_an_event_and_admits_with_one() {
        let upstream = Upstream::new("e", config::Pool::default());
        for _ in 0..3 {
            assert_eq!(upstream.admit(), Ok(()));
            upstream.failed(Instant::now());
        }
        assert_eq!(upstream.admit(), Err(Duration::from_secs(1)));
        assert_eq!(upstream.debug()["breaker"], "Shut");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(upstream.admit(), Ok(()), "one finds out");
        assert!(upstream.admit().is_err());
        upstream.answered();
        assert_eq!(upstream.admit(), Ok(()));
        let events = upstream.debug()["events"].clone();
        assert_eq!(
            (&events[0]["event"], &events[1]["event"]),
            (&json!("shut"), &json!("admitting"))
        );
        upstream.failed(Instant::now());
        upstream.reset_breaker();
        assert!(upstream.gate.is_clear());
    }

    #[test]
    fn orders_are_followed_only_when_they_are_others() {
        let upstream = Upstream::new("e", config::Pool::default());
        let mut orders = upstream.orders();
        upstream.drain(false);
        upstream.configure(config::Pool::default());
        assert!(!orders.has_changed().unwrap());
        upstream.resize(4, 8).unwrap();
        assert_eq!(orders.borrow_and_update().settings.max, 8);
        assert!(upstream.resize(9, 8).unwrap_err()[0].starts_with("pool.min"));
        assert!(!orders.has_changed().unwrap());
        let one = config::Pool { max_batch: 1, no_wait: false, ..config::Pool::default() };
        upstream.configure(one);
        assert_eq!(upstream.batching.items_max(), 1);
        assert_eq!(upstream.batching.wait(), Some(Duration::from_millis(2)));
    }
}
