//! Follows the pool's SignerRing by name. A deleted ring is no event here: the last good one is kept.

use futures_util::StreamExt;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use sigil_crds::SignerRing;

use crate::config::Member;
use crate::router::membership::{Membership, Memberships};

/// Follows the ring for ever. Errors of the watch are retried with a back-off.
pub(super) async fn follow(client: Client, member: &Member, memberships: Memberships) {
    let api = Api::<DeserializeGuard<SignerRing>>::namespaced(client, &member.namespace);
    let only = watcher::Config::default().fields(&format!("metadata.name={}", member.pool));
    let mut changes = watcher(api, only).default_backoff().applied_objects().boxed();
    while let Some(change) = changes.next().await {
        match change {
            Ok(DeserializeGuard(Ok(found))) => match Membership::checked(&found.spec) {
                Ok(membership) => drop(memberships.offer(membership, "cluster")),
                Err(error) => tracing::warn!(%error, "ring refused; the last good one is kept"),
            },
            Ok(DeserializeGuard(Err(invalid))) => {
                tracing::warn!(error = invalid.error, "ring cannot be read; the last one is kept");
            }
            Err(error) => tracing::warn!(%error, "watch of the ring"),
        }
    }
}
