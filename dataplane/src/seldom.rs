//! A line of the log that would come with each request while a fault lasts, and says the same.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Between two lines of one worker: a person sees it at once, and an outage of hours fits the log.
const EVERY: Duration = Duration::from_secs(1);

/// Admits one line in a second and counts the others.
#[derive(Debug, Default)]
pub(crate) struct Seldom(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    last: Option<Instant>,
    left_out: u64,
}

// === impl Seldom ===

impl Seldom {
    /// How many lines were left out since the last one, if one may be written now.
    pub(crate) fn admit(&self, now: Instant) -> Option<u64> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.last.is_some_and(|last| now.saturating_duration_since(last) < EVERY) {
            lines.left_out += 1;
            return None;
        }
        lines.last = Some(now);
        Some(std::mem::take(&mut lines.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_tells_how_many_were_left_out() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        assert_eq!(seldom.admit(start), Some(0));
        for after_ms in [0, 1, 999] {
            assert_eq!(seldom.admit(start + Duration::from_millis(after_ms)), None);
        }
        assert_eq!(seldom.admit(start + EVERY), Some(3));
        assert_eq!(seldom.admit(start + EVERY), None);
        assert_eq!(seldom.admit(start + 10 * EVERY), Some(1));
    }
}
