//! A membership file: what is taken is within its bounds and has a ring, and every address has one
//! spelling.

use sigil_dataplane::router::membership::{MEMBERSHIP_BYTES_MAX, Membership, Memberships, Taken};
use sigil_dataplane::router::ring::{MEMBERS_MAX, Ring, Share};

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "membership",
    input_bytes_max: 16 * 1024,
    memory_bytes_max: 8 * 1024 * 1024,
    check,
    seeds: || {
        let head =
            "apiVersion: sigil.dev/v1alpha1\nkind: SignerRing\nmetadata: {name: demo}\nspec:\n";
        let members = "[{slot: 0, node: a, address: 'a:8443', state: Active, weight: 100}, \
                       {slot: 511, node: b, address: '[fd00::7]:8443', state: Joining, weight: 0, \
                       rampSeconds: 60, measurements: 0}, \
                       {slot: 7, node: c, address: 'unix:/run/c.sock', state: Draining, weight: 1000}]";
        let pcr = "11".repeat(48);
        let measured = format!("[{{arch: x86_64, pcr0: '{pcr}', pcr1: '{pcr}', pcr2: '{pcr}'}}]");
        [
            format!(
                "{head}  pool: demo\n  epoch: 7\n  measurements: {measured}\n  members: {members}\n"
            ),
            format!("{head}  pool: demo\n  epoch: 1\n"),
        ]
        .map(String::into_bytes)
        .into()
    },
};

fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(membership) = Membership::parse(text) else { return };
    assert!(text.len() <= MEMBERSHIP_BYTES_MAX && membership.members.len() <= MEMBERS_MAX);
    assert!(membership.epoch >= 1);
    let slots: Vec<_> = membership.members.iter().map(|member| member.slot).collect();
    assert!(slots.is_sorted_by(|a, b| a < b) && slots.iter().all(|slot| *slot < 512));
    let addresses = membership.members.iter().filter_map(|member| member.address.as_ref());
    for address in addresses {
        assert_eq!(address.to_string().parse().as_ref(), Ok(address));
    }
    let weights = membership.members.iter().map(|member| Share::whole(member.slot, member.weight));
    let shares: Vec<_> = weights.collect();
    let ring = Ring::new(&shares, 4);
    assert_eq!(ring.members(), shares.iter().filter(|share| share.weight > 0).count());
    assert_eq!(ring.owner(0).is_some(), ring.members() > 0);
    let memberships = Memberships::new(None);
    assert_eq!(memberships.offer(membership.clone(), "fuzz"), Taken::Newest);
    assert_eq!(memberships.offer(membership, "fuzz"), Taken::Same);
}
