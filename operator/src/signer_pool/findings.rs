//! What is true of a pool, as findings with typed reasons. Pure.

mod health;
mod node;
mod whole;

use sigil_crds::{ConditionType, SignerPool};

use super::members::{Member, members};
use super::observe::Observed;
use super::validate::{Problem, ValidPool, Verdict, desired_replicas};
use crate::conditions::{Finding, Reason};

pub use node::member_allocation;

/// What every finding is derived from.
pub(super) struct View<'a> {
    pool: &'a SignerPool,
    observed: &'a Observed,
    verdict: &'a Verdict,
    members: Vec<Member<'a>>,
    desired: i32,
    /// The request of this pass that failed.
    failure: Option<&'a str>,
}

/// A finding for each condition of a pool, in the order of [`ConditionType::OF_POOL`].
pub fn findings(
    pool: &SignerPool,
    verdict: &Verdict,
    observed: &Observed,
    failure: Option<&str>,
) -> Vec<Finding> {
    let view = View {
        pool,
        observed,
        verdict,
        members: members(pool, observed),
        desired: desired_replicas(pool),
        failure,
    };
    let details = [
        node::allocation_ready(&view),
        health::enclaves_attested(&view),
        health::ring_stable(&view),
        health::rng_healthy(&view),
        health::keys_unlocked(&view),
        health::store_durable(&view),
        health::trusted(&view),
    ];
    let mut all = whole::whole(&view, &details);
    all.extend(details);
    all
}

// === impl View ===

impl<'a> View<'a> {
    fn wanted(&self) -> impl Iterator<Item = &Member<'a>> {
        self.members.iter().filter(|member| member.wanted)
    }

    fn problems(&self) -> &[Problem] {
        match self.verdict {
            Verdict::Blocked(problems) => problems,
            Verdict::Valid(_) => &[],
        }
    }

    /// What blocks the pool and shows in this condition.
    fn problem(&self, condition: ConditionType) -> Option<Finding> {
        let mut found = self.problems().iter().filter(|problem| problem.condition == condition);
        let first = found.next()?;
        let others: Vec<_> = found.map(|problem| problem.message.as_str()).collect();
        let mut message = first.message.clone();
        for other in others {
            message.push_str("; ");
            message.push_str(other);
        }
        Some(Finding::no(condition, first.reason, message))
    }

    fn valid(&self) -> Option<&ValidPool> {
        match self.verdict {
            Verdict::Valid(valid) => Some(valid),
            Verdict::Blocked(_) => None,
        }
    }

    fn scaled_to_zero(&self, condition: ConditionType) -> Option<Finding> {
        (self.desired == 0).then(|| {
            Finding::yes(condition, Reason::ScaledToZero, "no member is wanted (nodes.replicas: 0)")
        })
    }
}
