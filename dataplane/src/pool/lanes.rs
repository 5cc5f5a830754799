//! Which connection a request takes: packed on as few as keep every worker of the enclave busy, spread
//! when one of them is busy (design §6, row S8a).

use std::sync::Arc;

use super::load::Load;

/// Requests on one connection above which the next one of the same worker is used too: as many as may
/// be under way on its stream. A worker of the enclave queues no more.
const PACKED_MAX: usize = 1_024;

/// What a choice needs to know of a connection.
pub(super) trait Carries {
    /// Worker of the enclave that serves it.
    fn worker_index(&self) -> u16;
    /// What it carries.
    fn load(&self) -> &Load;
}

/// The connections that take requests, by worker of the enclave.
#[derive(Debug)]
pub(super) struct Lanes<L> {
    workers: Vec<Vec<Arc<L>>>,
}

// === impl Lanes ===

impl<L> Default for Lanes<L> {
    fn default() -> Self {
        Self { workers: Vec::new() }
    }
}

impl<L> Clone for Lanes<L> {
    fn clone(&self) -> Self {
        Self { workers: self.workers.clone() }
    }
}

impl<L: Carries> Lanes<L> {
    /// One more.
    pub(super) fn push(&mut self, lane: Arc<L>) {
        let of_worker = |lanes: &&mut Vec<Arc<L>>| {
            lanes.first().is_some_and(|other| other.worker_index() == lane.worker_index())
        };
        match self.workers.iter_mut().find(of_worker) {
            Some(lanes) => lanes.push(lane),
            None => self.workers.push(vec![lane]),
        }
    }

    /// Without that one.
    pub(super) fn remove(&mut self, lane: &Arc<L>) {
        for lanes in &mut self.workers {
            lanes.retain(|other| !Arc::ptr_eq(other, lane));
        }
        self.workers.retain(|lanes| !lanes.is_empty());
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<L>> {
        self.workers.iter().flatten()
    }

    /// The worker with the least in flight, one that answers before one that does not; of its
    /// connections the first that is neither slow nor full. Ties go to the first, so a light load
    /// shares one connection and a heavy one reaches every worker.
    pub(super) fn choose(&self) -> Option<&Arc<L>> {
        let lanes = match self.workers.as_slice() {
            [only] => only,
            workers => workers.iter().min_by_key(|lanes| load(lanes))?,
        };
        let free = lanes.iter().find(|lane| {
            let load = lane.load();
            !load.is_slow() && load.in_flight() < PACKED_MAX
        });
        free.or_else(|| lanes.iter().min_by_key(|lane| lane.load().in_flight()))
    }
}

/// Of one worker: whether none of its connections answers, and what is in flight on all of them.
fn load<L: Carries>(lanes: &[Arc<L>]) -> (bool, usize) {
    lanes.iter().fold((true, 0), |(slow, sum), lane| {
        let load = lane.load();
        (slow && load.is_slow(), sum + load.in_flight())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Fake(u16, Load);

    impl Carries for Fake {
        fn worker_index(&self) -> u16 {
            self.0
        }

        fn load(&self) -> &Load {
            &self.1
        }
    }

    fn lanes(workers: &[u16]) -> Lanes<Fake> {
        let mut lanes = Lanes::default();
        for worker in workers {
            lanes.push(Arc::new(Fake(*worker, Load::new())));
        }
        lanes
    }

    fn enter(lanes: &Lanes<Fake>) -> Arc<Fake> {
        let lane = Arc::clone(lanes.choose().unwrap());
        assert!(lane.1.enter());
        lane
    }

    #[test]
    fn a_light_load_shares_one_connection_and_a_heavy_one_reaches_every_worker() {
        let lanes = lanes(&[0, 1, 2, 0, 1, 2]);
        for _ in 0..5 {
            let lane = enter(&lanes);
            assert_eq!(lane.0, 0);
            lane.1.exit();
        }
        let workers: Vec<_> = (0..6).map(|_| enter(&lanes).0).collect();
        assert_eq!(workers, [0, 1, 2, 0, 1, 2]);
        let used = lanes.iter().filter(|lane| lane.1.in_flight() > 0).count();
        assert_eq!(used, 3, "one connection a worker is enough");
    }

    #[test]
    fn a_slow_or_full_connection_makes_room_for_the_next_of_its_worker() {
        let lanes = lanes(&[0, 0, 1]);
        let first = Arc::clone(&lanes.workers[0][0]);
        first.1.set_slow(true);
        assert!(Arc::ptr_eq(&enter(&lanes), &lanes.workers[0][1]));
        lanes.workers[0][1].1.set_slow(true);
        assert_eq!(enter(&lanes).0, 1, "a worker that answers goes first");
        assert_eq!(enter(&lanes).0, 1);
        first.1.set_slow(false);
        assert!(Arc::ptr_eq(&enter(&lanes), &first), "it answers again");

        let lanes = self::lanes(&[0, 0]);
        (0..PACKED_MAX).for_each(|_| drop(enter(&lanes)));
        assert!(Arc::ptr_eq(&enter(&lanes), &lanes.workers[0][1]), "the first is full");
    }

    #[test]
    fn what_leaves_is_chosen_no_more() {
        let mut lanes = lanes(&[3, 3]);
        let both: Vec<_> = lanes.iter().cloned().collect();
        lanes.remove(&both[0]);
        assert!(Arc::ptr_eq(lanes.choose().unwrap(), &both[1]));
        lanes.remove(&both[1]);
        assert!(lanes.choose().is_none() && lanes.workers.is_empty());
    }

    proptest! {
        /// Row S8a, whatever comes and goes: a request never joins a worker that has work while
        /// another has none.
        #[test]
        fn no_worker_is_idle_while_another_queues(
            workers in proptest::collection::vec(0_u16..4, 1..32),
            steps in proptest::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..300),
        ) {
            let lanes = lanes(&workers);
            let mut open: Vec<Arc<Fake>> = Vec::new();
            for (enters, which) in steps {
                if enters || open.is_empty() {
                    let idle = lanes.workers.iter().any(|lanes| load(lanes).1 == 0);
                    let lane = lanes.choose().unwrap();
                    let of_worker = |lanes: &&Vec<Arc<Fake>>| lanes[0].0 == lane.0;
                    let busy = load(lanes.workers.iter().find(of_worker).unwrap()).1 > 0;
                    prop_assert!(!(idle && busy));
                    prop_assert!(lane.1.enter());
                    open.push(Arc::clone(lane));
                } else {
                    open.swap_remove(which.index(open.len())).1.exit();
                }
            }
            let sum: usize = lanes.iter().map(|lane| lane.1.in_flight()).sum();
            prop_assert_eq!(sum, open.len());
        }
    }
}
