//! Which images a verifier accepts.

use sigil_attestation::{Pcr, Pcrs};

/// What identifies one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// Everything in the image.
    pub pcr0: Pcr,
    /// Kernel and first ramdisk: the code.
    pub pcr1: Pcr,
    /// The other ramdisks: the pins.
    pub pcr2: Pcr,
}

/// The accepted images. An empty list accepts none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PcrAllowList {
    entries: Vec<Measurement>,
}

impl PcrAllowList {
    /// A list of these images.
    pub fn new(entries: Vec<Measurement>) -> Self {
        Self { entries }
    }

    /// The accepted images.
    pub fn entries(&self) -> &[Measurement] {
        &self.entries
    }

    /// The entry that has the same PCR0, PCR1 and PCR2, all three present.
    pub fn find(&self, pcrs: &Pcrs) -> Option<&Measurement> {
        let (pcr0, pcr1, pcr2) = (pcrs.get(0)?, pcrs.get(1)?, pcrs.get(2)?);
        let same = |entry: &&Measurement| {
            entry.pcr0 == *pcr0 && entry.pcr1 == *pcr1 && entry.pcr2 == *pcr2
        };
        self.entries.iter().find(same)
    }

    /// True if an entry matches.
    pub fn allows(&self, pcrs: &Pcrs) -> bool {
        self.find(pcrs).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pcrs(values: &[(u8, u8)]) -> Pcrs {
        values.iter().map(|(index, value)| (*index, [*value; 48])).collect()
    }

    #[test]
    fn all_three_registers_must_be_there_and_equal() {
        let entry = |a, b, c| Measurement { pcr0: [a; 48], pcr1: [b; 48], pcr2: [c; 48] };
        let list = PcrAllowList::new(vec![entry(9, 9, 9), entry(1, 2, 3)]);
        assert_eq!(list.find(&pcrs(&[(0, 1), (1, 2), (2, 3), (8, 4)])), Some(&entry(1, 2, 3)));
        for bad in [
            &[(0, 1), (1, 2), (2, 9)][..],
            &[(0, 1), (1, 9), (2, 3)],
            &[(0, 8), (1, 2), (2, 3)],
            // Registers of two different entries.
            &[(0, 9), (1, 2), (2, 3)],
            &[(0, 1), (1, 2)],
            &[(1, 2), (2, 3)],
            &[(0, 1), (2, 3)],
            &[],
        ] {
            assert!(!list.allows(&pcrs(bad)), "{bad:?}");
        }
        assert!(!PcrAllowList::default().allows(&pcrs(&[(0, 1), (1, 2), (2, 3)])));
    }
}
