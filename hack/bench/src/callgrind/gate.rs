//! The committed figure and what may differ from it.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// Instructions are the same on every machine but for the C library's choice of `memcpy` and such.
const TOLERANCE_PERCENT: f64 = 3.0;

/// The figure as it stands in the repository.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Committed {
    /// Instructions of the signing thread a signature, besides libsecp256k1.
    besides_signing: f64,
    /// Difference that is let through, either way.
    tolerance_percent: f64,
}

/// Fails above the target, whatever is committed: small steps within the tolerance must not pass it.
pub(super) fn within(now: f64, max: f64) -> Result<()> {
    if now <= max {
        return Ok(());
    }
    bail!("a signature takes {now:.1} instructions besides signing, at most {max:.0} are allowed")
}

impl Committed {
    pub(super) fn new(besides_signing: f64) -> Self {
        Self { besides_signing: besides_signing.round(), tolerance_percent: TOLERANCE_PERCENT }
    }

    pub(super) fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("parse {}", file.display()))
    }

    pub(super) fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(file, text).with_context(|| format!("write {}", file.display()))
    }

    /// Fails both ways: a figure that fell and is not committed hides the next rise.
    pub(super) fn judge(&self, now: f64) -> Result<()> {
        let Self { besides_signing: old, tolerance_percent } = self;
        let change = (now - old) / old * 100.0;
        println!(
            "gate: committed {old:.0}, now {now:.0}: {change:+.1} % (tolerance {tolerance_percent} %)"
        );
        if change.abs() <= *tolerance_percent {
            return Ok(());
        }
        let why = if change > 0.0 { "find out what became dearer, or" } else { "well done:" };
        bail!(
            "the instructions of a signature changed: {why} commit the new figure with `make bench-gate-write`"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_beyond_the_tolerance_fails_either_way() {
        let committed = Committed::new(1_000.2);
        for good in [1_000.0, 1_030.0, 970.0] {
            committed.judge(good).unwrap();
        }
        for (bad, word) in [(1_031.0, "dearer"), (969.0, "well done"), (f64::NAN, "commit")] {
            let error = committed.judge(bad).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn nothing_above_the_target_passes() {
        within(3_000.0, 3_000.0).unwrap();
        for bad in [3_000.5, f64::NAN] {
            assert!(within(bad, 3_000.0).unwrap_err().to_string().contains("at most 3000"));
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("instructions.json");
        let committed = Committed::new(2_345.6);
        committed.write(&file).unwrap();
        assert_eq!(Committed::read(&file).unwrap(), committed);
    }
}
