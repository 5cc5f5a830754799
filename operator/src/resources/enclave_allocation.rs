//! What one member needs on its node.

use kube::ResourceExt;
use sigil_crds::{EnclaveAllocation, EnclaveAllocationSpec, SignerPool};

use super::needs::vcpus;
use crate::names::{Names, owned};

/// The allocation of the member in `slot` on `node`.
pub fn enclave_allocation(pool: &SignerPool, slot: i32, node: &str) -> EnclaveAllocation {
    let pool_name = pool.name_any();
    let names = Names::new(&pool_name);
    let enclave = &pool.spec.enclave;
    let cpu_count = i32::try_from(vcpus(pool)).unwrap_or(i32::MAX);
    EnclaveAllocation {
        metadata: owned(pool, names.member(slot), names.slot_labels(slot)),
        spec: EnclaveAllocationSpec {
            pool: pool_name.clone(),
            slot,
            node: node.to_owned(),
            launcher: enclave.launcher(),
            cpu_count,
            memory_mib: enclave.memory_mib,
        },
        status: None,
    }
}
