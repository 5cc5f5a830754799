//! The committed figure and what may differ from it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// Instructions are the same on every machine but for the C library's choice of `memcpy` and such.
const TOLERANCE_PERCENT: f64 = 3.0;

/// How many requests a worker finds when it looks depends on the machine, and what it does once for all
/// of them is shared by as many.
const DATAPLANE_TOLERANCE_PERCENT: f64 = 10.0;

/// The figures as they stand in the repository.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Committed {
    /// Instructions of the enclave's signing thread a signature, besides libsecp256k1.
    besides_signing: f64,
    /// Instructions of the dataplane's serving thread a signature, by path.
    #[serde(default)]
    dataplane: BTreeMap<String, f64>,
    /// Difference that is let through, either way.
    tolerance_percent: f64,
    /// The same for the dataplane's figures.
    #[serde(default = "dataplane_tolerance_percent")]
    dataplane_tolerance_percent: f64,
}

/// Fails above the target, whatever is committed: small steps within the tolerance must not pass it.
pub(crate) fn within(now: f64, max: f64) -> Result<()> {
    if now <= max {
        return Ok(());
    }
    bail!("a signature takes {now:.1} instructions besides signing, at most {max:.0} are allowed")
}

impl Committed {
    pub(crate) fn set_besides_signing(&mut self, besides_signing: f64) {
        self.besides_signing = besides_signing.round();
    }

    pub(crate) fn set_dataplane(&mut self, path: &str, instructions: f64) {
        self.dataplane.insert(path.to_owned(), instructions.round());
    }

    pub(crate) fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("parse {}", file.display()))
    }

    /// Changes what stands in a file; makes it if it is not there.
    pub(crate) fn update(file: &Path, change: impl FnOnce(&mut Self)) -> Result<()> {
        let mut committed = if file.exists() { Self::read(file)? } else { Self::default() };
        change(&mut committed);
        let text = serde_json::to_string_pretty(&committed)? + "\n";
        std::fs::write(file, text).with_context(|| format!("write {}", file.display()))
    }

    /// Judges the enclave's figure.
    pub(crate) fn judge(&self, now: f64) -> Result<()> {
        compare("a signature in the enclave", (self.besides_signing, self.tolerance_percent), now)
    }

    /// Judges the dataplane's figure of a path.
    pub(crate) fn judge_dataplane(&self, path: &str, now: f64) -> Result<()> {
        let old = self.dataplane.get(path).copied().unwrap_or(f64::NAN);
        compare(path, (old, self.dataplane_tolerance_percent), now)
    }
}

fn dataplane_tolerance_percent() -> f64 {
    DATAPLANE_TOLERANCE_PERCENT
}

/// Fails both ways: a figure that fell and is not committed hides the next rise.
fn compare(what: &str, (old, tolerance): (f64, f64), now: f64) -> Result<()> {
    let change = (now - old) / old * 100.0;
    println!(
        "gate: {what}: committed {old:.0}, now {now:.0}: {change:+.1} % (tolerance {tolerance} %)"
    );
    if change.abs() <= tolerance {
        return Ok(());
    }
    let why = if change > 0.0 { "find out what became dearer, or" } else { "well done:" };
    bail!(
        "the instructions of {what} changed: {why} commit the new figure with `make bench-gate-write`"
    )
}

impl Default for Committed {
    fn default() -> Self {
        Self {
            besides_signing: f64::NAN,
            dataplane: BTreeMap::new(),
            tolerance_percent: TOLERANCE_PERCENT,
            dataplane_tolerance_percent: DATAPLANE_TOLERANCE_PERCENT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_beyond_the_tolerance_fails_either_way() {
        let mut committed = Committed::default();
        committed.set_besides_signing(1_000.2);
        committed.set_dataplane("http1", 1_000.0);
        for good in [1_000.0, 1_030.0, 970.0] {
            committed.judge(good).unwrap();
            committed.judge_dataplane("http1", good).unwrap();
            assert!(committed.judge_dataplane("http3", good).is_err(), "a path that is not there");
        }
        for (bad, word) in [(1_031.0, "dearer"), (969.0, "well done"), (f64::NAN, "commit")] {
            let error = committed.judge(bad).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn the_dataplane_has_a_tolerance_of_its_own() {
        let mut committed = Committed::default();
        committed.set_dataplane("http1", 1_000.0);
        committed.judge_dataplane("http1", 1_090.0).unwrap();
        for bad in [1_110.0, 890.0, f64::NAN] {
            assert!(committed.judge_dataplane("http1", bad).is_err(), "{bad}");
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
        Committed::update(&file, |committed| committed.set_besides_signing(2_345.6)).unwrap();
        Committed::update(&file, |committed| committed.set_dataplane("grpc", 9.0)).unwrap();
        let read = Committed::read(&file).unwrap();
        read.judge(2_346.0).unwrap();
        read.judge_dataplane("grpc", 9.0).unwrap();
    }
}
