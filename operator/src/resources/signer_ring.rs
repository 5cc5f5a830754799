//! Who signs, for all dataplanes of a pool.

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use sigil_crds::{SignerPool, SignerRing, SignerRingSpec};

use crate::names::{EPOCH_TIME, Names, owned};

/// The ring object with this membership, which begins `now`.
pub fn signer_ring(pool: &SignerPool, spec: SignerRingSpec, now: Timestamp) -> SignerRing {
    let pool_name = pool.name_any();
    let names = Names::new(&pool_name);
    let mut metadata = owned(pool, names.ring(), names.labels());
    metadata.annotations = Some([(EPOCH_TIME.to_owned(), now.to_string())].into());
    SignerRing { metadata, spec }
}
