//! What a generator counts. Only what belongs to the window counts: in a closed loop what ends in it, in
//! an open one what fell due in it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::Outcome;

/// One answer in so many is verified.
const SAMPLE: u64 = 512;
/// Significant digits of a latency.
const DIGITS: u8 = 3;

/// A minute; what takes longer counts as that.
const LATENCY_US_MAX: u64 = 60_000_000;

/// Latencies in ms.
#[allow(clippy::struct_field_names, reason = "names of the report")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
}

pub(super) struct Tally {
    /// Requests of each caller; then everything counts.
    each: Option<u64>,
    done: usize,
    window: Option<(Instant, Option<Instant>)>,
    signatures: u64,
    answers: u64,
    verified: u64,
    scheduled: u64,
    settled: u64,
    failures: BTreeMap<String, u64>,
    /// In microseconds.
    histogram: Histogram<u64>,
}

// === impl Tally ===

impl Tally {
    pub(super) fn new(each: Option<u64>) -> Result<Self> {
        Ok(Self {
            each,
            done: 0,
            window: each.map(|_| (Instant::now(), None)),
            signatures: 0,
            answers: 0,
            verified: 0,
            scheduled: 0,
            settled: 0,
            failures: BTreeMap::new(),
            histogram: Histogram::new_with_bounds(1, LATENCY_US_MAX, DIGITS)?,
        })
    }

    /// The window begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.window = Some((now, None));
    }

    /// The window ends; gives the signatures in it.
    pub(super) fn end(&mut self, now: Instant) -> u64 {
        if let Some((_, end)) = &mut self.window {
            *end = Some(now);
        }
        self.signatures
    }

    /// Whether a caller that has sent so many requests is to send more. One that is not is done.
    pub(super) fn wants_more(&mut self, sent: u64) -> bool {
        let more = self.each.is_none_or(|each| sent < each);
        self.done += usize::from(!more);
        more
    }

    /// Whether one that has sent so many may send another.
    pub(super) fn takes(&self, sent: u64) -> bool {
        self.each.is_none_or(|each| sent < each)
    }

    /// Callers that are done.
    pub(super) fn callers_done(&self) -> usize {
        self.done
    }

    /// Whether the next answer is one to verify.
    pub(super) fn samples(&mut self) -> bool {
        self.answers += 1;
        self.answers % SAMPLE == 1
    }

    fn is_open(&self) -> bool {
        matches!(self.window, Some((_, None)))
    }

    fn holds(&self, time: Instant) -> bool {
        self.window.is_some_and(|(begin, end)| time >= begin && end.is_none_or(|end| time < end))
    }

    /// A request of a closed loop ended.
    pub(super) fn ended(&mut self, took: Duration, result: Result<u32, String>) {
        if !self.is_open() {
            // What fails before the window would hide in no figure.
            if let Err(why) = result {
                *self.failures.entry(why).or_default() += 1;
            }
            return;
        }
        self.settle(took, result);
    }

    /// A request of an open loop falls due.
    pub(super) fn due(&mut self, at: Instant) {
        self.scheduled += u64::from(self.holds(at));
    }

    /// A request of an open loop ended.
    pub(super) fn ended_late(&mut self, due: Instant, result: Result<u32, String>) {
        if self.holds(due) {
            self.settled += 1;
            self.settle(due.elapsed(), result);
        }
    }

    fn settle(&mut self, took: Duration, result: Result<u32, String>) {
        match result {
            Ok(signatures) => {
                self.signatures += u64::from(signatures);
                self.histogram
                    .saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            }
            Err(why) => *self.failures.entry(why).or_default() += 1,
        }
    }

    /// A signature was verified.
    pub(super) fn verified(&mut self) {
        self.verified += 1;
    }

    /// Requests of the window without an answer.
    pub(super) fn outstanding(&self) -> u64 {
        self.scheduled - self.settled
    }

    pub(super) fn fill(&self, outcome: &mut Outcome) {
        let at = |quantile| self.histogram.value_at_quantile(quantile) as f64 / 1e3;
        outcome.latency = Latency {
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: self.histogram.max() as f64 / 1e3,
        };
        outcome.verified = self.verified;
        outcome.failures.clone_from(&self.failures);
        outcome.scheduled = self.scheduled;
        outcome.unanswered = self.outstanding();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_loop_counts_what_fell_due_in_its_window_however_late_it_ends() {
        let mut tally = Tally::new(None).unwrap();
        let start = Instant::now();
        tally.begin(start);
        let (inside, outside) = (start + Duration::from_millis(1), start + Duration::from_mins(1));
        tally.due(inside);
        tally.due(inside);
        tally.end(start + Duration::from_secs(30));
        tally.due(outside);
        tally.ended_late(inside, Ok(1));
        tally.ended_late(outside, Ok(1));
        let mut outcome = Outcome::default();
        tally.fill(&mut outcome);
        assert_eq!((outcome.scheduled, outcome.unanswered), (2, 1));
        assert_eq!(tally.signatures, 1);
    }

    #[test]
    fn a_closed_loop_counts_what_ends_in_its_window_and_every_failure() {
        let mut tally = Tally::new(None).unwrap();
        tally.ended(Duration::from_millis(9), Ok(1));
        tally.ended(Duration::from_millis(9), Err("early".to_owned()));
        tally.begin(Instant::now());
        tally.ended(Duration::from_millis(250), Ok(32));
        tally.ended(Duration::from_millis(2), Err("late".to_owned()));
        assert_eq!(tally.end(Instant::now()), 32);
        tally.ended(Duration::from_millis(2), Ok(1));
        let mut outcome = Outcome::default();
        tally.fill(&mut outcome);
        assert_eq!(outcome.failures.len(), 2);
        assert!((outcome.latency.max_ms - 250.0).abs() < 1.0, "{:?}", outcome.latency);
    }
}
