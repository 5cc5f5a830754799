//! Counts requests by action and result.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Requests by action (`Decrypt`, `GenerateDataKey`, ..., or `-` for none) and result (`ok`, or the
/// AWS error code).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Counters(BTreeMap<String, BTreeMap<String, u64>>);

impl Counters {
    /// Requests of this action with this result.
    pub fn get(&self, action: &str, result: &str) -> u64 {
        self.0.get(action).and_then(|results| results.get(result)).copied().unwrap_or(0)
    }

    /// All requests.
    pub fn total(&self) -> u64 {
        self.0.values().flat_map(BTreeMap::values).sum()
    }

    pub(crate) fn count(&mut self, action: &str, result: &str) {
        let results = self.0.entry(action.to_owned()).or_default();
        *results.entry(result.to_owned()).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_action_and_result() {
        let mut counters = Counters::default();
        counters.count("Decrypt", "ok");
        counters.count("Decrypt", "ok");
        counters.count("Decrypt", "AccessDeniedException");
        assert_eq!(counters.get("Decrypt", "ok"), 2);
        assert_eq!(counters.get("Encrypt", "ok"), 0);
        assert_eq!(counters.total(), 3);
        let text = serde_json::to_string(&counters).unwrap();
        assert_eq!(text, r#"{"Decrypt":{"AccessDeniedException":1,"ok":2}}"#);
    }
}
