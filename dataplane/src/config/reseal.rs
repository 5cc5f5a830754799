//! Settings of the job that seals keys again under the newest DEK.

use serde::{Deserialize, Serialize};

/// Each takes an enclave's worker about 0.2 ms: 1,000 a second are a fifth of one.
const PER_SECOND_MAX: u32 = 1_000;

/// Keys sealed again under the running image's newest DEK, in the background.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Reseal {
    /// Keys at most in a second, 0..=1000; 0: off. A page of the store that is looked at counts as one.
    pub per_second_max: u32,
}

// === impl Reseal ===

impl Reseal {
    pub(super) fn validate(&self, errors: &mut Vec<String>) {
        if self.per_second_max > PER_SECOND_MAX {
            errors.push(format!(
                "reseal.perSecondMax: {} is not in 0..={PER_SECOND_MAX}",
                self.per_second_max
            ));
        }
    }
}

impl Default for Reseal {
    fn default() -> Self {
        Self { per_second_max: 10 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_out_of_range_is_named() {
        let errors = |per_second_max| {
            let mut errors = Vec::new();
            Reseal { per_second_max }.validate(&mut errors);
            errors
        };
        assert!(errors(0).is_empty() && errors(PER_SECOND_MAX).is_empty());
        assert_eq!(errors(1_001), ["reseal.perSecondMax: 1001 is not in 0..=1000"]);
    }
}
