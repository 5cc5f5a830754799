use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { soft_ttl_ms: 900, hard_ttl_ms: 1_000, uses: 10, low_water_uses: 3 };

fn at(now_ms: u64, dek_until_ms: u64) -> Moment {
    Moment { now_ms, dek_until_ms: Some(dek_until_ms) }
}

fn warm(now_ms: u64) -> State {
    step(State::Cool, Event::Opened, at(now_ms, 10_000), &LIMITS).0
}

#[test]
fn a_fresh_key_signs_and_counts_its_uses() {
    let (state, effect) = step(warm(0), Event::Sign, at(1, 10_000), &LIMITS);
    assert_eq!(effect, Effect::Sign { refresh: false });
    let expected = Warm { soft_ms: 900, hard_ms: 1_000, uses_left: 9, refreshing: false };
    assert_eq!(state, State::Warm(expected));
}

#[test]
fn soft_expiry_signs_and_refreshes_once() {
    let (state, effect) = step(warm(0), Event::Sign, at(900, 10_000), &LIMITS);
    assert_eq!(effect, Effect::Sign { refresh: true });
    let (state, effect) = step(state, Event::Sign, at(901, 10_000), &LIMITS);
    assert_eq!(effect, Effect::Sign { refresh: false }, "one refresh is under way");
    let (state, _) = step(state, Event::Opened, at(902, 10_000), &LIMITS);
    assert_eq!(state, warm(902));
}

#[test]
fn low_water_refreshes_and_no_uses_left_opens_again() {
    let mut state = warm(0);
    let mut effects = Vec::new();
    for _ in 0..10 {
        let (next, effect) = step(state, Event::Sign, at(1, 10_000), &LIMITS);
        effects.push(effect);
        state = next;
    }
    let refreshes = effects.iter().filter(|effect| **effect == Effect::Sign { refresh: true });
    assert_eq!(refreshes.count(), 1);
    assert_eq!(effects[7], Effect::Sign { refresh: true }, "two uses are left");
    assert_eq!(step(state, Event::Sign, at(2, 10_000), &LIMITS), (State::Cool, Effect::Open));
}

#[test]
fn hard_expiry_erases_and_then_opens_on_demand() {
    assert_eq!(step(warm(0), Event::Tick, at(999, 10_000), &LIMITS), (warm(0), Effect::None));
    assert_eq!(
        step(warm(0), Event::Tick, at(1_000, 10_000), &LIMITS),
        (State::Cool, Effect::Erase)
    );
    assert_eq!(step(warm(0), Event::Sign, at(1_000, 10_000), &LIMITS), (State::Cool, Effect::Open));
}

#[test]
fn a_key_never_outlives_its_dek() {
    let (state, _) = step(State::Cool, Event::Opened, at(0, 500), &LIMITS);
    let State::Warm(held) = state else { panic!("opened") };
    assert_eq!(held.hard_ms, 500);
    for event in [Event::Tick, Event::Opened, Event::OpenFailed] {
        let (next, effect) = step(state, event, at(500, 500), &LIMITS);
        assert_eq!((next, effect), (State::Invalid, Effect::Erase), "{event:?}");
    }
    let asked = step(state, Event::Sign, at(500, 500), &LIMITS);
    assert_eq!(asked, (State::Invalid, Effect::AskUnlock));
    let none = Moment { now_ms: 1, dek_until_ms: None };
    assert_eq!(step(state, Event::Sign, none, &LIMITS), (State::Invalid, Effect::AskUnlock));
}

#[test]
fn a_new_unlock_makes_an_invalid_slot_cool() {
    let (state, effect) = step(State::Invalid, Event::Sign, at(600, 900), &LIMITS);
    assert_eq!((state, effect), (State::Cool, Effect::Open));
    let failed = step(State::Cool, Event::OpenFailed, at(600, 900), &LIMITS);
    assert_eq!(failed, (State::Cool, Effect::None));
}

#[derive(Clone, Copy, Debug)]
enum Do {
    Step(Event),
    Pass(u64),
    Unlock(u64),
    LoseDek,
}

fn actions() -> impl Strategy<Value = Vec<Do>> {
    let action = prop_oneof![
        6 => Just(Do::Step(Event::Sign)),
        2 => Just(Do::Step(Event::Opened)),
        1 => Just(Do::Step(Event::OpenFailed)),
        1 => Just(Do::Step(Event::Tick)),
        3 => (0_u64..700).prop_map(Do::Pass),
        2 => (0_u64..2_000).prop_map(Do::Unlock),
        1 => Just(Do::LoseDek),
    ];
    proptest::collection::vec(action, 0..200)
}

proptest! {
    /// Every reachable history: the machine against what it promises, with the promises written
    /// down a second time.
    #[test]
    fn no_history_uses_a_key_it_must_not(actions in actions()) {
        let (mut now_ms, mut dek_until_ms, mut state) = (0, None, State::Cool);
        let (mut opened_ms, mut uses, mut refreshes) = (None, 0, 0);
        for action in actions {
            let event = match action {
                Do::Pass(ms) => { now_ms += ms; Event::Tick }
                Do::Unlock(ms) => { dek_until_ms = dek_until_ms.max(Some(now_ms + ms)); Event::Tick }
                Do::LoseDek => { dek_until_ms = None; Event::Tick }
                Do::Step(event) => event,
            };
            let valid = dek_until_ms.is_some_and(|until_ms| now_ms < until_ms);
            let (next, effect) = step(state, event, Moment { now_ms, dek_until_ms }, &LIMITS);
            if event == Event::Opened && valid {
                (opened_ms, uses, refreshes) = (Some(now_ms), 0, 0);
            }
            match effect {
                Effect::Sign { refresh } => {
                    uses += 1;
                    refreshes += u64::from(refresh);
                    prop_assert!(valid && uses <= LIMITS.uses && refreshes <= 1);
                    prop_assert!(now_ms < opened_ms.unwrap() + LIMITS.hard_ttl_ms);
                }
                Effect::Open => prop_assert!(valid),
                Effect::AskUnlock => prop_assert!(!valid),
                Effect::Erase => prop_assert!(!matches!(next, State::Warm(_))),
                Effect::None => {}
            }
            prop_assert_eq!(matches!(next, State::Invalid), !valid, "{:?}", next);
            if matches!(state, State::Warm(_)) && !matches!(next, State::Warm(_)) {
                let told = matches!(effect, Effect::Erase | Effect::Open | Effect::AskUnlock);
                prop_assert!(told, "{:?}", effect);
            }
            state = next;
        }
    }
}
