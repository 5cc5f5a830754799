//! Who signs, for all dataplanes of a pool.

use kube::ResourceExt;
use sigil_crds::{SignerPool, SignerRing, SignerRingSpec};

use crate::names::{Names, owned};

/// The ring object with this membership.
pub fn signer_ring(pool: &SignerPool, spec: SignerRingSpec) -> SignerRing {
    let pool_name = pool.name_any();
    let names = Names::new(&pool_name);
    SignerRing { metadata: owned(pool, names.ring(), names.labels()), spec }
}
