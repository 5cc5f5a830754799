//! Keyspaces, and how KMS is reached.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How KMS is reached. The enclave's pins decide which key, region and host are used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KmsSpec {
    /// Region that requests are signed for, for example `eu-central-1`. When absent, the region
    /// that the image pins for the first keyspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), regex(pattern = "^[a-z0-9-]+$"))]
    pub region: Option<String>,
    /// `host:port` that TCP connections to KMS go to instead of the pinned host (a VPC endpoint,
    /// the test KMS). It moves the connection only, never the identity that TLS checks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 259), regex(pattern = r"^[A-Za-z0-9.:\[\]-]+:[0-9]{1,5}$"))]
    pub address: Option<String>,
    /// Secret of the namespace with the keys `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, if
    /// any, `AWS_SESSION_TOKEN`. For the test KMS; production uses the role of the service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub credentials_secret_name: Option<String>,
}

/// A keyspace of the pool.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyspaceSpec {
    /// Name, 1 to 63 of `a-z 0-9 - . _`, first alphanumeric.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9][a-z0-9._-]*$"))]
    pub name: String,
    /// ARNs of the KMS keys that the image must pin for it; a pool whose image pins others is
    /// refused with `PinsMismatch`. When empty, whatever the image pins. At most 4.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::key_arns")]
    pub kms_key_arns: Vec<String>,
}
