//! The life of one cached key as a pure state machine on monotonic time.
//!
//! A slot exists once its blob was opened here at least once; a key without a slot is *unknown*.
//! `Warm` holds the plain key; `Cool` holds only the sealed blob and its DEK is valid; `Invalid`
//! is `Cool` without a valid DEK. Limits are counted from the opening, so that settings which
//! lower them hold at once for what is open already.

use super::settings::Settings;

/// State of a slot. Whoever owns it holds a plain key in [`State::Warm`] and never elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The plain key is present.
    Warm(Warm),
    /// The sealed blob is present and its DEK is valid.
    Cool,
    /// The sealed blob is present and its DEK is not unlocked here, or expired.
    Invalid,
}

/// What bounds the use of a plain key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warm {
    /// When it was opened.
    pub opened_ms: u64,
    /// Signatures since then.
    pub uses: u64,
    /// A refresh was asked for. Only an opening clears this: a blob that does not open again is
    /// not tried at every signature.
    pub refreshing: bool,
}

/// What happens to a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants a signature.
    Sign,
    /// A refresh was queued.
    Queued,
    /// The queued refresh has its turn, or an operator wants one.
    Refresh {
        /// Wanted even if nobody asked before.
        forced: bool,
    },
    /// The blob was opened: for the first time, again, or as a refresh.
    Opened,
    /// Its place among the plain keys is needed.
    Displaced,
    /// Time passed.
    Tick,
}

/// What the owner of the slot does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Sign with the plain key.
    Sign {
        /// The soft limit or low water is reached and nobody refreshes: queue a refresh if there
        /// is room, and then report [`Event::Queued`].
        refresh: bool,
    },
    /// Open the blob now and then report [`Event::Opened`].
    Open,
    /// Answer that the DEK must be unlocked.
    AskUnlock,
}

/// One step. Never allows a use at or after the hard limit, without uses left, or without a DEK.
pub fn step(
    state: State,
    event: Event,
    now_ms: u64,
    dek_valid: bool,
    settings: &Settings,
) -> (State, Effect) {
    let sealed = if dek_valid { State::Cool } else { State::Invalid };
    let state = match state {
        State::Warm(warm) if dek_valid && warm.may_sign(now_ms, settings) => state,
        _ => sealed,
    };
    match (event, state) {
        (Event::Sign, State::Warm(warm)) => {
            let used = Warm { uses: warm.uses.saturating_add(1), ..warm };
            let due = !used.refreshing && used.is_due(now_ms, settings);
            // After the last use there is nothing left to refresh.
            let refresh = due && used.may_sign(now_ms, settings);
            (State::Warm(used), Effect::Sign { refresh })
        }
        (Event::Queued, State::Warm(warm)) => {
            (State::Warm(Warm { refreshing: true, ..warm }), Effect::None)
        }
        (Event::Refresh { forced }, State::Warm(warm))
            if warm.refreshing || forced && warm.opened_ms < now_ms =>
        {
            (state, Effect::Open)
        }
        (Event::Sign | Event::Refresh { forced: true }, State::Cool) => (state, Effect::Open),
        (Event::Sign | Event::Refresh { .. }, State::Invalid) => (state, Effect::AskUnlock),
        (Event::Opened, _) if dek_valid => {
            (State::Warm(Warm { opened_ms: now_ms, uses: 0, refreshing: false }), Effect::None)
        }
        (Event::Displaced, _) => (sealed, Effect::None),
        _ => (state, Effect::None),
    }
}

impl Warm {
    fn may_sign(&self, now_ms: u64, settings: &Settings) -> bool {
        let hard_ms = self.opened_ms.saturating_add(settings.key_hard_ttl_ms);
        now_ms < hard_ms && self.uses < settings.key_uses
    }

    fn is_due(&self, now_ms: u64, settings: &Settings) -> bool {
        let soft_ms = self.opened_ms.saturating_add(settings.key_soft_ttl_ms);
        let uses_left = settings.key_uses.saturating_sub(self.uses);
        now_ms >= soft_ms || uses_left < settings.low_water_uses
    }
}

#[cfg(test)]
mod tests;
