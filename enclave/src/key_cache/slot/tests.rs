use proptest::prelude::*;

use super::*;

const SETTINGS: Settings = Settings {
    key_soft_ttl_ms: 900,
    key_hard_ttl_ms: 1_000,
    key_uses: 10,
    dek_hard_ttl_ms: 0,
    low_water_uses: 3,
    prefetch_window_ms: 0,
    prefetch_jitter_percent: 0,
    prefetch_in_flight: 0,
    prefetch_scan_ms: 0,
    sign_wait_ms: 0,
    hard_refresh_ms: 0,
    keys: 0,
    bytes: 0,
    warm_keys: 0,
};

fn at(state: State, event: Event, now_ms: u64) -> (State, Effect) {
    step(state, event, now_ms, true, &SETTINGS)
}

fn warm(now_ms: u64) -> State {
    at(State::Cool, Event::Opened, now_ms).0
}

#[test]
fn a_fresh_key_signs_and_counts_its_uses() {
    let (state, effect) = at(warm(0), Event::Sign, 1);
    assert_eq!(effect, Effect::Sign { refresh: false });
    assert_eq!(state, State::Warm(Warm { opened_ms: 0, uses: 1, refreshing: false }));
}

#[test]
fn soft_expiry_signs_and_asks_until_a_refresh_is_queued() {
    let (state, effect) = at(warm(0), Event::Sign, 900);
    assert_eq!(effect, Effect::Sign { refresh: true });
    let (state, effect) = at(state, Event::Sign, 901);
    assert_eq!(effect, Effect::Sign { refresh: true }, "there was no room for it");
    let (state, _) = at(state, Event::Queued, 901);
    let (state, effect) = at(state, Event::Sign, 902);
    assert_eq!(effect, Effect::Sign { refresh: false }, "one refresh is under way");
    let (state, effect) = at(state, Event::Refresh { forced: false }, 903);
    assert_eq!(effect, Effect::Open);
    let (state, _) = at(state, Event::Opened, 903);
    assert_eq!(state, warm(903));
    assert_eq!(at(state, Event::Refresh { forced: false }, 904).1, Effect::None, "done already");
}

#[test]
fn low_water_refreshes_and_no_uses_left_opens_again() {
    let mut state = warm(0);
    let mut effects = Vec::new();
    for _ in 0..10 {
        let (next, effect) = at(state, Event::Sign, 1);
        effects.push(effect);
        state = next;
    }
    let (plenty, low) = effects.split_at(7);
    assert!(plenty.iter().all(|effect| *effect == Effect::Sign { refresh: false }));
    let refresh = [true, true, false].map(|refresh| Effect::Sign { refresh });
    assert_eq!(low, refresh, "two are left, one is left, none is left");
    assert_eq!(at(state, Event::Sign, 2), (State::Cool, Effect::Open));
}

#[test]
fn hard_expiry_and_displacement_cool_a_key() {
    assert_eq!(at(warm(0), Event::Tick, 999), (warm(0), Effect::None));
    assert_eq!(at(warm(0), Event::Tick, 1_000), (State::Cool, Effect::None));
    assert_eq!(at(warm(0), Event::Sign, 1_000), (State::Cool, Effect::Open));
    assert_eq!(at(warm(0), Event::Displaced, 1), (State::Cool, Effect::None));
    assert_eq!(at(State::Cool, Event::Refresh { forced: false }, 1).1, Effect::None);
    assert_eq!(at(State::Cool, Event::Refresh { forced: true }, 1).1, Effect::Open);
}

#[test]
fn a_key_never_outlives_its_dek() {
    let locked = |event| step(warm(0), event, 1, false, &SETTINGS);
    for event in [Event::Tick, Event::Opened, Event::Queued, Event::Displaced] {
        assert_eq!(locked(event), (State::Invalid, Effect::None), "{event:?}");
    }
    for event in [Event::Sign, Event::Refresh { forced: true }, Event::Refresh { forced: false }] {
        assert_eq!(locked(event), (State::Invalid, Effect::AskUnlock), "{event:?}");
    }
}

#[test]
fn a_new_unlock_makes_an_invalid_slot_cool() {
    assert_eq!(at(State::Invalid, Event::Tick, 600), (State::Cool, Effect::None));
    assert_eq!(at(State::Invalid, Event::Sign, 600), (State::Cool, Effect::Open));
}

fn actions() -> impl Strategy<Value = Vec<(Event, u64, bool)>> {
    let event = prop_oneof![
        6 => Just(Event::Sign),
        2 => Just(Event::Opened),
        1 => Just(Event::Queued),
        1 => any::<bool>().prop_map(|forced| Event::Refresh { forced }),
        1 => Just(Event::Displaced),
        1 => Just(Event::Tick),
    ];
    let pass_ms = prop_oneof![3 => Just(0_u64), 1 => 0_u64..700];
    proptest::collection::vec((event, pass_ms, proptest::bool::weighted(0.9)), 0..200)
}

proptest! {
    /// Every reachable history: the machine against what it promises, with the promises written
    /// down a second time.
    #[test]
    fn no_history_uses_a_key_it_must_not(actions in actions()) {
        let (mut now_ms, mut state, mut opened_ms, mut uses) = (0, State::Cool, None, 0);
        for (event, pass_ms, dek_valid) in actions {
            now_ms += pass_ms;
            let (next, effect) = step(state, event, now_ms, dek_valid, &SETTINGS);
            if event == Event::Opened && dek_valid {
                (opened_ms, uses) = (Some(now_ms), 0);
            }
            match effect {
                Effect::Sign { refresh } => {
                    uses += 1;
                    let age_ms = now_ms - opened_ms.unwrap();
                    prop_assert!(dek_valid && uses <= 10 && age_ms < 1_000);
                    prop_assert!(!refresh || age_ms >= 900 || uses > 7);
                }
                Effect::Open => prop_assert!(dek_valid),
                Effect::AskUnlock => prop_assert!(!dek_valid),
                Effect::None => prop_assert!(event != Event::Sign),
            }
            prop_assert_eq!(matches!(next, State::Invalid), !dek_valid, "{:?}", next);
            let gone = event == Event::Displaced;
            prop_assert!(!gone || !matches!(next, State::Warm(_)));
            state = next;
        }
    }
}
