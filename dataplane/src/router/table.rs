//! From the newest membership to what workers read for each request: the ring as it is at this moment
//! of its ramps, and who is reached where.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use sigil_crds::MemberState;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::membership::{Member, Membership, Memberships, PeerAddress};
use super::metrics::RouteMetrics;
use super::ring::{RAMP_STEPS, Ring, Share, ramp_reaches_ms, ramp_steps};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::status::StatusWriter;

/// What holds for a request that begins now.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// Of the membership; 0 before the first.
    pub(crate) epoch: i64,
    /// Who owns which keys.
    pub(crate) ring: Ring,
    /// The own member is in the membership and takes no requests.
    pub(crate) own_is_out: bool,
    /// Other members that take requests and can be reached, by slot.
    pub(crate) peers: BTreeMap<u16, PeerAddress>,
}

/// The routes in force, read by every worker without a lock.
#[derive(Debug)]
pub struct Table {
    virtual_nodes: u32,
    own: Option<u16>,
    routes: ArcSwap<Routes>,
    changed: watch::Sender<()>,
    pub(crate) metrics: RouteMetrics,
}

/// Since when members take requests. The first membership finds everybody in place: a dataplane that
/// starts again must not move keys.
#[derive(Debug, Default)]
struct Ramps {
    started: bool,
    active: BTreeMap<u16, Joined>,
}

#[derive(Clone, Debug)]
struct Joined {
    node: String,
    /// `None`: before this process looked.
    at: Option<Instant>,
}

// === impl Table ===

impl Table {
    /// Routes of nobody. `own` is the slot of this member, if it has one.
    pub fn new(virtual_nodes: u32, own: Option<u16>) -> Self {
        Self {
            virtual_nodes,
            own,
            routes: ArcSwap::default(),
            changed: watch::Sender::new(()),
            metrics: RouteMetrics::default(),
        }
    }

    /// As it is configured, counting in `metrics`.
    pub(crate) fn of(config: &Config, metrics: &Metrics) -> Self {
        let own = config.routing.own_slot(config.member.as_ref());
        let table = Self::new(config.routing.virtual_nodes, own);
        Self { metrics: metrics.routes.clone(), ..table }
    }

    /// The own slot.
    pub(crate) fn own(&self) -> Option<u16> {
        self.own
    }
    /// What holds now. The guard is for the moment; it does not belong across an await.
    pub(crate) fn load(&self) -> Guard<Arc<Routes>> {
        self.routes.load()
    }

    /// Tells of changes from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Follows the memberships, and the ramps of the newest, until nobody can offer another. The status
    /// says an epoch once workers read it: that is what is acknowledged.
    pub async fn run(self: Arc<Self>, memberships: Memberships, status: StatusWriter) {
        let mut newest = memberships.subscribe();
        let mut ramps = Ramps::default();
        loop {
            let membership = newest.borrow_and_update().clone();
            let mut next = None;
            if let Some(membership) = membership {
                let now = Instant::now();
                ramps.follow(&membership, now);
                next = self.build(membership, &ramps, now, &status).await;
            }
            tokio::select! {
                changed = newest.changed() => if changed.is_err() { return },
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    /// Puts the routes of this moment into force; gives when they change by themselves.
    async fn build(
        self: &Arc<Self>,
        membership: Arc<Membership>,
        ramps: &Ramps,
        now: Instant,
        status: &StatusWriter,
    ) -> Option<Instant> {
        let (shares, next) = ramps.shares(&membership, now);
        let epoch = membership.epoch;
        let this = Arc::clone(self);
        // The largest ring takes some hundred ms.
        let built = tokio::task::spawn_blocking(move || this.routes(&membership, &shares)).await;
        // It does not panic; without it the last routes stay.
        let Ok(routes) = built else { return next };
        self.metrics.ring_epoch.set(epoch);
        self.metrics.ring_members.set(i64::try_from(routes.ring.members()).unwrap_or(i64::MAX));
        self.routes.store(Arc::new(routes));
        self.changed.send_replace(());
        status.update(|status| status.ring_epoch = epoch);
        next
    }

    fn routes(&self, membership: &Membership, shares: &[Share]) -> Routes {
        let own = self.own.and_then(|own| membership.member(own));
        let takes = |member: &&Member| member.state == MemberState::Active;
        let others = membership.members.iter().filter(takes);
        Routes {
            epoch: membership.epoch,
            ring: Ring::new(shares, self.virtual_nodes),
            own_is_out: own.is_some_and(|own| !takes(&own)),
            peers: others
                .filter(|member| Some(member.slot) != self.own)
                .filter_map(|member| Some((member.slot, member.address.clone()?)))
                .collect(),
        }
    }
}

// === impl Ramps ===

impl Ramps {
    /// Who takes requests from `now` on. A node that takes over a slot is a new member of it: its enclave
    /// holds no keys yet.
    fn follow(&mut self, membership: &Membership, now: Instant) {
        let mut before = std::mem::take(&mut self.active);
        let active = membership.members.iter().filter(|it| it.state == MemberState::Active);
        for member in active {
            let stayed = before.remove(&member.slot).filter(|it| it.node == member.node);
            let joined = stayed.unwrap_or_else(|| Joined {
                node: member.node.clone(),
                at: self.started.then_some(now),
            });
            self.active.insert(member.slot, joined);
        }
        self.started = true;
    }

    /// What everybody has of the ring at `now`, and when the next ramp makes a step.
    fn shares(&self, membership: &Membership, now: Instant) -> (Vec<Share>, Option<Instant>) {
        let mut next: Option<Instant> = None;
        let shares = membership.members.iter().filter_map(|member| {
            let joined = self.active.get(&member.slot)?;
            let ramp_ms = u64::try_from(member.ramp.as_millis()).unwrap_or(u64::MAX);
            let steps = joined.at.map_or(RAMP_STEPS, |at| {
                let elapsed = now.saturating_duration_since(at).as_millis();
                ramp_steps(u64::try_from(elapsed).unwrap_or(u64::MAX), ramp_ms)
            });
            if let Some(at) = joined.at.filter(|_| steps < RAMP_STEPS) {
                let step_ms = ramp_reaches_ms(steps + 1, ramp_ms);
                let step = at + std::time::Duration::from_millis(step_ms);
                next = Some(next.map_or(step, |next| next.min(step)));
            }
            Some(Share { slot: member.slot, weight: member.weight, steps })
        });
        (shares.collect(), next)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::membership::tests::ring;
    use super::*;

    fn membership(text: &str) -> Membership {
        Membership::parse(text).unwrap()
    }

    fn steps(ramps: &Ramps, membership: &Membership, now: Instant) -> Vec<u32> {
        ramps.shares(membership, now).0.iter().map(|share| share.steps).collect()
    }

    #[test]
    fn who_is_there_at_the_start_is_there_in_full_and_who_joins_ramps() {
        let (start, mut ramps) = (Instant::now(), Ramps::default());
        let two = membership(&ring(1, 2));
        ramps.follow(&two, start);
        assert_eq!(
            ramps.shares(&two, start),
            (vec![Share::whole(0, 100), Share::whole(1, 100)], None)
        );
        let three = membership(&ring(2, 3));
        ramps.follow(&three, start);
        assert_eq!(steps(&ramps, &three, start), [RAMP_STEPS, RAMP_STEPS, 1]);
        // A minute of ramp: each of the 31 steps is asked for in time.
        let (mut now, mut seen) = (start, vec![1]);
        while let Some(next) = ramps.shares(&three, now).1 {
            assert!(next > now);
            now = next;
            seen.push(steps(&ramps, &three, now)[2]);
        }
        assert_eq!(seen, (1..=RAMP_STEPS).collect::<Vec<_>>());
        assert_eq!(now - start, Duration::from_mins(1));
    }

    #[test]
    fn a_new_node_in_a_slot_ramps_and_a_newer_epoch_alone_changes_nothing() {
        let (start, mut ramps) = (Instant::now(), Ramps::default());
        ramps.follow(&membership(&ring(1, 2)), start);
        let replaced = membership(&ring(2, 2).replace("node: node-1,", "node: node-9,"));
        ramps.follow(&replaced, start);
        assert_eq!(steps(&ramps, &replaced, start), [RAMP_STEPS, 1]);
        let half = start + Duration::from_secs(30);
        let again = Membership { epoch: 3, ..replaced };
        ramps.follow(&again, half);
        assert_eq!(steps(&ramps, &again, half), [RAMP_STEPS, 16], "its ramp goes on");
    }

    #[test]
    fn who_joins_or_drains_owns_nothing() {
        let table = Table::new(64, Some(0));
        let start = Instant::now();
        for state in ["Joining", "Draining"] {
            let mut ramps = Ramps::default();
            let membership = membership(&ring(1, 3).replacen("Active", state, 1));
            ramps.follow(&membership, start);
            let routes = table.routes(&membership, &ramps.shares(&membership, start).0);
            assert!(routes.own_is_out);
            assert_eq!(routes.ring.members(), 2);
            assert!((0..64).all(|n: u64| routes.ring.owner(n << 58) != Some(0)));
            assert_eq!(routes.peers.keys().copied().collect::<Vec<_>>(), [1, 2]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_follows_memberships_and_ramps_and_says_what_it_serves() {
        let table = Arc::new(Table::new(64, Some(0)));
        let (memberships, status) = (Memberships::new(None), StatusWriter::new(&[]));
        let mut changed = table.subscribe();
        let running = Arc::clone(&table).run(memberships.clone(), status.clone());
        tokio::spawn(running);
        memberships.offer(membership(&ring(4, 2)), "test");
        changed.changed().await.unwrap();
        let before = table.load().ring.clone();
        assert_eq!((table.load().epoch, status.snapshot().ring_epoch), (4, 4));
        memberships.offer(membership(&ring(3, 1)), "test");
        memberships.offer(membership(&ring(5, 3)), "test");
        for _ in 1..=RAMP_STEPS {
            changed.changed().await.unwrap();
        }
        let after = table.load().ring.clone();
        assert_eq!(after, Ring::new(&[0, 1, 2].map(|slot| Share::whole(slot, 100)), 64));
        assert_ne!(before, after);
        assert_eq!(table.load().epoch, 5);
    }

    /// A member that comes and goes moves its own keys and no others, and none once it has gone.
    #[tokio::test(start_paused = true)]
    async fn a_flapping_member_moves_nobody_elses_keys() {
        let table = Arc::new(Table::new(64, Some(0)));
        let (memberships, status) = (Memberships::new(None), StatusWriter::new(&[]));
        let mut changed = table.subscribe();
        tokio::spawn(Arc::clone(&table).run(memberships.clone(), status));
        let owners = |table: &Table| -> Vec<_> {
            (0..256_u64).map(|n| table.load().ring.owner(n << 56).unwrap()).collect()
        };
        memberships.offer(membership(&ring(1, 2)), "test");
        changed.changed().await.unwrap();
        let calm = owners(&table);
        for epoch in 2..40 {
            let here = epoch % 2 == 0;
            memberships.offer(membership(&ring(epoch, if here { 3 } else { 2 })), "test");
            while table.load().epoch != epoch {
                changed.changed().await.unwrap();
            }
            for (now, calm) in owners(&table).iter().zip(&calm) {
                assert!(now == calm || (here && *now == 2), "epoch {epoch}");
            }
        }
    }
}
