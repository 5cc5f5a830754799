//! How fast: one step at a time, each with its share of a second. No burst, also not after a pause.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Turns that are never closer together than the rate allows.
#[derive(Debug, Default)]
pub(super) struct Pace {
    next: Option<Instant>,
}

impl Pace {
    /// Waits for the next turn; `false`: the rate is 0, there are no turns.
    pub(super) async fn turn(&mut self, per_second: u32) -> bool {
        let Some(share) = Duration::from_secs(1).checked_div(per_second) else { return false };
        let now = Instant::now();
        let at = self.next.map_or(now, |next| next.max(now));
        self.next = Some(at + share);
        sleep_until(at).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_are_a_share_of_a_second_apart_and_none_is_saved_up() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        for _ in 0..=20 {
            assert!(pace.turn(10).await);
        }
        assert_eq!(start.elapsed().as_millis() / 10, 200);
        tokio::time::advance(Duration::from_mins(1)).await;
        let start = Instant::now();
        for _ in 0..=5 {
            assert!(pace.turn(10).await);
        }
        assert_eq!(start.elapsed().as_millis() / 10, 50, "no burst after a pause");
        assert!(!pace.turn(0).await, "off");
        let start = Instant::now();
        for _ in 0..=1_000 {
            assert!(pace.turn(1_000).await);
        }
        assert!(start.elapsed() >= Duration::from_secs(1), "another rate holds at once");
    }
}
