//! The order in which a keyspace's keys are looked at: by their ids, from an id of chance to the end and
//! from the beginning to there. Members that walk one store together begin at different keys, so they
//! seldom want the same one.

use crate::store::KeyRecord;

/// A key's id.
type Id = [u8; 16];

/// One walk over all keys of a keyspace. Pure.
#[derive(Debug)]
pub(super) struct Walk {
    start: Id,
    /// The next page comes after this key; none: it is the first of all.
    after: Option<Id>,
    wrapped: bool,
    done: bool,
}

// === impl Walk ===

impl Walk {
    /// A walk that begins after `start`.
    pub(super) fn from(start: Id) -> Self {
        Self { start, after: Some(start), wrapped: false, done: false }
    }

    /// Every key was met.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// The next page begins after this key, or with the first of all.
    pub(super) fn after(&self) -> Option<Id> {
        self.after
    }

    /// The keys of that page which are this walk's; `next` is where the store goes on, if it does.
    pub(super) fn take(&mut self, mut keys: Vec<KeyRecord>, next: Option<Id>) -> Vec<KeyRecord> {
        if self.wrapped {
            keys.retain(|key| key.key_id <= self.start);
        }
        match next {
            Some(next) => {
                self.after = Some(next);
                self.done = self.wrapped && next >= self.start;
            }
            None if self.wrapped => self.done = true,
            None => (self.after, self.wrapped) = (None, true),
        }
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record_for_tests;

    fn id(n: u8) -> Id {
        [n; 16]
    }

    /// What a store with these keys gives.
    fn page(ids: &[u8], after: Option<Id>, rows_max: usize) -> (Vec<KeyRecord>, Option<Id>) {
        let mut left =
            ids.iter().map(|n| id(*n)).filter(|id| after.is_none_or(|after| *id > after));
        let keys: Vec<_> = left.by_ref().take(rows_max).collect();
        let next = keys.last().copied().filter(|_| left.next().is_some());
        (keys.into_iter().map(|id| record_for_tests(id, "default")).collect(), next)
    }

    fn walked(ids: &[u8], start: u8, rows_max: usize) -> Vec<u8> {
        let mut walk = Walk::from(id(start));
        let mut seen = Vec::new();
        while !walk.is_done() {
            let (keys, next) = page(ids, walk.after(), rows_max);
            seen.extend(walk.take(keys, next).iter().map(|key| key.key_id[0]));
        }
        seen
    }

    #[test]
    fn each_key_is_met_once_wherever_the_walk_begins() {
        let ids: Vec<u8> = (1..=9).map(|n| n * 10).collect();
        for start in 0..=100 {
            for rows_max in 1..=10 {
                let mut seen = walked(&ids, start, rows_max);
                if let Some(first) = seen.first().filter(|_| start < 90) {
                    assert!(*first > start, "from {start}: {seen:?}");
                }
                seen.sort_unstable();
                assert_eq!(seen, ids, "from {start}, pages of {rows_max}");
            }
        }
        assert_eq!(walked(&ids, 45, 3), [50, 60, 70, 80, 90, 10, 20, 30, 40]);
        assert_eq!(walked(&[], 45, 3), [0_u8; 0]);
    }
}
