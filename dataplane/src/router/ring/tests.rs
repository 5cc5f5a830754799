use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

/// What `routing.virtualNodes` is unless it is set.
const VIRTUAL_NODES: u32 = 2_048;
/// Enough for what must hold exactly, and quick.
const FEW: u32 = 24;

/// Parts of the circle, as shares of 1, and their owners in both rings.
fn arcs<'a>(a: &'a Ring, b: &'a Ring) -> impl Iterator<Item = (f64, u16, u16)> + 'a {
    let mut ends: Vec<u64> = a.positions.iter().chain(&b.positions).copied().collect();
    ends.sort_unstable();
    ends.dedup();
    let mut before = *ends.last().unwrap();
    ends.into_iter().map(move |end| {
        #[allow(clippy::cast_precision_loss, reason = "a share to 15 digits")]
        let size = end.wrapping_sub(before) as f64 / 2_f64.powi(64);
        before = end;
        (size, a.owner(end).unwrap(), b.owner(end).unwrap())
    })
}

/// What of the circle changed its owner.
fn moved(a: &Ring, b: &Ring) -> f64 {
    arcs(a, b).filter(|(_, a, b)| a != b).map(|(size, _, _)| size).sum()
}

fn shares_of(ring: &Ring) -> BTreeMap<u16, f64> {
    let mut shares = BTreeMap::new();
    for (size, owner, _) in arcs(ring, ring) {
        *shares.entry(owner).or_default() += size;
    }
    shares
}

fn usual(slots: impl IntoIterator<Item = u16>) -> Vec<Share> {
    slots.into_iter().map(|slot| Share::whole(slot, 100)).collect()
}

fn shares(members: &BTreeMap<u16, (u32, u32)>) -> Vec<Share> {
    members
        .iter()
        .map(|(slot, (weight, steps))| Share { slot: *slot, weight: *weight, steps: *steps })
        .collect()
}

fn members(least: usize) -> impl Strategy<Value = BTreeMap<u16, (u32, u32)>> {
    btree_map(0..512_u16, (1..=400_u32, 1..=RAMP_STEPS), least..12)
}

/// Written down, not computed here: a process of another version must agree. The positions are those of
/// `sha256sum` over the input that the head of the module names.
#[test]
fn golden_positions_and_owners() {
    let mut points = Vec::new();
    add_points(&mut points, 3, 6);
    let positions: Vec<_> = points.iter().map(|(position, _)| *position).collect();
    assert_eq!(positions, GOLDEN_POSITIONS);
    let ring = Ring::new(&[Share::whole(0, 100), Share::whole(1, 50), Share::whole(511, 300)], 8);
    let owners: Vec<_> = (0..16).map(|n: u64| ring.owner(n << 60).unwrap()).collect();
    assert_eq!(owners, GOLDEN_OWNERS);
    assert_eq!(position(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 9, 9, 9, 9, 9]), 0x0102_0304_0506_0708);
}

const GOLDEN_POSITIONS: [u64; 6] = [
    0xc71c_dde4_8d5b_5f24,
    0x5d39_8271_f808_902d,
    0x8d07_6fa6_6d99_e673,
    0x6e43_1692_7e18_9a7f,
    0xa7fb_bcc3_fb40_7907,
    0xad2c_b4c5_7a61_add6,
];
const GOLDEN_OWNERS: [u16; 16] =
    [511, 0, 511, 511, 511, 511, 511, 511, 511, 511, 511, 511, 0, 511, 511, 0];

#[test]
fn a_ring_of_nobody_owns_nothing() {
    for ring in [Ring::default(), Ring::new(&[], 8), Ring::new(&[Share::whole(1, 0)], 8)] {
        assert_eq!((ring.owner(7), ring.members()), (None, 0));
        assert_eq!(ring.order(7).next(), None);
    }
    let alone = Ring::new(&[Share::whole(7, 1)], 8);
    assert_eq!(alone.order(u64::MAX).collect::<Vec<_>>(), [7]);
}

/// The members of every size of pool, each removed in turn: what moves is within a tenth of an equal
/// share, and so is every member's load. The circle is measured whole; nothing is sampled.
#[test]
fn load_and_movement_are_within_a_tenth_of_the_ideal() {
    for count in [2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32_u16] {
        let all = Ring::new(&usual(0..count), VIRTUAL_NODES);
        let ideal = 1.0 / f64::from(count);
        for (slot, share) in shares_of(&all) {
            let off = (share - ideal).abs() / ideal;
            assert!(off < 0.10, "{count} members: slot {slot} has {share}, {off} off");
        }
        for gone in [0, count / 2, count - 1] {
            let rest = Ring::new(&usual((0..count).filter(|slot| *slot != gone)), VIRTUAL_NODES);
            let off = (moved(&all, &rest) - ideal).abs() / ideal;
            assert!(off < 0.10, "{count} members without {gone}: {off} off");
        }
    }
}

#[test]
fn load_follows_weight() {
    let weights = [10, 50, 100, 100, 250, 1_000_u32];
    let given: Vec<_> =
        (0..).zip(weights).map(|(slot, weight)| Share::whole(slot, weight)).collect();
    let ring = Ring::new(&given, VIRTUAL_NODES);
    let all: u32 = weights.iter().sum();
    for (slot, share) in shares_of(&ring) {
        let weight = weights[usize::from(slot)];
        let ideal = f64::from(weight) / f64::from(all);
        // A tenth of the usual weight has a tenth of the points, so its share is known less well.
        let bound = if weight < 50 { 0.25 } else { 0.10 };
        assert!((share - ideal).abs() / ideal < bound, "weight {weight}: {share}, ideally {ideal}");
    }
}

#[test]
fn the_largest_ring_is_bounded_and_its_load_still_even() {
    let usual = Ring::new(&usual(0..512), VIRTUAL_NODES);
    assert_eq!(usual.positions.len() as u64, POINTS_MAX);
    let heavy: Vec<_> = (0..512).map(|slot| Share::whole(slot, 1_000)).collect();
    let heavy = Ring::new(&heavy, VIRTUAL_NODES);
    assert!(heavy.positions.len() as u64 <= POINTS_MAX);
    for (ring, bound) in [(usual, 0.15), (heavy, 0.15)] {
        let shares = shares_of(&ring);
        assert_eq!(shares.len(), MEMBERS_MAX);
        let worst = shares.values().map(|share| (share * 512.0 - 1.0).abs()).fold(0.0, f64::max);
        assert!(worst < bound, "{worst}");
    }
}

proptest! {
    #[test]
    fn the_same_members_in_any_order_are_the_same_ring(
        shuffled in members(1).prop_map(|members| shares(&members)).prop_shuffle(),
    ) {
        let mut sorted = shuffled.clone();
        sorted.sort_by_key(|share| share.slot);
        prop_assert_eq!(Ring::new(&shuffled, FEW), Ring::new(&sorted, FEW));
    }

    #[test]
    fn a_removal_moves_only_the_removed_members_keys(members in members(2), pick in any::<prop::sample::Index>()) {
        let all = Ring::new(&shares(&members), FEW);
        let gone = *pick.get(&members.keys().copied().collect::<Vec<_>>());
        let mut rest = members.clone();
        rest.remove(&gone);
        let rest = Ring::new(&shares(&rest), FEW);
        for (_, before, after) in arcs(&all, &rest) {
            prop_assert!(before == after || before == gone);
        }
        // And the other way round: a new member takes keys, and nobody else gets any.
        for (_, before, after) in arcs(&rest, &all) {
            prop_assert!(before == after || after == gone);
        }
    }

    #[test]
    fn keys_fail_over_to_whoever_would_own_them(members in members(2), position in any::<u64>()) {
        let mut left = members.clone();
        let ring = Ring::new(&shares(&members), FEW);
        let order: Vec<_> = ring.order(position).collect();
        prop_assert_eq!(order.len(), members.len().min(ORDER_MAX));
        for slot in order {
            prop_assert_eq!(Ring::new(&shares(&left), FEW).owner(position), Some(slot));
            left.remove(&slot);
        }
    }

    #[test]
    fn the_search_finds_what_a_scan_finds(members in members(1), position in any::<u64>(), at_a_point in any::<prop::sample::Index>()) {
        let ring = Ring::new(&shares(&members), FEW);
        let point = *at_a_point.get(&ring.positions);
        for position in [position, point, point.wrapping_add(1), point.wrapping_sub(1), 0, u64::MAX] {
            let mut points = ring.positions.iter().zip(&ring.owners);
            let next = points.clone().find(|(point, _)| **point >= position);
            let scanned = next.or_else(|| points.next()).map(|(_, owner)| *owner);
            prop_assert_eq!(ring.owner(position), scanned);
        }
    }

    #[test]
    fn a_ramp_only_ever_gives_to_its_member(members in members(2), pick in any::<prop::sample::Index>(), steps in 1..RAMP_STEPS) {
        let slot = *pick.get(&members.keys().copied().collect::<Vec<_>>());
        let at = |steps| {
            let mut members = members.clone();
            members.get_mut(&slot).unwrap().1 = steps;
            Ring::new(&shares(&members), FEW)
        };
        for (_, before, after) in arcs(&at(steps), &at(steps + 1)) {
            prop_assert!(before == after || after == slot);
        }
    }

    #[test]
    fn a_ramp_is_monotonic_and_ends(ramp_ms in 0..100_000_000_u64, elapsed_ms in any::<u64>(), more in any::<u32>()) {
        let steps = ramp_steps(elapsed_ms, ramp_ms);
        let later = ramp_steps(elapsed_ms.saturating_add(more.into()), ramp_ms);
        prop_assert!((1..=RAMP_STEPS).contains(&steps) && later >= steps);
        prop_assert_eq!(ramp_steps(ramp_ms, ramp_ms), RAMP_STEPS);
        for step in 2..=RAMP_STEPS {
            let at = ramp_reaches_ms(step, ramp_ms);
            prop_assert!(ramp_steps(at, ramp_ms) >= step && at <= ramp_ms);
            prop_assert!(at == 0 || ramp_steps(at - 1, ramp_ms) < step);
        }
    }

    /// Any history of joining, leaving, changing weight and ramping: each step moves keys from or to the
    /// member that it touches, and what comes of it depends on where it ends alone.
    #[test]
    fn histories_touch_only_who_changes(history in vec((0..16_u16, 0..4_u8, 0..=300_u32, 1..=RAMP_STEPS), 1..24)) {
        let mut model: BTreeMap<u16, (u32, u32)> = BTreeMap::from([(100, (100, RAMP_STEPS))]);
        let mut ring = Ring::new(&shares(&model), FEW);
        for (slot, what, weight, steps) in history {
            match what {
                0 => { model.remove(&slot); }
                1 => { model.insert(slot, (100, 1)); }
                2 => { model.insert(slot, (weight, RAMP_STEPS)); }
                _ => { model.entry(slot).and_modify(|member| member.1 = steps); }
            }
            let next = Ring::new(&shares(&model), FEW);
            for (_, before, after) in arcs(&ring, &next) {
                prop_assert!(before == after || before == slot || after == slot);
            }
            prop_assert_eq!(next.members(), model.values().filter(|(weight, _)| *weight > 0).count());
            ring = next;
        }
    }
}
