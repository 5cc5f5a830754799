//! One pass over a pool, as a table of contents.

pub mod apply;
pub mod findings;
pub mod members;
pub mod observe;
pub mod ownership;
pub mod placement;
pub mod plan;
pub mod quantity;
pub mod status;
pub mod unreadable;
pub mod validate;

use kube::Client;
use sigil_crds::SignerPool;

use crate::outcome::Outcome;
use crate::runtime::events::Events;

/// What a pass needs from outside.
#[derive(Clone)]
pub struct Context {
    /// Client of the API server.
    pub client: Client,
    /// Where events go.
    pub events: Events,
    /// Namespace of the operator, with the chart's measurements.
    pub own_namespace: String,
}

/// Why a pass could not finish; the next one repeats it.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// Something could not be read.
    #[error("reading {what}: {source}")]
    Observe {
        /// What was read.
        what: &'static str,
        /// The client's error.
        source: Box<kube::Error>,
    },
    /// Something could not be changed.
    #[error("{what}: {source}")]
    Apply {
        /// The action.
        what: String,
        /// The client's error.
        source: Box<kube::Error>,
    },
    /// Something of that name is there that the pool did not make.
    #[error(
        "{what}: it exists and this pool did not make it; delete it or name the pool otherwise"
    )]
    NotOurs {
        /// The action.
        what: String,
    },
    /// The status could not be written.
    #[error("writing the status: {0}")]
    Status(Box<kube::Error>),
}

/// Makes one pass.
///
/// # Errors
/// A request that failed. What was done before stays, and the next pass goes on from there.
pub async fn reconcile(context: &Context, pool: &SignerPool) -> Result<Outcome, PassError> {
    // Client.
    let observed = observe::observe(context, pool).await?;
    // No client.
    let verdict = validate::validate(pool, &observed.catalog);
    // No client.
    let plan = plan::plan(pool, &verdict, &observed);
    // Client.
    let applied = apply::apply(context, pool, plan).await;
    // Client.
    status::write(context, pool, &verdict, &observed, applied).await
}

#[cfg(test)]
mod tests;
