//! The enclave of a member.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The enclave of each member.
#[derive(KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[x_kube(
    validation = Rule::new("has(self.cpuCount) != has(self.cpuPool)").message(
        "enclave: set exactly one of cpuCount (the node chooses the cores) and cpuPool (you name them)"
    ),
    validation = Rule::new("self.memoryMiB >= 64").message(
        "enclave.memoryMiB must be at least 64: Nitro starts no smaller enclave"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct EnclaveSpec {
    /// What starts the enclave: `nitro` (AWS Nitro Enclaves; also when absent), `qemu` or
    /// `process` (development; the image must hold them).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launcher: Option<Launcher>,
    /// Image with the launcher, the enclave and its pins. With `production: true`, by digest.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// Measurements that members accept, one for each architecture and version. When empty, those
    /// that the chart's value `measurements` names for this image. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub measurements: Vec<Measurement>,
    /// Number of vCPUs, 1 to 512; the node's allocation decides which. Whole cores: even where a
    /// core has two threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 512))]
    pub cpu_count: Option<i32>,
    /// The vCPUs by number, each 1 to 4095 (CPU 0 stays with the node). At most 512.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::cpu_list")]
    pub cpu_pool: Option<Vec<i32>>,
    /// Memory of the enclave, in MiB, 64 to 4194304.
    #[serde(rename = "memoryMiB")]
    #[schemars(range(max = 4_194_304))]
    pub memory_mib: i32,
    /// CPU of the launcher container, in thousandths of a core, 50 to 512000; 400 when absent.
    /// With `launcher: process` the enclave itself runs within it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 50, max = 512_000))]
    pub launcher_cpu_milli: Option<i32>,
    /// Certificate (PEM) that attestation documents must chain to instead of AWS's root. The pool
    /// is then not trusted. Never in production.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub attestation_root: Option<String>,
    /// Starts the enclave with a readable console and all-zero measurements. Never in production.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug: Option<bool>,
}

/// What starts an enclave: `nitro` (AWS Nitro Enclaves; also when absent), `qemu` or `process`
/// (development; they protect nothing, and the image must hold them).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Launcher {
    /// AWS Nitro Enclaves.
    #[default]
    Nitro,
    /// An emulated enclave in QEMU. Protects nothing.
    Qemu,
    /// A plain process. Protects nothing.
    Process,
}

/// Measurements of one enclave image on one architecture, as in its `measurements.json`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Measurement {
    /// Architecture that the image runs on.
    #[schemars(length(min = 1, max = 16))]
    pub arch: String,
    /// PCR0, SHA-384 over everything, 96 lower-case hex digits.
    #[schemars(length(equal = 96), regex(pattern = "^[0-9a-f]{96}$"))]
    pub pcr0: String,
    /// PCR1, SHA-384 over kernel and first ramdisk, 96 lower-case hex digits.
    #[schemars(length(equal = 96), regex(pattern = "^[0-9a-f]{96}$"))]
    pub pcr1: String,
    /// PCR2, SHA-384 over the other ramdisks, pins included, 96 lower-case hex digits.
    #[schemars(length(equal = 96), regex(pattern = "^[0-9a-f]{96}$"))]
    pub pcr2: String,
}

/// Which vCPUs an enclave gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CpuSelection<'a> {
    /// So many, chosen by the node.
    Count(i32),
    /// These, by number.
    Pool(&'a [i32]),
}

// === impl EnclaveSpec ===

impl EnclaveSpec {
    /// The launcher, its default applied.
    pub fn launcher(&self) -> Launcher {
        self.launcher.unwrap_or_default()
    }

    /// Which vCPUs the enclave gets; `None` when the spec names both or neither.
    pub fn cpus(&self) -> Option<CpuSelection<'_>> {
        match (self.cpu_count, self.cpu_pool.as_deref()) {
            (Some(count), None) => Some(CpuSelection::Count(count)),
            (None, Some(pool)) => Some(CpuSelection::Pool(pool)),
            _ => None,
        }
    }
}

// === impl Launcher ===

impl Launcher {
    /// The word that is stored, printed and given to the launcher.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nitro => "nitro",
            Self::Qemu => "qemu",
            Self::Process => "process",
        }
    }

    /// Whether an enclave started by it protects anything.
    pub fn is_trusted(self) -> bool {
        self == Self::Nitro
    }
}
