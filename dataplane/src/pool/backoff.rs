//! Waits between attempts: doubling from a first wait to a longest one, jitter included.

use std::time::Duration;

/// Part of a wait that jitter may add or take.
const JITTER: f64 = 0.2;

/// A growing wait. Pure: randomness comes from the caller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, next: min }
    }

    /// The wait before the next attempt, never above `max`; `random` is in 0..1.
    pub(crate) fn wait(&mut self, random: f64) -> Duration {
        let factor = 1.0 - JITTER + 2.0 * JITTER * random.clamp(0.0, 1.0);
        let wait = self.next.mul_f64(factor).min(self.max);
        self.next = self.next.saturating_mul(2).min(self.max);
        wait
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.min;
    }

    /// The next wait is a longest one.
    pub(crate) fn exhaust(&mut self) {
        self.next = self.max;
    }
}

/// Uniform in 0..1, for jitter; a generator that fails gives the middle.
pub(crate) fn random() -> f64 {
    let mut bytes = [0_u8; 4];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        return 0.5;
    }
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_come_at_25_75_175_ms_and_then_every_200() {
        let mut backoff = Backoff::new(Duration::from_millis(25), Duration::from_millis(200));
        let waits: Vec<_> = (0..6).map(|_| backoff.wait(0.5).as_millis()).collect();
        assert_eq!(waits, [25, 50, 100, 200, 200, 200]);
        backoff.reset();
        assert_eq!(backoff.wait(0.5).as_millis(), 25);
    }

    #[test]
    fn jitter_is_a_fifth_and_never_exceeds_the_longest_wait() {
        for random in [0.0, 0.3, 1.0, 7.0] {
            let mut backoff = Backoff::new(Duration::from_millis(25), Duration::from_millis(200));
            let first = backoff.wait(random).as_micros();
            assert!((20_000..=30_000).contains(&first), "{first}");
            assert!((0..10).all(|_| backoff.wait(random) <= Duration::from_millis(200)));
        }
        assert!((0.0..=1.0).contains(&super::random()));
    }
}
