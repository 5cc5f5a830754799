//! Follows the pool's SignerRing by name: keeps the last good one, refuses older ones.

use std::sync::Arc;

use futures_util::StreamExt;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use sigil_crds::{SignerRing, SignerRingSpec};
use tokio::sync::watch;

use crate::config::Member;

type Sender = watch::Sender<Option<Arc<SignerRingSpec>>>;

/// Follows the ring for ever. Errors of the watch are retried with a back-off.
pub(super) async fn follow(client: Client, member: &Member, ring: Sender) {
    let api = Api::<DeserializeGuard<SignerRing>>::namespaced(client, &member.namespace);
    let only = watcher::Config::default().fields(&format!("metadata.name={}", member.pool));
    let mut changes = watcher(api, only).default_backoff().applied_objects().boxed();
    while let Some(change) = changes.next().await {
        match change {
            Ok(DeserializeGuard(Ok(found))) => accept(&ring, found.spec),
            Ok(DeserializeGuard(Err(invalid))) => {
                tracing::warn!(error = invalid.error, "ring cannot be read; the last one is kept");
            }
            Err(error) => tracing::warn!(%error, "watch of the ring"),
        }
    }
}

/// A deleted ring is no event here: the last good one is kept.
fn accept(ring: &Sender, found: SignerRingSpec) {
    ring.send_if_modified(|current| {
        let newest = current.as_ref().map_or(0, |current| current.epoch);
        if found.epoch < newest {
            tracing::warn!(found = found.epoch, newest, "older ring refused");
            return false;
        }
        if found.epoch == newest {
            return false;
        }
        tracing::info!(epoch = found.epoch, members = found.members.len(), "ring accepted");
        *current = Some(Arc::new(found));
        true
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(epoch: i64) -> SignerRingSpec {
        SignerRingSpec {
            pool: "demo".to_owned(),
            epoch,
            measurements: Vec::new(),
            members: Vec::new(),
        }
    }

    #[test]
    fn an_older_ring_is_refused_and_the_last_good_one_kept() {
        let (sender, mut reader) = watch::channel(None);
        let mut epoch_after = |epoch| {
            accept(&sender, spec(epoch));
            let changed = reader.has_changed().unwrap();
            (reader.borrow_and_update().as_ref().unwrap().epoch, changed)
        };
        assert_eq!(epoch_after(3), (3, true));
        assert_eq!(epoch_after(2), (3, false));
        assert_eq!(epoch_after(3), (3, false));
        assert_eq!(epoch_after(4), (4, true));
    }
}
