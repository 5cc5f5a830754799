//! How many unlocks may begin in a second (`unlock_rate_limit`), so that a fleet that boots together
//! leaves KMS its quota. The generic cell rate algorithm (ITU-T I.371, annex A): one time instead of a
//! bucket. Pure: every method takes the time.

use std::time::Duration;

use tokio::time::Instant;

/// Time whose jobs may begin together after a pause.
const BURST: Duration = Duration::from_secs(1);

/// A limit on beginnings. Jobs that were admitted are spread as if each took its share of a second.
#[derive(Debug)]
pub(crate) struct Rate {
    /// 0: no limit.
    per_second_max: u32,
    /// When all that began would have been due, one after the other.
    due: Option<Instant>,
}

impl Rate {
    /// A limit that has seen nothing.
    pub(crate) fn new(per_second_max: u32) -> Self {
        Self { per_second_max, due: None }
    }

    /// Another limit from now on; what began still counts.
    pub(crate) fn set(&mut self, per_second_max: u32) {
        self.per_second_max = per_second_max;
    }

    /// Whether a job may begin now; otherwise when one may.
    pub(crate) fn check(&self, now: Instant) -> Result<(), Instant> {
        let Some(share) = self.share() else { return Ok(()) };
        let Some(due) = self.due else { return Ok(()) };
        // The last job of a burst ends with it.
        let earliest = due.checked_sub(BURST.saturating_sub(share)).unwrap_or(now);
        if earliest <= now { Ok(()) } else { Err(earliest) }
    }

    /// A job begins.
    pub(crate) fn spend(&mut self, now: Instant) {
        let Some(share) = self.share() else { return };
        self.due = Some(self.due.map_or(now, |due| due.max(now)) + share);
    }

    fn share(&self) -> Option<Duration> {
        Duration::from_secs(1).checked_div(self.per_second_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Jobs that begin in each of `seconds`, when as many as possible want to.
    fn begun(rate: &mut Rate, start: Instant, seconds: u32) -> Vec<u32> {
        let begin = |at: Instant, rate: &mut Rate| {
            let mut count = 0;
            while count < 100_000 && rate.check(at).is_ok() {
                rate.spend(at);
                count += 1;
            }
            count
        };
        let second = |second| {
            let steps = (0..1_000).map(|ms| start + Duration::from_millis(second * 1_000 + ms));
            steps.map(|at| begin(at, rate)).sum()
        };
        (0..u64::from(seconds)).map(second).collect()
    }

    #[test]
    fn a_burst_then_as_many_a_second_and_a_pause_saves_no_more_than_a_burst() {
        let start = Instant::now();
        for limit in [1, 3, 100, 10_000] {
            let mut rate = Rate::new(limit);
            let counts = begun(&mut rate, start, 4);
            assert!(counts[0] >= limit && counts[0] <= 2 * limit, "{limit}: {counts:?}");
            let all: u32 = counts.iter().sum();
            assert!(all <= 5 * limit && all >= 4 * limit, "{limit}: {counts:?}");
            let later = begun(&mut rate, start + Duration::from_hours(1), 1);
            assert!(later[0] <= 2 * limit, "{limit}: {later:?}");
        }
    }

    #[test]
    fn who_is_told_to_wait_may_begin_then_and_zero_is_no_limit() {
        let now = Instant::now();
        let mut rate = Rate::new(2);
        while rate.check(now).is_ok() {
            rate.spend(now);
        }
        let then = rate.check(now).unwrap_err();
        assert!(then > now && rate.check(then).is_ok());
        rate.set(0);
        assert!(rate.check(now).is_ok());
    }
}
