//! Requests in flight and waiting, as one word of memory. Pure.

/// What a [`super::gate::Gate`] counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// Requests that hold a place.
    pub(crate) in_flight: u32,
    /// Requests that wait for one.
    pub(crate) waiting: u32,
}

// === impl Count ===

impl Count {
    pub(crate) fn from_word(word: u64) -> Self {
        let half = |word: u64| u32::try_from(word & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        Self { in_flight: half(word), waiting: half(word >> 32) }
    }

    pub(crate) fn to_word(self) -> u64 {
        u64::from(self.waiting) << 32 | u64::from(self.in_flight)
    }

    /// One more in flight; nobody overtakes those that wait.
    pub(crate) fn entered(self, max: u32) -> Option<Self> {
        let free = self.waiting == 0 && self.has_room(max);
        free.then(|| Self { in_flight: self.in_flight + 1, ..self })
    }

    /// One more waits.
    pub(crate) fn queued(self, waiting_max: u32) -> Option<Self> {
        (self.waiting < waiting_max).then(|| Self { waiting: self.waiting + 1, ..self })
    }

    /// One that waits gets a free place.
    pub(crate) fn granted(self, max: u32) -> Option<Self> {
        let free = self.waiting > 0 && self.has_room(max);
        free.then(|| Self { in_flight: self.in_flight + 1, waiting: self.waiting - 1 })
    }

    /// One that waited does so no longer.
    pub(crate) fn gave_up(self) -> Option<Self> {
        Some(Self { waiting: self.waiting.checked_sub(1)?, ..self })
    }

    /// 0 is no limit.
    fn has_room(self, max: u32) -> bool {
        self.in_flight < if max == 0 { u32::MAX } else { max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_both_counts() {
        for count in [
            Count::default(),
            Count { in_flight: 1, waiting: 0 },
            Count { in_flight: 7, waiting: 9 },
            Count { in_flight: u32::MAX, waiting: u32::MAX },
        ] {
            assert_eq!(Count::from_word(count.to_word()), count);
        }
    }

    #[test]
    fn nobody_overtakes_and_nothing_passes_its_bound() {
        let count = |in_flight, waiting| Count { in_flight, waiting };
        assert_eq!(count(4, 0).entered(5), Some(count(5, 0)));
        assert_eq!(count(5, 0).entered(5), None);
        assert_eq!(count(3, 1).entered(5), None, "somebody waits");
        assert_eq!(count(5, 1).queued(2), Some(count(5, 2)));
        assert_eq!(count(5, 2).queued(2), None);
        assert_eq!(count(4, 2).granted(5), Some(count(5, 1)));
        assert_eq!(count(5, 2).granted(5), None);
        assert_eq!(count(4, 0).granted(5), None);
        assert_eq!(count(9, 2).granted(0), Some(count(10, 1)), "0 is no limit");
        assert_eq!(count(5, 2).gave_up(), Some(count(5, 1)));
        assert_eq!(count(5, 0).gave_up(), None);
    }
}
