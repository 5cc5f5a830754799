//! The report as JSON.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::open_loop::Row;
use crate::machine::Machine;
use crate::measure::Sample;
use crate::stats::{aim, median, verdict};

/// Ratio to A1 without the check: what must be reached and what is aimed at, on a quiet machine.
const TARGETS: [(&str, f64, f64); 4] =
    [("http1", 1.45, 1.25), ("grpc", 1.45, 1.25), ("stream", 1.05, 0.95), ("batch", 1.05, 0.95)];
/// Ratio to the yardstick of the same minute: the same on a noisy one.
const TO_YARDSTICK: (f64, f64) = (1.20, 1.05);

/// `report.json`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(super) machine: Machine,
    pub(super) a1_us: f64,
    pub(super) paths: BTreeMap<&'static str, Figures>,
    /// The plain stack with the C interface.
    pub(super) baseline: BTreeMap<&'static str, Figures>,
    /// The plain stack with the crate's own signing call.
    pub(super) baseline_crate_call: BTreeMap<&'static str, Figures>,
    pub(super) open_loop: Vec<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) yardstick: Option<Yardstick>,
}

/// One path. Times are CPU in microseconds a signature; all are medians over the rounds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    pub(super) ratio_a1: f64,
    /// Without the check of the enclave.
    pub(super) ratio_a1_no_verify: f64,
    pub(super) dataplane_us: f64,
    /// With the check.
    pub(super) enclave_us: f64,
    /// The part of it that the check takes; 0 for a signer without.
    pub(super) check_us: f64,
    pub(super) per_s: f64,
    pub(super) p50_ms: f64,
    pub(super) p90_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) p999_ms: f64,
}

/// What a prototype without any feature took in the same minute.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Yardstick {
    /// When and at what load.
    pub(super) when: String,
    /// CPU of its two processes in microseconds a signature, by path.
    pub(super) us: BTreeMap<String, f64>,
}

/// Three decimals.
pub(super) fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// The raw signature of all rounds.
pub(super) fn a1<'a>(samples: impl Iterator<Item = &'a Sample>) -> f64 {
    round(median(&samples.map(|sample| sample.a1).collect::<Vec<_>>()))
}

// === impl Figures ===

impl Figures {
    /// The medians over these rounds. Ratios are taken within each.
    pub(super) fn of(samples: &[Sample]) -> Self {
        let of = |figure: fn(&Sample) -> f64| {
            round(median(&samples.iter().map(figure).collect::<Vec<_>>()))
        };
        Self {
            ratio_a1: of(|it| (it.dataplane + it.enclave) / it.a1),
            ratio_a1_no_verify: of(|it| {
                (it.dataplane + it.enclave - it.check.unwrap_or_default()) / it.a1
            }),
            dataplane_us: of(|it| it.dataplane),
            enclave_us: of(|it| it.enclave),
            check_us: of(|it| it.check.unwrap_or_default()),
            per_s: of(|it| it.outcome.signatures as f64 / it.outcome.seconds),
            p50_ms: of(|it| it.outcome.latency.p50_ms),
            p90_ms: of(|it| it.outcome.latency.p90_ms),
            p99_ms: of(|it| it.outcome.latency.p99_ms),
            p999_ms: of(|it| it.outcome.latency.p999_ms),
        }
    }
}

// === impl Yardstick ===

impl Yardstick {
    pub(super) fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("parse {}", file.display()))
    }
}

// === impl Report ===

impl Report {
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(folder.join("report.json"), text).context("write the report")
    }

    /// The yardstick's ratio to A1 of this path.
    pub(super) fn yardstick_of(&self, path: &str) -> Option<f64> {
        let us = self.yardstick.as_ref().and_then(|yardstick| yardstick.us.get(path).copied());
        us.map(|us| us / self.a1_us)
    }

    /// What each path must reach and what is aimed at: on a machine where the yardstick is known, in
    /// ratios to it.
    pub(super) fn targets(&self, path: &str) -> Option<(f64, f64)> {
        let (_, reach, aim) = TARGETS.iter().find(|(name, ..)| *name == path)?;
        Some(self.yardstick_of(path).map_or((*reach, *aim), |yardstick| {
            ((yardstick * TO_YARDSTICK.0).max(*reach), (yardstick * TO_YARDSTICK.1).max(*aim))
        }))
    }

    /// Says of each path whether its target is met.
    pub(super) fn judge(&self) {
        for (path, figures) in &self.paths {
            let Some((reach, wanted)) = self.targets(path) else { continue };
            let ratio = figures.ratio_a1_no_verify;
            println!(
                "{path:<7} {ratio:.3} x A1 without the check; reach {reach:.2}: {}; aim {wanted:.2}: {}",
                verdict(ratio, reach),
                aim(ratio, wanted)
            );
        }
    }
}
