//! What the pods of a pool ask of a node.

use sigil_crds::{CpuSelection, SignerPool};

/// CPU of the launcher where the pool does not say, in thousandths of a core: less than one, so
/// that a node of two cores holds it beside a whole core for `serve`.
const LAUNCHER_CPU_MILLI: i32 = 400;
/// What the launcher needs beside the enclave's own memory, in MiB.
const LAUNCHER_MEMORY_MIB: i32 = 64;

/// Signing workers that an enclave process can have.
const PROCESS_WORKERS_MAX: usize = 64;

/// What a pod asks of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// CPU of all containers, in thousandths of a core.
    pub cpu_milli: i64,
    /// Memory of all containers, in MiB.
    pub memory_mib: i64,
}

/// What the pods of the pool ask of a node.
pub fn needs(pool: &SignerPool) -> Needs {
    let resources = &pool.spec.dataplane.resources;
    Needs {
        cpu_milli: i64::from(launcher_cpu_milli(pool)) + i64::from(resources.cpu_count) * 1000,
        memory_mib: i64::from(launcher_memory_mib(pool)) + i64::from(resources.memory_mib),
    }
}

/// CPU of the launcher container, in thousandths of a core.
pub fn launcher_cpu_milli(pool: &SignerPool) -> i32 {
    pool.spec.enclave.launcher_cpu_milli.unwrap_or(LAUNCHER_CPU_MILLI)
}

/// Memory of the launcher container, in MiB: with `process` the enclave lives in it.
pub fn launcher_memory_mib(pool: &SignerPool) -> i32 {
    pool.spec.enclave.memory_mib.saturating_add(LAUNCHER_MEMORY_MIB)
}

/// Signing workers of an enclave process: as many as a real enclave would have vCPUs.
pub(super) fn launcher_workers(pool: &SignerPool) -> usize {
    vcpus(pool).clamp(1, PROCESS_WORKERS_MAX)
}

/// vCPUs of the enclave.
pub(super) fn vcpus(pool: &SignerPool) -> usize {
    match pool.spec.enclave.cpus() {
        Some(CpuSelection::Count(count)) => usize::try_from(count).unwrap_or(1),
        Some(CpuSelection::Pool(cpus)) => cpus.len(),
        None => 1,
    }
}
