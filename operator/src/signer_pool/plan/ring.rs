//! Who is in the ring, and in which state. The epoch moves only when the membership does.

use kube::ResourceExt;
use sigil_crds::{EnclaveStatus, Measurement, MemberState, RingMember, SignerRingSpec};

use super::{Action, Plan, Scene};
use crate::resources;
use crate::signer_pool::members::Member;
use crate::signer_pool::ownership::is_ours;
use crate::signer_pool::validate::ValidPool;

/// Share of a member; all are equal.
const WEIGHT: i32 = 100;

pub(super) fn plan_ring(scene: &Scene<'_>, valid: &ValidPool, plan: &mut Plan) {
    let state = |member: &Member<'_>| {
        let leaving = !member.wanted || (member.pod.is_some() && !member.is_current(valid));
        next_state(scene, member, leaving)
    };
    let members = entries(scene, &valid.measurements, state);
    write(scene, valid.measurements.clone(), members, plan);
}

/// Everybody leaves.
pub(super) fn plan_empty_ring(scene: &Scene<'_>, plan: &mut Plan) {
    let Some(ring) = &scene.observed.ring else { return };
    let measurements = ring.spec.measurements.clone();
    let members = entries(scene, &measurements, |member| next_state(scene, member, true));
    write(scene, measurements, members, plan);
}

/// Leaves when it is told to, joins when it is healthy, and stays through a flap: a member that
/// was active and whose dataplane still reports keeps its place, since moving keys costs more than
/// a moment of retries.
fn next_state(scene: &Scene<'_>, member: &Member<'_>, leaving: bool) -> MemberState {
    let current = member.in_ring.map_or(MemberState::Joining, |entry| entry.state);
    let had_place = current != MemberState::Joining && member.report.is_some();
    if leaving && (had_place || current == MemberState::Draining) {
        MemberState::Draining
    } else if leaving {
        MemberState::Joining
    } else if member.is_healthy(scene.pool) || (had_place && !member.is_terminating()) {
        MemberState::Active
    } else {
        MemberState::Joining
    }
}

fn entries(
    scene: &Scene<'_>,
    measurements: &[Measurement],
    state: impl Fn(&Member<'_>) -> MemberState,
) -> Vec<RingMember> {
    let entry = |member: &Member<'_>| {
        let allocation = member.allocation?;
        Some(RingMember {
            slot: member.slot,
            node: allocation.spec.node.clone(),
            // Dataplanes listen on loopback only: each serves its own node.
            address: String::new(),
            state: state(member),
            weight: WEIGHT,
            ramp_seconds: 0,
            measurements: member.report.and_then(|report| index_of(report, measurements)),
        })
    };
    scene.members.iter().filter_map(entry).collect()
}

fn index_of(report: &EnclaveStatus, measurements: &[Measurement]) -> Option<i32> {
    let proved = report.measurements.as_ref()?;
    let same = |one: &Measurement| {
        (&one.pcr0, &one.pcr1, &one.pcr2) == (&proved.pcr0, &proved.pcr1, &proved.pcr2)
    };
    i32::try_from(measurements.iter().position(same)?).ok()
}

fn write(
    scene: &Scene<'_>,
    measurements: Vec<Measurement>,
    members: Vec<RingMember>,
    plan: &mut Plan,
) {
    if scene.observed.ring.as_ref().is_some_and(|ring| !is_ours(scene.pool, &ring.metadata)) {
        return;
    }
    let current = scene.observed.ring.as_ref().map(|ring| &ring.spec);
    if current.is_some_and(|ring| ring.members == members && ring.measurements == measurements) {
        return;
    }
    // The first ring has somebody in it.
    if current.is_none() && members.is_empty() {
        return;
    }
    let spec = SignerRingSpec {
        pool: scene.pool.name_any(),
        epoch: newest_epoch(scene) + 1,
        measurements,
        members,
    };
    let ring = resources::signer_ring(scene.pool, spec, scene.observed.now);
    plan.actions.push(Action::ApplyRing(Box::new(ring)));
}

/// The highest epoch that anybody has seen: a ring that was deleted by hand must not make
/// dataplanes refuse its successor.
fn newest_epoch(scene: &Scene<'_>) -> i64 {
    let ring = scene.observed.ring.as_ref().map(|ring| ring.spec.epoch);
    let status = scene.pool.status.as_ref().and_then(|status| Some(status.ring.as_ref()?.epoch));
    let served = scene.members.iter().filter_map(|member| Some(member.report?.ring_epoch));
    ring.into_iter().chain(status).chain(served).max().unwrap_or_default()
}
