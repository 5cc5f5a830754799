//! The life of one cached key as a pure state machine on monotonic time.
//!
//! A slot exists once its blob was opened here at least once; a key without a slot is *unknown*.
//! `Warm` holds the plain key; `Cool` holds only the sealed blob and its DEK is valid; `Invalid`
//! is `Cool` without a valid DEK.

/// State of a slot. Only [`State::Warm`] goes with a plain key in memory.
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
    /// From here on a use also refreshes.
    pub soft_ms: u64,
    /// From here on the plain key is not used and is erased.
    pub hard_ms: u64,
    /// Signatures left.
    pub uses_left: u64,
    /// A refresh was asked for and has not come back.
    pub refreshing: bool,
}

/// Settings of the cache, none above its pinned ceiling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Age in ms after which a use refreshes the key.
    pub soft_ttl_ms: u64,
    /// Age in ms at which the plain key is erased.
    pub hard_ttl_ms: u64,
    /// Signatures that one opening allows.
    pub uses: u64,
    /// Signatures left below which a use refreshes the key.
    pub low_water_uses: u64,
}

/// What happens to a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants a signature.
    Sign,
    /// The blob was opened: for the first time, again, or as a refresh.
    Opened,
    /// Opening it failed.
    OpenFailed,
    /// Time passed.
    Tick,
}

/// When the event happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Monotonic time.
    pub now_ms: u64,
    /// Hard limit of the blob's DEK; none if it is not unlocked here.
    pub dek_until_ms: Option<u64>,
}

/// What the owner of the slot does. Beside it: a slot that is not `Warm` holds no plain key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Sign with the plain key; then open the blob again if `refresh`.
    Sign {
        /// Soft expiry or low water was reached, and nobody refreshes yet.
        refresh: bool,
    },
    /// Open the blob now and report [`Event::Opened`] or [`Event::OpenFailed`].
    Open,
    /// Answer that the DEK must be unlocked.
    AskUnlock,
    /// Erase the plain key.
    Erase,
}

/// One step. Never allows a use at or after the hard limit, without uses left, or without a DEK.
pub fn step(state: State, event: Event, at: Moment, limits: &Limits) -> (State, Effect) {
    let dek_until_ms = at.dek_until_ms.filter(|until_ms| at.now_ms < *until_ms);
    let settled = settle(state, at.now_ms, dek_until_ms.is_some());
    match (event, settled) {
        (Event::Sign, State::Warm(warm)) => sign(warm, at.now_ms, limits),
        (Event::Sign, State::Cool) => (State::Cool, Effect::Open),
        (Event::Sign, State::Invalid) => (State::Invalid, Effect::AskUnlock),
        (Event::Opened, _) => match dek_until_ms {
            Some(until_ms) => (State::Warm(opened(at.now_ms, until_ms, limits)), Effect::None),
            None => (State::Invalid, Effect::Erase),
        },
        // A plain key that is still good stays; it asks for no second refresh.
        (Event::OpenFailed | Event::Tick, State::Warm(_)) => (settled, Effect::None),
        (Event::OpenFailed | Event::Tick, _) => {
            let was_warm = matches!(state, State::Warm(_));
            (settled, if was_warm { Effect::Erase } else { Effect::None })
        }
    }
}

/// What time alone makes of a state.
fn settle(state: State, now_ms: u64, dek_valid: bool) -> State {
    match state {
        State::Warm(warm) if dek_valid && now_ms < warm.hard_ms && warm.uses_left > 0 => state,
        _ if dek_valid => State::Cool,
        _ => State::Invalid,
    }
}

fn sign(warm: Warm, now_ms: u64, limits: &Limits) -> (State, Effect) {
    let uses_left = warm.uses_left.saturating_sub(1);
    let due = now_ms >= warm.soft_ms || uses_left < limits.low_water_uses;
    let refresh = due && !warm.refreshing;
    let next = Warm { uses_left, refreshing: warm.refreshing || refresh, ..warm };
    (State::Warm(next), Effect::Sign { refresh })
}

fn opened(now_ms: u64, dek_until_ms: u64, limits: &Limits) -> Warm {
    Warm {
        soft_ms: now_ms.saturating_add(limits.soft_ttl_ms),
        hard_ms: now_ms.saturating_add(limits.hard_ttl_ms).min(dek_until_ms),
        uses_left: limits.uses,
        refreshing: false,
    }
}

#[cfg(test)]
mod tests;
