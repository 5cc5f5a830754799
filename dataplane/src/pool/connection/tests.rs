use proptest::prelude::*;

use super::*;

const RULES: Rules =
    Rules { failures_max: 3, cooldown: Duration::from_secs(1), drain: Duration::from_secs(10) };

/// A connection, the time, and what is to be done.
struct Life {
    connection: Connection,
    now: Instant,
    effect: Effect,
}

impl Life {
    fn new() -> Self {
        Self { connection: Connection::new(), now: Instant::now(), effect: Effect::Connect }
    }

    fn opened() -> Self {
        let mut life = Self::new();
        life.step(Event::Opened);
        life
    }

    fn step(&mut self, event: Event) -> Effect {
        (self.connection, self.effect) = self.connection.step(event, (self.now, 0.5), &RULES);
        self.effect
    }

    /// Sleeps as long as it asks for and goes on; how long that was.
    fn sleep(&mut self) -> Duration {
        let Effect::Sleep(until) = self.effect else { panic!("{:?}", self.effect) };
        let wait = until - self.now;
        self.now = until;
        assert_eq!(self.step(Event::Elapsed), Effect::Connect);
        wait
    }
}

#[test]
fn a_cut_connection_is_tried_after_25_75_175_ms_and_then_every_200() {
    let mut life = Life::opened();
    life.step(Event::Ended(Grade::ReconnectNow));
    let mut after_ms = Vec::new();
    let mut sum = Duration::ZERO;
    for _ in 0..5 {
        sum += life.sleep();
        after_ms.push(sum.as_millis());
        life.step(Event::Refused(Grade::ReconnectNow));
    }
    assert_eq!(after_ms, [25, 75, 175, 375, 575]);
    life.sleep();
    assert_eq!(life.step(Event::Opened), Effect::Serve);
    life.step(Event::Ended(Grade::ReconnectNow));
    assert_eq!(life.sleep().as_millis(), 25, "the schedule begins anew");
}

#[test]
fn an_enclave_that_wants_no_connection_is_asked_every_200_ms() {
    let mut life = Life::new();
    for _ in 0..3 {
        life.step(Event::Refused(Grade::BackOff));
        assert_eq!(life.sleep().as_millis(), 200);
    }
}

#[test]
fn three_probes_in_a_row_take_it_out_for_a_second_and_then_it_is_back() {
    let mut life = Life::opened();
    for answered in [false, false, true, false, false] {
        assert_eq!(life.step(Event::Probed(answered)), Effect::Serve);
    }
    assert!(matches!(life.step(Event::Probed(false)), Effect::Sleep(_)));
    assert_eq!(life.connection.phase(), Phase::Degraded);
    assert!(matches!(life.step(Event::Elapsed), Effect::Sleep(_)), "not before its time");
    assert_eq!(life.sleep(), RULES.cooldown);
    assert_eq!(life.step(Event::Opened), Effect::Serve);
    assert_eq!(life.connection.phase(), Phase::Healthy);
}

#[test]
fn a_drained_one_finishes_and_is_not_opened_again() {
    for last in [Event::Idle, Event::Ended(Grade::ReconnectNow)] {
        let mut life = Life::opened();
        assert_eq!(life.step(Event::Drain), Effect::Finish(life.now + RULES.drain));
        assert_eq!(life.connection.phase(), Phase::Draining);
        assert!(matches!(life.step(Event::Elapsed), Effect::Finish(_)), "it has time left");
        assert_eq!(life.step(last), Effect::Stop);
    }
    let mut late = Life::opened();
    late.step(Event::Drain);
    late.now += RULES.drain;
    assert_eq!(late.step(Event::Elapsed), Effect::Stop);
    for before in [Event::Refused(Grade::BackOff), Event::Elapsed] {
        let mut life = Life::new();
        life.step(before);
        assert_eq!(life.step(Event::Drain), Effect::Stop);
    }
}

/// The table of docs/state-machines.md is this one.
#[test]
fn the_documented_table_is_what_it_does() {
    let documented = include_str!("../../../../docs/state-machines.md");
    let end = Grade::ReconnectNow;
    let events = [
        ("Opened", Event::Opened),
        ("Refused", Event::Refused(end)),
        ("Ended", Event::Ended(end)),
        ("Probed(true)", Event::Probed(true)),
        ("Probed(false), the third", Event::Probed(false)),
        ("Elapsed", Event::Elapsed),
        ("Idle", Event::Idle),
        ("Drain", Event::Drain),
    ];
    let start = Instant::now();
    let states = [
        ("Connecting", State::Connecting),
        ("Waiting", State::Waiting { until: start }),
        ("Healthy", State::Healthy { failures: 2 }),
        ("Degraded", State::Degraded { until: start }),
        ("Draining", State::Draining { until: start }),
        ("Closed", State::Closed),
    ];
    let name = |state: &State| format!("{state:?}").split([' ', '{']).next().unwrap().to_owned();
    for (event_name, event) in events {
        let mut line = format!("| {event_name} |");
        for (_, state) in states {
            let connection = Connection { state, ..Connection::new() };
            let (after, _) = connection.step(event, (start, 0.5), &RULES);
            let same = name(&after.state) == name(&state);
            let cell = if same { String::new() } else { " ".to_owned() + &name(&after.state) };
            line += &(cell + " |");
        }
        assert!(documented.contains(&line), "docs/state-machines.md lacks\n{line}");
    }
}

fn events() -> impl Strategy<Value = (Event, u64)> {
    let event = prop_oneof![
        Just(Event::Opened),
        Just(Event::Refused(Grade::ReconnectNow)),
        Just(Event::Refused(Grade::BackOff)),
        Just(Event::Ended(Grade::ReconnectNow)),
        Just(Event::Ended(Grade::BackOff)),
        any::<bool>().prop_map(Event::Probed),
        Just(Event::Elapsed),
        Just(Event::Idle),
        Just(Event::Drain),
    ];
    (event, 0_u64..2_000)
}

proptest! {
    /// Whatever happens, in whatever order.
    #[test]
    fn waits_are_bounded_and_drained_ones_stay_away(
        steps in proptest::collection::vec((events(), 0.0_f64..1.0), 0..60),
    ) {
        let (mut connection, mut now) = (Connection::new(), Instant::now());
        let mut drained = false;
        for ((event, after_ms), random) in steps {
            now += Duration::from_millis(after_ms);
            let before = connection.phase();
            let effect;
            (connection, effect) = connection.step(event, (now, random), &RULES);
            drained |= event == Event::Drain;
            match effect {
                Effect::Sleep(until) => {
                    let longest = if connection.phase() == Phase::Degraded {
                        RULES.cooldown
                    } else {
                        RECONNECT_MAX
                    };
                    prop_assert!(until <= now + longest);
                }
                Effect::Finish(until) => prop_assert!(until <= now + RULES.drain),
                Effect::Serve => prop_assert!(
                    before == Phase::Healthy || event == Event::Opened,
                    "only one that was opened serves"
                ),
                Effect::Connect | Effect::Stop => {}
            }
            if drained {
                prop_assert!(matches!(connection.phase(), Phase::Draining | Phase::Closed));
            }
            prop_assert_eq!(effect == Effect::Stop, connection.phase() == Phase::Closed);
        }
    }
}
