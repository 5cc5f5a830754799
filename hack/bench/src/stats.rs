//! Order statistics, and whether targets are met.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether any [`verdict`] of this run was that a target is not met.
static MISSED: AtomicBool = AtomicBool::new(false);

/// The value below which this share of the samples lies; NaN for none.
pub(crate) fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let at = (share * sorted.len().saturating_sub(1) as f64).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// The middle value; NaN for none.
pub(crate) fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// `met` or `NOT MET`; remembers the latter for [`missed`].
pub(crate) fn verdict(value: f64, target: f64) -> &'static str {
    let said = aim(value, target);
    MISSED.fetch_or(said != "met", Ordering::Relaxed);
    said
}

/// The same for what is aimed at and does not fail a run.
pub(crate) fn aim(value: f64, aim: f64) -> &'static str {
    if value <= aim { "met" } else { "NOT MET" }
}

/// Whether a target was not met.
pub(crate) fn missed() -> bool {
    MISSED.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_a_hundred() {
        let samples: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        assert_eq!((median(&samples), quantile(&samples, 0.95)), (50.0, 95.0));
        assert_eq!((quantile(&samples, 0.0), quantile(&samples, 1.0)), (0.0, 100.0));
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_target_is_met_at_most_and_one_that_is_missed_is_remembered() {
        assert_eq!((aim(1.01, 1.0), verdict(1.0, 1.0), missed()), ("NOT MET", "met", false));
        assert_eq!((verdict(f64::NAN, 1.0), missed()), ("NOT MET", true));
    }
}
