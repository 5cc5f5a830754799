//! Keeps as many connections as wanted to the newest boot, and none to an older one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::keeper::Keeper;
use super::size::{Bounds, Share, Size};
use super::upstream::Orders;
use super::{Boot, BootWatch, Shared};

/// How often a pool looks at its connections: which of them stand still, and whether there are enough.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// How many connections a pool is to keep.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted {
    /// A worker's share of what is configured.
    Share(Share),
    /// So many, whatever is configured.
    Fixed(usize),
}

/// The connections to one boot.
struct Places {
    shared: Arc<Shared>,
    boot: Arc<Boot>,
    keepers: JoinSet<()>,
    /// One a place that is wanted; true sends its keeper away.
    leave: Vec<watch::Sender<bool>>,
}

// === impl Wanted ===

impl Wanted {
    /// The control plane goes on asking: unlocks and health are not what is drained.
    fn drains(self, orders: &Orders) -> bool {
        orders.draining && matches!(self, Self::Share(_))
    }

    fn bounds(self, orders: &Orders) -> Bounds {
        match self {
            Self::Share(share) => Bounds {
                min: share.part(orders.settings.min),
                max: share.part(orders.settings.max),
            },
            Self::Fixed(count) => Bounds { min: count, max: count },
        }
    }
}

// === impl Places ===

impl Places {
    fn new(shared: &Arc<Shared>, boot: Arc<Boot>) -> Self {
        Self { shared: Arc::clone(shared), boot, keepers: JoinSet::new(), leave: Vec::new() }
    }

    /// Opens or drains until there are so many.
    fn set(&mut self, count: usize) {
        while self.leave.len() > count {
            if let Some(leave) = self.leave.pop() {
                leave.send_replace(true);
            }
        }
        while self.leave.len() < count {
            let (leave, told) = watch::channel(false);
            let (shared, boot) = (Arc::clone(&self.shared), Arc::clone(&self.boot));
            let keeper = Keeper::new(shared, boot, self.leave.len(), told);
            self.keepers.spawn(keeper.run());
            self.leave.push(leave);
        }
        // Those that have gone.
        while self.keepers.try_join_next().is_some() {}
    }
}

/// Follows boots and orders for ever.
pub(super) async fn run(shared: Arc<Shared>, mut boots: BootWatch, wanted: Wanted) {
    loop {
        let boot = boots.borrow_and_update().clone();
        let changed = match boot {
            Some(boot) => serve(&shared, boot, &mut boots, wanted).await,
            None => boots.changed().await,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Keeps connections to one boot until there is another, or none.
async fn serve(
    shared: &Arc<Shared>,
    boot: Arc<Boot>,
    boots: &mut BootWatch,
    wanted: Wanted,
) -> Result<(), watch::error::RecvError> {
    shared.boot_began(boot.boot_id);
    let mut places = Places::new(shared, boot);
    let mut orders = shared.upstream.orders();
    let mut ordered = orders.borrow_and_update().clone();
    let mut size = Size::new(wanted.bounds(&ordered));
    let mut looks = interval_at(Instant::now() + LOOK_PERIOD, LOOK_PERIOD);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let changed = loop {
        places.set(if wanted.drains(&ordered) { 0 } else { size.connections });
        tokio::select! {
            changed = boots.changed() => break changed,
            Ok(()) = orders.changed() => {
                ordered = orders.borrow_and_update().clone();
                size = size.step(shared.in_flight(), wanted.bounds(&ordered));
            }
            _ = looks.tick() => {
                shared.look();
                size = size.step(shared.in_flight(), wanted.bounds(&ordered));
            }
        }
    };
    places.keepers.shutdown().await;
    changed
}
