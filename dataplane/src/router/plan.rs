//! Where one request goes: the first choice of the policy, and what comes after it.

use std::sync::Arc;

use sigil_enclave_client::KeyId;

use super::peers::Peer;
use super::ring::position;
use super::table::Routes;
use crate::config::Policy;

/// Places that one request is sent to at most, the first included (row S14a).
const PLACES_MAX: usize = 3;

/// An enclave of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// That of this node.
    Own,
    /// That of the member in this slot.
    Member(u16),
}

/// A place that a request may be sent to now.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// The enclave of this node.
    Own,
    /// Another member.
    Member(Arc<Peer>),
}

/// Where one request went.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    tried: [Option<Place>; PLACES_MAX],
}

/// Every place for a key, in the order of the policy. The own enclave is always among them: it can open
/// every key of the pool.
pub(super) fn places(
    (policy, own): (Policy, Option<u16>),
    routes: &Routes,
    key_id: KeyId,
) -> impl Iterator<Item = Place> {
    let own_first = is_own_first(policy, routes);
    let place = move |slot| if Some(slot) == own { Place::Own } else { Place::Member(slot) };
    let ring = routes.ring.order(position(&key_id.0)).map(place);
    own_first.then_some(Place::Own).into_iter().chain(ring).chain([Place::Own])
}

/// Whether the policy asks the own enclave first, whatever the key.
pub(super) fn is_own_first(policy: Policy, routes: &Routes) -> bool {
    routes.epoch == 0 || (policy == Policy::LocalFirst && !routes.own_is_out)
}

// === impl Plan ===

impl Plan {
    /// After the own enclave was tried.
    pub(crate) fn after_own() -> Self {
        let mut plan = Self::default();
        plan.note(Place::Own);
        plan
    }

    /// Whether this place was.
    pub(super) fn has(&self, place: Place) -> bool {
        self.tried.contains(&Some(place))
    }

    /// Notes a place; false if no more may be tried.
    pub(super) fn note(&mut self, place: Place) -> bool {
        let free = self.tried.iter_mut().find(|tried| tried.is_none());
        free.map(|free| *free = Some(place)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::super::ring::{Ring, Share};
    use super::*;

    fn routes(own_is_out: bool) -> Routes {
        let shares = [1, 2, 3].map(|slot| Share::whole(slot, 100));
        Routes { epoch: 1, ring: Ring::new(&shares, 64), own_is_out, ..Routes::default() }
    }

    fn key(byte: u8) -> KeyId {
        KeyId([byte; 16])
    }

    fn all(policy: Policy, own: u16, routes: &Routes, byte: u8) -> Vec<Place> {
        places((policy, Some(own)), routes, key(byte)).collect()
    }

    #[test]
    fn local_first_asks_the_own_enclave_and_then_the_ring() {
        let routes = routes(false);
        for byte in 0..=255 {
            let owner = routes.ring.owner(position(&key(byte).0)).unwrap();
            let local = all(Policy::LocalFirst, 2, &routes, byte);
            assert_eq!(local[0], Place::Own);
            let others: Vec<_> = local.iter().filter(|place| **place != Place::Own).collect();
            assert_eq!(others.len(), 2);
            if owner != 2 {
                assert_eq!(*others[0], Place::Member(owner));
            }
            let owned = all(Policy::Owner, 2, &routes, byte);
            let expected = if owner == 2 { Place::Own } else { Place::Member(owner) };
            assert_eq!(owned[0], expected);
            assert_eq!(*owned.last().unwrap(), Place::Own);
        }
    }

    #[test]
    fn a_member_that_is_out_asks_others_first_and_one_without_a_ring_itself() {
        let out = routes(true);
        assert!(all(Policy::LocalFirst, 9, &out, 7)[0] != Place::Own);
        assert_eq!(*all(Policy::LocalFirst, 9, &out, 7).last().unwrap(), Place::Own);
        let alone = Routes::default();
        for policy in [Policy::LocalFirst, Policy::Owner] {
            assert!(all(policy, 0, &alone, 7).iter().all(|place| *place == Place::Own));
            assert!(is_own_first(policy, &alone));
        }
    }

    #[test]
    fn a_request_goes_to_three_places_at_most() {
        let mut plan = Plan::after_own();
        assert!(plan.has(Place::Own) && !plan.has(Place::Member(1)));
        assert!(plan.note(Place::Member(1)) && plan.note(Place::Member(2)));
        assert!(!plan.note(Place::Member(3)));
    }
}
