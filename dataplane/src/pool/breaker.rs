//! The breaker of one enclave, shared by all workers: three failures shut it for a second, then one
//! request finds out (rows S2d, G3). Pure: time comes from the caller.
//!
//! What fails together counts once. A failure counts only if what failed began after the last one that
//! counted: sixteen connections that one cut ends are one failure, three connections one after the
//! other, each lost without an answer, are three. An attempt to connect is no evidence: without a
//! connection requests are refused anyway, and a breaker that stayed shut for a second would hold up
//! what row S2b wants back within 250 ms.

use std::time::Duration;

use tokio::time::Instant;

/// Settings that the machine follows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Failures in a row that shut it.
    pub(crate) failures_max: u32,
    /// How long it stays shut, and how long one request may take to find out.
    pub(crate) recovery: Duration,
}

/// State of the breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Breaker {
    /// Requests pass.
    Admitting {
        /// In a row.
        failures: u32,
        /// When the last of them was.
        last: Option<Instant>,
    },
    /// Requests are refused until then.
    Shut {
        /// From then on one may find out.
        until: Instant,
    },
    /// One request finds out.
    Probing {
        /// Since then.
        since: Instant,
    },
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A request wants to pass.
    Asked,
    /// The enclave answered something.
    Answered,
    /// It did not; `begun`: when what failed began.
    Failed {
        /// When the connection was opened, or the probe sent.
        begun: Instant,
    },
    /// An operator, or a new boot of the enclave.
    Reset,
}

/// What becomes of a request that asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It passes.
    Pass,
    /// It is refused; another may pass after this time.
    Refuse(Duration),
    /// Nobody asked.
    Nothing,
}

// === impl Breaker ===

impl Breaker {
    /// Admits everything.
    pub(crate) const NEW: Self = Self::Admitting { failures: 0, last: None };

    /// Takes one event.
    #[allow(clippy::match_same_arms, reason = "by state, as the table in docs/state-machines.md")]
    pub(crate) fn step(self, event: Event, now: Instant, rules: &Rules) -> (Self, Verdict) {
        let pass = |state| (state, Verdict::Pass);
        let nothing = |state| (state, Verdict::Nothing);
        let shut = Self::Shut { until: now + rules.recovery };
        match (self, event) {
            (_, Event::Reset) => nothing(Self::NEW),
            (Self::Admitting { .. }, Event::Asked) => pass(self),
            (Self::Admitting { .. }, Event::Answered) => nothing(Self::NEW),
            (Self::Admitting { last: Some(last), .. }, Event::Failed { begun }) if begun < last => {
                nothing(self)
            }
            (Self::Admitting { failures, .. }, Event::Failed { .. }) => {
                let failures = failures.saturating_add(1);
                let admitting = Self::Admitting { failures, last: Some(now) };
                nothing(if failures >= rules.failures_max { shut } else { admitting })
            }
            (Self::Shut { until }, Event::Asked) if now < until => {
                (self, Verdict::Refuse(until - now))
            }
            (Self::Shut { .. }, Event::Asked) => pass(Self::Probing { since: now }),
            // What is on its way from before proves nothing; after its time an answer does.
            (Self::Shut { until }, Event::Answered) if until <= now => nothing(Self::NEW),
            (Self::Shut { .. }, Event::Answered | Event::Failed { .. }) => nothing(self),
            (Self::Probing { since }, Event::Asked) => {
                let until = since + rules.recovery;
                // Whoever was to find out has gone away.
                if until <= now {
                    return pass(Self::Probing { since: now });
                }
                (self, Verdict::Refuse(until - now))
            }
            (Self::Probing { .. }, Event::Answered) => nothing(Self::NEW),
            (Self::Probing { .. }, Event::Failed { .. }) => nothing(shut),
        }
    }

    /// Name of the state.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Admitting { .. } => "Admitting",
            Self::Shut { .. } => "Shut",
            Self::Probing { .. } => "Probing",
        }
    }

    /// Value of the metric: 0 admitting, 1 probing, 2 shut.
    pub(crate) fn gauge(self) -> i64 {
        match self {
            Self::Admitting { .. } => 0,
            Self::Probing { .. } => 1,
            Self::Shut { .. } => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Rules = Rules { failures_max: 3, recovery: Duration::from_secs(1) };

    fn failed(begun: Instant) -> Event {
        Event::Failed { begun }
    }

    /// Three connections one after the other, each lost without an answer.
    fn shut(start: Instant) -> Breaker {
        (0..3).fold(Breaker::NEW, |breaker, _| breaker.step(failed(start), start, &RULES).0)
    }

    #[test]
    fn three_failures_shut_it_one_request_finds_out_and_an_answer_admits() {
        let start = Instant::now();
        let mut breaker = shut(start);
        assert_eq!((breaker.name(), breaker.gauge()), ("Shut", 2));
        let half = start + RULES.recovery / 2;
        let (_, verdict) = breaker.step(Event::Asked, half, &RULES);
        assert_eq!(verdict, Verdict::Refuse(RULES.recovery / 2));
        (breaker, _) = breaker.step(Event::Answered, half, &RULES);
        assert_eq!(breaker.name(), "Shut", "an answer from before proves nothing");
        let end = start + RULES.recovery;
        let verdict;
        (breaker, verdict) = breaker.step(Event::Asked, end, &RULES);
        assert_eq!((verdict, breaker.name(), breaker.gauge()), (Verdict::Pass, "Probing", 1));
        let (_, second) = breaker.step(Event::Asked, end, &RULES);
        assert_eq!(second, Verdict::Refuse(RULES.recovery), "one only");
        let (again, _) = breaker.step(failed(end), end, &RULES);
        assert_eq!(again, Breaker::Shut { until: end + RULES.recovery });
        let (well, _) = breaker.step(Event::Answered, end, &RULES);
        assert_eq!((well, well.gauge()), (Breaker::NEW, 0));
    }

    #[test]
    fn what_fails_together_counts_once_and_an_answer_begins_anew() {
        let start = Instant::now();
        let later = start + Duration::from_millis(5);
        let mut breaker = Breaker::NEW;
        for _ in 0..16 {
            (breaker, _) = breaker.step(failed(start), later, &RULES);
        }
        assert_eq!(breaker, Breaker::Admitting { failures: 1, last: Some(later) });
        (breaker, _) = breaker.step(failed(later), later, &RULES);
        (breaker, _) = breaker.step(Event::Answered, later, &RULES);
        assert_eq!(breaker, Breaker::NEW);
    }

    #[test]
    fn a_request_that_never_finds_out_keeps_nobody_out_for_longer_than_the_recovery() {
        let start = Instant::now();
        let (probing, _) = shut(start).step(Event::Asked, start + RULES.recovery, &RULES);
        let (_, verdict) = probing.step(Event::Asked, start + 2 * RULES.recovery, &RULES);
        assert_eq!(verdict, Verdict::Pass);
        let (reset, _) = probing.step(Event::Reset, start, &RULES);
        assert_eq!(reset, Breaker::NEW);
    }

    /// The table of docs/state-machines.md is this one.
    #[test]
    fn the_documented_table_is_what_it_does() {
        let documented = include_str!("../../../docs/state-machines.md");
        let now = Instant::now();
        let states = [
            Breaker::Admitting { failures: 2, last: Some(now) },
            Breaker::Shut { until: now + RULES.recovery },
            Breaker::Shut { until: now },
            Breaker::Probing { since: now },
        ];
        let events = [
            ("Asked", Event::Asked),
            ("Answered", Event::Answered),
            ("Failed, the third", failed(now)),
            ("Reset", Event::Reset),
        ];
        for (name, event) in events {
            let mut line = format!("| {name} |");
            for state in states {
                let (after, verdict) = state.step(event, now, &RULES);
                let refused = if matches!(verdict, Verdict::Refuse(_)) { "refused" } else { "" };
                let same = after.name() == state.name();
                let cell = if same { refused } else { after.name() };
                line += if cell.is_empty() { "" } else { " " };
                line += cell;
                line += " |";
            }
            assert!(documented.contains(&line), "docs/state-machines.md lacks\n{line}");
        }
    }

    proptest! {
        /// However events mix: never more than one request a recovery passes while it is not admitting,
        /// and nobody is told to wait longer than a recovery.
        #[test]
        fn it_passes_one_at_a_time_until_it_admits(
            steps in proptest::collection::vec((0..4_u8, 0_u64..1_500), 0..200),
        ) {
            let (mut breaker, mut now) = (Breaker::NEW, Instant::now());
            let mut last_pass: Option<Instant> = None;
            for (event, after_ms) in steps {
                now += Duration::from_millis(after_ms);
                let event = [Event::Asked, Event::Asked, Event::Answered, failed(now)]
                    [usize::from(event)];
                let before = breaker;
                let verdict;
                (breaker, verdict) = breaker.step(event, now, &RULES);
                match verdict {
                    Verdict::Pass if before.gauge() != 0 => {
                        let early = last_pass.is_some_and(|last| now - last < RULES.recovery);
                        prop_assert!(!early, "two within a recovery");
                        last_pass = Some(now);
                    }
                    Verdict::Refuse(wait) => {
                        prop_assert!(wait > Duration::ZERO && wait <= RULES.recovery);
                    }
                    Verdict::Pass | Verdict::Nothing => {}
                }
                prop_assert_eq!(verdict == Verdict::Nothing, event != Event::Asked);
            }
        }
    }
}
