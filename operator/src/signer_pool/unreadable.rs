//! The end of a pool that cannot be read: it cannot be drained, but it must not hang for ever, nor
//! hold its namespace. What it owns is collected with it; claims stay.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use sigil_crds::SignerPool;

use super::plan::DELETE_TIMEOUT_S;
use crate::names::{FINALIZER, MANAGER};

const HTTP_NOT_FOUND: u16 = 404;

/// Removes our finalizer, by metadata, from a pool that has been going away for
/// [`DELETE_TIMEOUT_S`]. Otherwise says when to look again: never, if the pool is not going away or
/// is not held by us.
///
/// # Errors
/// The request failed, or the pool changed since it was read.
pub async fn let_go(
    client: &Client,
    metadata: &ObjectMeta,
    now: Timestamp,
) -> Result<Option<Duration>, kube::Error> {
    let Some(since) = &metadata.deletion_timestamp else { return Ok(None) };
    let mut finalizers = metadata.finalizers.clone().unwrap_or_default();
    if !finalizers.iter().any(|held| held == FINALIZER) {
        return Ok(None);
    }
    let left_s = DELETE_TIMEOUT_S - (now.as_second() - since.0.as_second());
    if left_s > 0 {
        return Ok(Some(Duration::from_secs(left_s.unsigned_abs())));
    }
    finalizers.retain(|held| held != FINALIZER);
    let version = &metadata.resource_version;
    let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": version}});
    let parameters =
        PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let api = Api::<SignerPool>::namespaced(client.clone(), namespace);
    let name = metadata.name.as_deref().unwrap_or_default();
    // The answer holds metadata only: the rest could not be read.
    match api.patch_metadata(name, &parameters, &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.code == HTTP_NOT_FOUND => Ok(None),
        other => other.map(|_| None),
    }
}
