//! Where members run, and how many.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where members run, and how many.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[x_kube(validation = Rule::new("!has(self.all) || !self.all || !has(self.replicas)").message(
    "nodes.replicas and nodes.all: true exclude each other: remove one of them"
))]
#[serde(rename_all = "camelCase")]
pub struct NodesSpec {
    /// Labels that a node must have. Empty matches every node. At most 16.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::schema::labels")]
    pub selector: BTreeMap<String, String>,
    /// Taints that members tolerate, besides `not-ready` and `unreachable`, which they always do:
    /// moving an enclave costs every warm key. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub tolerations: Vec<Toleration>,
    /// Number of members, 0 to 512. 1 when neither this nor `all` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 512))]
    pub replicas: Option<i32>,
    /// One member on every matching node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
}

/// A taint that is tolerated, as in a pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Toleration {
    /// Key of the taint; with operator `Exists`, none means every key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 316))]
    pub key: Option<String>,
    /// How the value is compared; `Equal` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<TolerationOperator>,
    /// Value of the taint, for `Equal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,
    /// Effect of the taint; every effect when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TolerationEffect>,
}

/// How a toleration compares the value of a taint; `Equal` when absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum TolerationOperator {
    /// The values are equal.
    Equal,
    /// Any value.
    Exists,
}

/// Effect of a taint; a toleration without one matches every effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum TolerationEffect {
    /// New pods stay away.
    NoSchedule,
    /// New pods stay away where possible.
    PreferNoSchedule,
    /// Running pods are evicted.
    NoExecute,
}

// === impl Toleration ===

impl Toleration {
    /// Whether this tolerates the taint `key=value:effect`.
    pub fn tolerates(&self, key: &str, value: Option<&str>, effect: &str) -> bool {
        let effect_matches = self.effect.is_none_or(|own| own.as_str() == effect);
        let exists = self.operator == Some(TolerationOperator::Exists);
        let key_matches = match self.key.as_deref() {
            None | Some("") => exists,
            Some(own) => own == key,
        };
        let value_matches =
            exists || self.value.as_deref().unwrap_or_default() == value.unwrap_or_default();
        effect_matches && key_matches && value_matches
    }
}

impl TolerationOperator {
    /// The word that is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "Equal",
            Self::Exists => "Exists",
        }
    }
}

impl TolerationEffect {
    /// The word that is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoSchedule => "NoSchedule",
            Self::PreferNoSchedule => "PreferNoSchedule",
            Self::NoExecute => "NoExecute",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerates_as_the_scheduler_does() {
        let equal = Toleration {
            key: Some("dedicated".into()),
            value: Some("signing".into()),
            effect: Some(TolerationEffect::NoSchedule),
            ..Toleration::default()
        };
        assert!(equal.tolerates("dedicated", Some("signing"), "NoSchedule"));
        assert!(!equal.tolerates("dedicated", Some("other"), "NoSchedule"));
        assert!(!equal.tolerates("dedicated", Some("signing"), "NoExecute"));
        let all =
            Toleration { operator: Some(TolerationOperator::Exists), ..Toleration::default() };
        assert!(all.tolerates("anything", None, "NoExecute"));
        assert!(!Toleration::default().tolerates("anything", None, "NoExecute"));
    }
}
