//! Which member owns a key: weighted consistent hashing with virtual nodes (Karger et al., "Consistent
//! Hashing and Random Trees", 1997). Pure: the same members give the same ring in every process and
//! every version; decision 28 says why these functions.
//!
//! A member of weight 100 stands at `virtual_nodes` points of a circle of 2^64 positions, one of another
//! weight at as many more or fewer. Its n-th point is the big-endian 64-bit word n mod 4 of
//! SHA-256("sigil/ring/v1" | slot as u32 | n div 4 as u32), so a member that grows keeps the points it
//! has. A key belongs to the first point at or after its own position.

use crate::store::sha256;

/// Members of one ring, as many as a SignerRing may have.
pub const MEMBERS_MAX: usize = 512;
/// Points of one ring: 512 members of the usual weight with 2,048 each, 10 MiB. A heavier ring has its
/// virtual nodes halved until it fits.
pub const POINTS_MAX: u64 = 1 << 20;
/// Steps in which a ramp grows: no step moves more than a thirty-second of a member's keys.
pub const RAMP_STEPS: u32 = 32;
/// Members that are tried for one key: more than a request may be sent.
pub const ORDER_MAX: usize = 4;

const DOMAIN: &[u8] = b"sigil/ring/v1";
const WEIGHT_USUAL: u64 = 100;
const POINTS_OF_HASH: u32 = 4;

/// What one member has of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its slot, which outlives nodes and addresses.
    pub slot: u16,
    /// Its weight once its ramp is over, 0..=1000; 100 is usual.
    pub weight: u32,
    /// How far its ramp is, 1..=[`RAMP_STEPS`].
    pub steps: u32,
}

/// A ring. Lookups search a sorted array and allocate nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    /// Ascending.
    positions: Box<[u64]>,
    /// The slot at each position.
    owners: Box<[u16]>,
    /// Distinct slots among them.
    members: usize,
}

/// Members for one key: its owner, then those that would own it without the ones before.
#[derive(Clone, Debug)]
pub struct Order<'a> {
    ring: &'a Ring,
    position: u64,
    /// Where the search goes on; it is not begun before it is needed.
    at: Option<usize>,
    left: usize,
    seen: [u16; ORDER_MAX],
    found: usize,
}

/// Where a key stands: the first 64 bits of its id, big-endian. Ids are random or cut from a SHA-256,
/// so they are spread already, and hashing them again would only cost time.
pub fn position(key_id: &[u8; 16]) -> u64 {
    let (first, _) = key_id.as_chunks::<8>();
    first.first().map_or(0, |word| u64::from_be_bytes(*word))
}

/// How far a member's ramp is after `elapsed_ms` of it, 1..=[`RAMP_STEPS`]. It never falls as time
/// goes on; 0 ms of ramp is no ramp.
pub fn ramp_steps(elapsed_ms: u64, ramp_ms: u64) -> u32 {
    if elapsed_ms >= ramp_ms {
        return RAMP_STEPS;
    }
    let done = u128::from(elapsed_ms) * u128::from(RAMP_STEPS - 1) / u128::from(ramp_ms);
    u32::try_from(done).unwrap_or(RAMP_STEPS).saturating_add(1).min(RAMP_STEPS)
}

/// After how many ms of its ramp a member reaches `steps`.
pub fn ramp_reaches_ms(steps: u32, ramp_ms: u64) -> u64 {
    let before = u128::from(steps.clamp(1, RAMP_STEPS) - 1);
    let at = (before * u128::from(ramp_ms)).div_ceil(u128::from(RAMP_STEPS - 1));
    u64::try_from(at).unwrap_or(u64::MAX)
}

// === impl Share ===

impl Share {
    /// A member whose ramp is over.
    pub fn whole(slot: u16, weight: u32) -> Self {
        Self { slot, weight, steps: RAMP_STEPS }
    }

    /// One that has a weight has a point.
    fn points(self, virtual_nodes: u64) -> u32 {
        let whole = u64::from(self.weight) * virtual_nodes;
        let points = whole * u64::from(self.steps) / (WEIGHT_USUAL * u64::from(RAMP_STEPS));
        let least = u64::from(self.weight > 0);
        u32::try_from(points.max(least)).unwrap_or(u32::MAX)
    }
}

// === impl Ring ===

impl Ring {
    /// The ring of `shares`, in whatever order they come. Slots are distinct, at most [`MEMBERS_MAX`].
    pub fn new(shares: &[Share], virtual_nodes: u32) -> Self {
        let virtual_nodes = fitting(shares, virtual_nodes);
        let mut points = Vec::new();
        for share in shares {
            add_points(&mut points, share.slot, share.points(virtual_nodes));
        }
        // Two members at one position are about as likely as a broken hash; then the lower slot has it.
        points.sort_unstable();
        Self {
            members: shares.iter().filter(|share| share.weight > 0).count(),
            positions: points.iter().map(|(position, _)| *position).collect(),
            owners: points.iter().map(|(_, slot)| *slot).collect(),
        }
    }

    /// The member that owns a key at `position`; none in a ring without members.
    pub fn owner(&self, position: u64) -> Option<u16> {
        self.owners.get(self.first(position)).copied()
    }

    /// The owner and those after it, distinct, at most [`ORDER_MAX`].
    pub fn order(&self, position: u64) -> Order<'_> {
        Order {
            ring: self,
            position,
            at: None,
            left: self.owners.len(),
            seen: [0; ORDER_MAX],
            found: 0,
        }
    }

    /// Members that own anything.
    pub fn members(&self) -> usize {
        self.members
    }

    fn first(&self, position: u64) -> usize {
        let at = self.positions.partition_point(|point| *point < position);
        if at == self.positions.len() { 0 } else { at }
    }
}

/// Virtual nodes with which the ring fits. They are chosen by whole weights: a ramp changes nothing
/// for others.
fn fitting(shares: &[Share], virtual_nodes: u32) -> u64 {
    let weights: u64 = shares.iter().map(|share| u64::from(share.weight)).sum();
    let mut virtual_nodes = u64::from(virtual_nodes.max(1));
    while virtual_nodes > 1 && weights * virtual_nodes > POINTS_MAX * WEIGHT_USUAL {
        virtual_nodes /= 2;
    }
    virtual_nodes
}

fn add_points(points: &mut Vec<(u64, u16)>, slot: u16, count: u32) {
    let mut input = [DOMAIN, &u32::from(slot).to_be_bytes(), &[0; 4]].concat();
    for block in 0..count.div_ceil(POINTS_OF_HASH) {
        input.truncate(DOMAIN.len() + 4);
        input.extend_from_slice(&block.to_be_bytes());
        let hash = sha256(&input);
        let words = hash.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word));
        let wanted = (count - block * POINTS_OF_HASH).min(POINTS_OF_HASH) as usize;
        points.extend(words.take(wanted).map(|position| (position, slot)));
    }
}

// === impl Order ===

impl Iterator for Order<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        // A ring's last member is not looked for in all its points.
        while self.left > 0 && self.found < self.ring.members {
            let at = self.at.unwrap_or_else(|| self.ring.first(self.position));
            let slot = *self.ring.owners.get(at)?;
            self.at = Some(if at + 1 == self.ring.owners.len() { 0 } else { at + 1 });
            self.left -= 1;
            if self.seen.iter().take(self.found).all(|seen| *seen != slot) {
                *self.seen.get_mut(self.found)? = slot;
                self.found += 1;
                return Some(slot);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
