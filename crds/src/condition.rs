//! Conditions: what is true of an object, why, and since when.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One observation about an object, in the shape that `kubectl wait --for=condition=…` reads.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What is observed, for example `Ready`.
    #[serde(rename = "type")]
    pub type_: ConditionType,
    /// `True`, `False`, or `Unknown` while it cannot be told.
    pub status: ConditionStatus,
    /// Why, in one CamelCase word that alerts and scripts can match.
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[A-Za-z][A-Za-z0-9]*$"))]
    pub reason: String,
    /// Why, for a person, and what to do next.
    #[schemars(length(max = 2048))]
    pub message: String,
    /// `metadata.generation` of the object that this was derived from.
    #[schemars(range(min = 0))]
    pub observed_generation: i64,
    /// When `status` last changed.
    #[schemars(schema_with = "crate::schema::time")]
    pub last_transition_time: Time,
}

/// Value of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It cannot be told at the moment.
    Unknown,
}

/// Everything that is observed about a pool or an allocation.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema,
)]
pub enum ConditionType {
    /// At least the floor of members is active.
    Available,
    /// All wanted members are active, with the wanted settings.
    Ready,
    /// A change of the spec is being carried out.
    Reconciling,
    /// Nothing more will happen until a person does something.
    Stalled,
    /// The node has what the enclave needs.
    AllocationReady,
    /// Every enclave proved its measurements.
    EnclavesAttested,
    /// Every dataplane serves the newest ring.
    RingStable,
    /// Every enclave draws its randomness from the expected source.
    RngHealthy,
    /// Every keyspace is unlocked on every member.
    KeysUnlocked,
    /// The store acknowledges only what is durable, and answers.
    StoreDurable,
    /// Enclaves, attestation root and images are those of production.
    Trusted,
}

// === impl ConditionStatus ===

impl ConditionStatus {
    /// The word that is stored and printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

// === impl ConditionType ===

impl ConditionType {
    /// Conditions of a [`crate::SignerPool`], in the order in which they are shown.
    pub const OF_POOL: [Self; 11] = [
        Self::Available,
        Self::Ready,
        Self::Reconciling,
        Self::Stalled,
        Self::AllocationReady,
        Self::EnclavesAttested,
        Self::RingStable,
        Self::RngHealthy,
        Self::KeysUnlocked,
        Self::StoreDurable,
        Self::Trusted,
    ];

    /// The word that is stored and printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Available => "Available",
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
            Self::AllocationReady => "AllocationReady",
            Self::EnclavesAttested => "EnclavesAttested",
            Self::RingStable => "RingStable",
            Self::RngHealthy => "RngHealthy",
            Self::KeysUnlocked => "KeysUnlocked",
            Self::StoreDurable => "StoreDurable",
            Self::Trusted => "Trusted",
        }
    }
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Condition {
    /// Whether two conditions say the same, whatever the time.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        let Self { type_, status, reason, message, observed_generation, last_transition_time: _ } =
            self;
        *type_ == other.type_
            && *status == other.status
            && *reason == other.reason
            && *message == other.message
            && *observed_generation == other.observed_generation
    }
}
