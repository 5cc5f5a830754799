//! Requests that may have ended an enclave (design §3.15). Pure: boots and time come from the caller.
//!
//! A request that was in flight when its connection ended is remembered with the boot. If that boot
//! still answers, the connection was cut and nothing is suspected. If another boot is there, the request
//! is suspect: it goes alone, on a connection of its own, one suspect at a time. If that boot ends too
//! while it is alone, the request is refused for a while.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use sigil_enclave_protocol::handshake::BootId;
use tokio::time::Instant;

/// Requests remembered: what is in flight on one enclave at its bound, and as much again.
const SUSPECTS_MAX: usize = 4_096;
/// Requests refused. More would mean that something else ends enclaves.
const GUILTY_MAX: usize = 1_024;
/// How long a request is remembered: an enclave boots and unlocks in far less.
const SUSPECT_TIME: Duration = Duration::from_mins(5);
/// How long it is refused. An enclave that is repaired by an upgrade meanwhile has another slot's time.
const GUILTY_TIME: Duration = Duration::from_mins(10);

/// Names a request: caller, key and digest.
pub(super) type Fingerprint = [u8; 16];

/// What is known of one request; one that is not suspected has no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Lost on that boot, with others.
    Lost {
        /// The boot.
        boot: BootId,
    },
    /// Sent alone to that boot.
    Alone {
        /// The boot.
        boot: BootId,
    },
    /// Lost on that boot while it was alone.
    LostAlone {
        /// The boot.
        boot: BootId,
    },
    /// Two enclaves ended with it.
    Guilty,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It is to be sent, and that boot is there, or none.
    Asked(Option<BootId>),
    /// Its connection to that boot ended without an answer.
    Lost(BootId),
    /// It was signed, or refused for good.
    Settled,
}

/// What is to be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As any other.
    Send,
    /// With nothing else on its connection.
    SendAlone,
    /// Not at all.
    Refuse,
}

/// The requests that are remembered.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    known: HashMap<Fingerprint, (State, Instant)>,
    /// In the order in which they came; one that changed stands where it was.
    order: VecDeque<Fingerprint>,
    guilty: usize,
}

// === impl State ===

impl State {
    /// Takes one event.
    #[allow(clippy::match_same_arms, reason = "by state, as the table in docs/state-machines.md")]
    pub(super) fn step(known: Option<Self>, event: Event) -> (Option<Self>, Verdict) {
        match (known, event) {
            (None, Event::Asked(_) | Event::Settled) => (None, Verdict::Send),
            (None | Some(Self::Lost { .. }), Event::Lost(boot)) => {
                (Some(Self::Lost { boot }), Verdict::Send)
            }
            (Some(Self::Guilty), _) => (known, Verdict::Refuse),
            (Some(_), Event::Settled) => (None, Verdict::Send),
            (Some(Self::Lost { boot }), Event::Asked(Some(now))) if now != boot => {
                (Some(Self::Alone { boot: now }), Verdict::SendAlone)
            }
            (Some(Self::Lost { .. }), Event::Asked(_)) => (known, Verdict::Send),
            (Some(Self::Alone { .. }), Event::Asked(Some(boot))) => {
                (Some(Self::Alone { boot }), Verdict::SendAlone)
            }
            (Some(Self::Alone { .. }), Event::Asked(None)) => (known, Verdict::SendAlone),
            (Some(Self::Alone { .. } | Self::LostAlone { .. }), Event::Lost(boot)) => {
                (Some(Self::LostAlone { boot }), Verdict::Send)
            }
            (Some(Self::LostAlone { boot }), Event::Asked(Some(now))) if now == boot => {
                (Some(Self::Alone { boot }), Verdict::SendAlone)
            }
            (Some(Self::LostAlone { .. }), Event::Asked(_)) => {
                (Some(Self::Guilty), Verdict::Refuse)
            }
        }
    }
}

// === impl Quarantine ===

impl Quarantine {
    /// Takes one event of one request.
    pub(super) fn step(&mut self, which: Fingerprint, event: Event, now: Instant) -> Verdict {
        self.forget_old(now);
        let known = self.known.get(&which).map(|(state, _)| *state);
        let (after, verdict) = State::step(known, event);
        if after != known {
            self.set(which, after, now);
        }
        verdict
    }

    /// Requests remembered.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// Of those, the ones that are refused.
    pub(super) fn guilty(&self) -> usize {
        self.guilty
    }

    fn set(&mut self, which: Fingerprint, state: Option<State>, now: Instant) {
        let Some(state) = state else { return self.remove(which) };
        let time = if state == State::Guilty { GUILTY_TIME } else { SUSPECT_TIME };
        let before = self.known.insert(which, (state, now + time));
        match before {
            None => self.order.push_back(which),
            Some((State::Guilty, _)) => self.guilty -= 1,
            Some(_) => {}
        }
        self.guilty += usize::from(state == State::Guilty);
        while self.order.len() > SUSPECTS_MAX || self.guilty > GUILTY_MAX {
            let over = self.guilty > GUILTY_MAX;
            let is_guilty = |which: &Fingerprint| {
                self.known.get(which).is_some_and(|(state, _)| *state == State::Guilty)
            };
            let oldest = self.order.iter().find(|which| !over || is_guilty(which)).copied();
            let Some(oldest) = oldest else { return };
            self.remove(oldest);
        }
    }

    fn remove(&mut self, which: Fingerprint) {
        if let Some((state, _)) = self.known.remove(&which) {
            self.guilty -= usize::from(state == State::Guilty);
        }
        self.order.retain(|other| *other != which);
    }

    /// From the front, where the oldest are; one behind a younger end is forgotten with it.
    fn forget_old(&mut self, now: Instant) {
        while let Some(first) = self.order.front().copied()
            && self.known.get(&first).is_none_or(|(_, until)| *until <= now)
        {
            self.remove(first);
        }
    }
}

#[cfg(test)]
mod tests;
