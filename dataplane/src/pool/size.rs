//! How many connections a worker keeps to an enclave (row S10a): its share of 16 to 32, more while much
//! is in flight, fewer after a calm while. Pure.

/// Requests in flight a connection above which there is one more: a full message each. Less fits one
/// message, and a further connection only adds another.
const GROW_ABOVE: usize = 32;
/// Requests in flight a connection below which one fewer would do. A quarter of the other bound: a load
/// between them changes nothing.
const SHRINK_BELOW: usize = 8;
/// Looks in a row that must find it calm, 5 s: longer than callers pause between bursts.
const CALM_LOOKS: u32 = 50;

/// How many of an enclave's connections are one worker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// Which worker.
    pub(crate) index: usize,
    /// Of how many.
    pub(crate) of: usize,
}

/// Fewest and most connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) min: usize,
    pub(super) max: usize,
}

/// Connections wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    /// How many.
    pub(super) connections: usize,
    calm: u32,
}

// === impl Share ===

impl Share {
    /// The part of `total`, at least one; over all workers it is `total`, unless there are more of them.
    pub(super) fn part(self, total: usize) -> usize {
        let of = self.of.max(1);
        (total / of + usize::from(self.index < total % of)).max(1)
    }
}

// === impl Size ===

impl Size {
    /// As few as may be.
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { connections: bounds.min, calm: 0 }
    }

    /// Takes one look at what is in flight on all connections.
    pub(super) fn step(self, in_flight: usize, bounds: Bounds) -> Self {
        let Self { connections, calm } = self;
        let resized = |connections: usize| Self {
            connections: connections.clamp(bounds.min, bounds.max),
            calm: 0,
        };
        if in_flight > connections * GROW_ABOVE {
            return resized(connections + 1);
        }
        if in_flight >= connections.saturating_sub(1) * SHRINK_BELOW || connections <= bounds.min {
            return resized(connections);
        }
        if calm + 1 >= CALM_LOOKS {
            resized(connections - 1)
        } else {
            Self { calm: calm + 1, ..self }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { min: 8, max: 16 };

    #[test]
    fn it_grows_under_load_and_shrinks_after_a_calm_while() {
        let mut size = Size::new(BOUNDS);
        for _ in 0..20 {
            size = size.step(500, BOUNDS);
        }
        assert_eq!(size.connections, 16);
        for _ in 0..10 * CALM_LOOKS {
            size = size.step(16 * SHRINK_BELOW, BOUNDS);
        }
        assert_eq!(size.connections, 16, "between the bounds nothing changes");
        for _ in 0..CALM_LOOKS - 1 {
            size = size.step(0, BOUNDS);
        }
        assert_eq!(size.connections, 16);
        size = size.step(400, BOUNDS);
        for _ in 0..CALM_LOOKS - 1 {
            size = size.step(0, BOUNDS);
        }
        assert_eq!(size.connections, 16, "a burst begins the while anew");
        size = size.step(0, BOUNDS);
        assert_eq!(size.connections, 15);
        for _ in 0..20 * CALM_LOOKS {
            size = size.step(0, BOUNDS);
        }
        assert_eq!(size.connections, 8);
        let other = Bounds { min: 10, max: 10 };
        assert_eq!(size.step(0, other).connections, 10, "new bounds hold at once");
    }

    #[test]
    fn the_parts_of_all_workers_are_the_whole() {
        for of in 1..=16 {
            for total in [16, 32] {
                let sum: usize = (0..of).map(|index| Share { index, of }.part(total)).sum();
                assert_eq!(sum, total, "{of} workers");
            }
        }
        assert_eq!(Share { index: 40, of: 64 }.part(32), 1, "a worker without one serves nobody");
    }

    proptest! {
        #[test]
        fn it_stays_in_its_bounds_and_moves_one_at_a_time(
            looks in proptest::collection::vec(0_usize..2_000, 0..400),
        ) {
            let mut size = Size::new(BOUNDS);
            for in_flight in looks {
                let next = size.step(in_flight, BOUNDS);
                prop_assert!((BOUNDS.min..=BOUNDS.max).contains(&next.connections));
                prop_assert!(next.connections.abs_diff(size.connections) <= 1);
                size = next;
            }
        }
    }
}
