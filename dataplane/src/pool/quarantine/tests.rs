use proptest::prelude::*;

use super::*;
use Verdict::{Refuse, Send, SendAlone};

const A: BootId = BootId([1; 16]);
const B: BootId = BootId([2; 16]);
const C: BootId = BootId([3; 16]);
const KILLER: Fingerprint = [7; 16];

fn run(quarantine: &mut Quarantine, events: &[Event], now: Instant) -> Vec<Verdict> {
    events.iter().map(|event| quarantine.step(KILLER, *event, now)).collect()
}

#[test]
fn a_request_that_ends_two_enclaves_is_sent_alone_once_and_then_refused() {
    let (mut quarantine, start) = (Quarantine::default(), Instant::now());
    let verdicts = run(
        &mut quarantine,
        &[
            Event::Asked(Some(A)),
            Event::Lost(A),
            Event::Asked(None),
            Event::Asked(Some(B)),
            Event::Lost(B),
            Event::Asked(None),
            Event::Asked(Some(C)),
        ],
        start,
    );
    assert_eq!(verdicts, [Send, Send, Send, SendAlone, Send, Refuse, Refuse]);
    assert_eq!((quarantine.len(), quarantine.guilty()), (1, 1));
    assert_eq!(quarantine.step([8; 16], Event::Asked(Some(C)), start), Send, "nobody else");
    let after = start + GUILTY_TIME;
    assert_eq!(quarantine.step(KILLER, Event::Asked(Some(C)), after), Send);
    assert_eq!((quarantine.len(), quarantine.guilty()), (0, 0));
}

#[test]
fn a_cut_connection_makes_nobody_suspect_and_an_answer_clears() {
    let (mut quarantine, start) = (Quarantine::default(), Instant::now());
    let cut = [Event::Lost(A), Event::Asked(Some(A)), Event::Settled, Event::Asked(Some(B))];
    assert_eq!(run(&mut quarantine, &cut, start), [Send; 4]);
    let innocent = [Event::Lost(A), Event::Asked(Some(B)), Event::Settled, Event::Asked(Some(C))];
    assert_eq!(run(&mut quarantine, &innocent, start), [Send, SendAlone, Send, Send]);
    assert_eq!(quarantine.len(), 0);
    // Alone, and that connection was cut, but its enclave is well.
    let cut_alone = [Event::Lost(A), Event::Asked(Some(B)), Event::Lost(B), Event::Asked(Some(B))];
    assert_eq!(run(&mut quarantine, &cut_alone, start), [Send, SendAlone, Send, SendAlone]);
}

#[test]
fn what_is_remembered_is_bounded_in_number_and_time() {
    let (mut quarantine, start) = (Quarantine::default(), Instant::now());
    let name = |number: usize| {
        let mut name = [0; 16];
        name[..8].copy_from_slice(&number.to_le_bytes());
        name
    };
    for number in 0..SUSPECTS_MAX + 10 {
        quarantine.step(name(number), Event::Lost(A), start);
    }
    assert_eq!(quarantine.len(), SUSPECTS_MAX);
    assert_eq!(quarantine.step(name(0), Event::Asked(Some(B)), start), Verdict::Send, "forgotten");
    for number in 20..20 + GUILTY_MAX + 5 {
        for event in [Event::Asked(Some(B)), Event::Lost(B), Event::Asked(Some(C))] {
            quarantine.step(name(number), event, start);
        }
    }
    assert_eq!(quarantine.guilty(), GUILTY_MAX);
    quarantine.step(name(0), Event::Settled, start + GUILTY_TIME);
    assert_eq!((quarantine.len(), quarantine.guilty()), (0, 0));
}

/// The table of docs/state-machines.md is this one.
#[test]
fn the_documented_table_is_what_it_does() {
    let documented = include_str!("../../../../docs/state-machines.md");
    let states = [
        None,
        Some(State::Lost { boot: A }),
        Some(State::Alone { boot: A }),
        Some(State::LostAlone { boot: A }),
        Some(State::Guilty),
    ];
    let events = [
        ("Asked, the same boot is there", Event::Asked(Some(A))),
        ("Asked, another boot is there", Event::Asked(Some(B))),
        ("Asked, no boot is there", Event::Asked(None)),
        ("Lost", Event::Lost(A)),
        ("Settled", Event::Settled),
    ];
    let name = |state: Option<State>| match state {
        None => "unknown".to_owned(),
        Some(state) => format!("{state:?}").split([' ', '{']).next().unwrap().to_owned(),
    };
    for (event_name, event) in events {
        let mut line = format!("| {event_name} |");
        for state in states {
            let (after, verdict) = State::step(state, event);
            let asked = matches!(event, Event::Asked(_));
            let mut cell = if name(after) == name(state) { String::new() } else { name(after) };
            for (shown, word) in [(Verdict::SendAlone, "alone"), (Verdict::Refuse, "refused")] {
                if asked && verdict == shown {
                    cell = format!("{cell} {word}").trim().to_owned();
                }
            }
            line += if cell.is_empty() { "" } else { " " };
            line += &(cell + " |");
        }
        assert!(documented.contains(&line), "docs/state-machines.md lacks\n{line}");
    }
}

fn boot() -> impl Strategy<Value = BootId> {
    (1_u8..6).prop_map(|byte| BootId([byte; 16]))
}

proptest! {
    /// Nobody is refused who was not alone on a boot that is there no more, and the numbers agree.
    #[test]
    fn only_what_was_alone_with_an_enclave_that_ended_is_refused(
        steps in proptest::collection::vec(
            (0_u8..4, prop_oneof![
                proptest::option::of(boot()).prop_map(Event::Asked),
                boot().prop_map(Event::Lost),
                Just(Event::Settled),
            ]),
            0..200,
        ),
    ) {
        let (mut quarantine, now) = (Quarantine::default(), Instant::now());
        let mut alone_on: [Option<BootId>; 4] = [None; 4];
        let mut lost_alone_on: [Option<BootId>; 4] = [None; 4];
        let mut guilty = [false; 4];
        for (who, event) in steps {
            let at = usize::from(who);
            let verdict = quarantine.step([who; 16], event, now);
            match (event, verdict) {
                (Event::Asked(current), Verdict::Refuse) => {
                    prop_assert!(guilty[at] || lost_alone_on[at].is_some_and(|b| current != Some(b)));
                    guilty[at] = true;
                }
                (Event::Asked(current), Verdict::SendAlone) => alone_on[at] = current.or(alone_on[at]),
                (Event::Lost(boot), _) if alone_on[at].is_some() => lost_alone_on[at] = Some(boot),
                (Event::Settled, _) if !guilty[at] => {
                    (alone_on[at], lost_alone_on[at]) = (None, None);
                }
                _ => {}
            }
        }
        let known = quarantine.known.values();
        let counted = known.filter(|(state, _)| *state == State::Guilty).count();
        prop_assert_eq!(quarantine.guilty(), counted);
        prop_assert_eq!(quarantine.order.len(), quarantine.known.len());
    }
}
