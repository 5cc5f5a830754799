//! Keys under an older DEK of the running image move to its newest one, in the background (decision 31).
//! A walk over each keyspace's keys, at a rate that nobody notices, over a connection of its own. It
//! keeps no state: what is left to do stands in the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::config::live::Live;
use crate::metrics::Metrics;
use crate::pool::backoff::{Backoff, random};
use crate::pool::{Boot, BootWatch, Upstream};
use crate::status::StatusWriter;
use crate::store::Records;

mod lane;
mod pace;
mod round;
mod step;
mod walk;

use pace::Pace;
use round::Round;

/// Between two looks while something is left to do that cannot be done now.
const REST_MIN: Duration = Duration::from_secs(1);
/// Between two looks at the DEKs of a keyspace without anything to do: two reads of the store.
const REST_MAX: Duration = Duration::from_mins(1);

/// Identity of a DEK.
type DekId = [u8; 16];

/// The job. One for each process.
pub(crate) struct Resealer {
    pub(crate) records: Records,
    pub(crate) boots: BootWatch,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) live: Arc<Live>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) status: StatusWriter,
}

/// What a boot's walks found out about a keyspace.
#[derive(Debug, Default)]
struct Known {
    /// DEKs that the enclave does not seal keys of again.
    kept: BTreeSet<DekId>,
    /// DEKs without keys, and when that was found.
    empty: BTreeMap<DekId, Instant>,
    moved: u64,
}

// === impl Resealer ===

impl Resealer {
    /// Runs until the process stops. What it is doing at that moment is whole or not begun in the store.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            () = self.follow_boots() => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    /// Another boot has other DEKs unlocked, and may be of another image.
    async fn follow_boots(&self) {
        let mut boots = self.boots.clone();
        loop {
            let boot = boots.borrow_and_update().clone();
            let work = async {
                match &boot {
                    Some(boot) => self.serve(boot).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = work => {}
                changed = boots.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn serve(&self, boot: &Boot) {
        let mut settings = self.live.subscribe();
        let mut known: BTreeMap<String, Known> = BTreeMap::new();
        let mut pace = Pace::default();
        let mut backoff = Backoff::new(REST_MIN, REST_MAX);
        loop {
            let keyspaces = self.live.load().keyspaces.0.clone();
            let mut everything = true;
            for keyspace in &keyspaces {
                let known = known.entry(keyspace.clone()).or_default();
                let before = known.moved;
                let mut round = Round::new(self, boot, keyspace, known, &mut pace);
                everything &= round.run().await;
                if known.moved > before {
                    backoff.reset();
                }
            }
            let rest = if everything { REST_MAX } else { backoff.wait(random()) };
            // Other settings are a reason to look at once.
            if let Ok(Err(_)) = timeout(rest, settings.changed()).await {
                return;
            }
        }
    }
}
