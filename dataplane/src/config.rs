//! Settings of `serve`. Reading is pure: it opens no socket and no file, and reports every error at
//! once. The annotated defaults are `config/dataplane.yaml`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

mod access;
mod admission;
mod audit;
mod auth;
mod cache;
pub(crate) mod live;
mod load;
pub(crate) mod merge;
mod outbound;
mod pool;
pub(crate) mod reference;
mod reseal;
mod routing;
mod store;
mod tls;
mod validate;

pub(crate) use validate::keyspace_name_is_valid;

pub use access::{AccessRule, AccessRules, AccessVerb};
pub use admission::{Admission, AdmissionMode};
pub use audit::{Audit, AuditOutput};
pub use auth::{Auth, Tokens};
pub use cache::Cache;
pub use load::{ConfigErrors, load};
pub use outbound::{Outbound, TimeoutConfig};
pub use pool::Pool;
pub use reference::markdown as reference;
pub use reseal::Reseal;
pub use routing::{Policy, Routing};
pub use store::{Embedded, Engine, Postgres, PostgresAddress, SslMode, StoreSettings};
pub use tls::{ClientCertificates, Tls};

/// All settings.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Config {
    /// Where this process listens.
    pub listeners: Listeners,
    /// Threads that serve requests, one pinned to a core each; 0: as many as there are cores.
    pub workers: usize,
    /// Which enclave is used, and what it must prove.
    pub enclave: Enclave,
    /// The connections to it.
    pub pool: Pool,
    /// How KMS is reached and which key may be used.
    pub kms: Kms,
    /// Keyspaces served here.
    pub keyspaces: Keyspaces,
    /// Where sealed keys are kept.
    pub store: StoreSettings,
    /// The enclave's key cache; absent: the enclave's own baseline.
    pub cache: Cache,
    /// The unlock queue and its limits.
    pub unlock: Unlock,
    /// Keys sealed again under the newest DEK.
    pub reseal: Reseal,
    /// Bounds of one request.
    pub limits: Limits,
    /// Requests in flight.
    pub admission: Admission,
    /// HTTP requests that this process makes itself.
    pub outbound: Outbound,
    /// Which enclave signs, and how this process knows the others.
    pub routing: Routing,
    /// How callers prove who they are.
    pub auth: Auth,
    /// Who may do what.
    pub access: AccessRules,
    /// Where it is written who did what.
    pub audit: Audit,
    /// Which objects of the cluster this process belongs to; absent without Kubernetes.
    pub member: Option<Member>,
}

/// Where this process listens.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Listeners {
    /// HTTP and gRPC for applications: `IP:PORT` or `unix:/path`. Off loopback only with TLS.
    pub public: ListenAddress,
    /// TLS of the public listener.
    pub tls: Tls,
    /// Probes, metrics, debug: loopback `IP:PORT` or `unix:/path`.
    pub admin: ListenAddress,
}

/// `IP:PORT` or `unix:/path`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum ListenAddress {
    /// A TCP address; port 0 picks a free one.
    Tcp(SocketAddr),
    /// A unix socket with a path, mode 0600.
    Unix(PathBuf),
}

/// Which enclave is used, and what it must prove.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Enclave {
    /// Socket of the launcher's hand-off: `@name` (abstract) or a path.
    pub handoff: String,
    /// `aws`, or the path of a certificate.
    pub attestation_root: String,
    /// Images that may be used.
    pub measurements: Vec<Measurement>,
    /// Images that may no longer run and are believed about the keys that they made.
    pub retired_measurements: Vec<Measurement>,
    /// A measurements.json that names one more.
    pub measurements_file: Option<PathBuf>,
}

/// PCR0, PCR1 and PCR2 of an image, 96 hex digits each.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Measurement {
    /// The whole image.
    pub pcr0: String,
    /// Kernel and code.
    pub pcr1: String,
    /// Pins.
    pub pcr2: String,
}

/// How KMS is reached and which key may be used. Credentials come from the environment.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Kms {
    /// Region that requests are signed for. Required.
    pub region: String,
    /// The one key that may be used; absent: any that the enclave has pinned in the region.
    pub key_arn: Option<String>,
    /// `host:port` of the TCP connection only; absent: the pinned host, port 443.
    pub address: Option<String>,
}

/// Names of keyspaces, at least one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Keyspaces(pub Vec<String>);

/// The unlock queue and its limits; rows U2 and U3.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Unlock {
    /// Jobs that requests may have queued, 1..=65536; the background has a bound of its own.
    pub queue_depth_max: usize,
    /// Jobs that may run at once, 1..=64.
    pub workers: usize,
    /// Jobs that may begin in a second, 0..=10000; 0: no limit.
    pub rate_per_second_max: u32,
    /// Time a request-driven job may wait before it is dropped.
    pub queue_time_max_ms: u64,
    /// Attempts of one job before KMS is left alone for a while.
    pub attempts_max: u32,
    /// First wait between attempts; doubles.
    pub backoff_min_ms: u64,
    /// Longest wait between attempts.
    pub backoff_max_ms: u64,
    /// How long the breaker stays shut.
    pub recovery_ms: u64,
    /// Lower bound of the retry hint.
    pub retry_after_min_ms: u64,
    /// Upper bound of the retry hint.
    pub retry_after_max_ms: u64,
    /// TCP connection to KMS.
    pub connect_timeout_ms: u64,
    /// One exchange with KMS.
    pub attempt_timeout_ms: u64,
    /// All that one attempt of a job does, KMS and enclave together.
    pub operation_timeout_ms: u64,
}

/// Bounds of one request.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of a request's body, 1024..=1048576.
    pub body_bytes_max: usize,
    /// Time a request may take; a shorter `grpc-timeout` wins.
    pub request_timeout_ms: u64,
}

/// Which objects of the cluster this process belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Member {
    /// Namespace of the pool.
    pub namespace: String,
    /// Name of the SignerPool.
    pub pool: String,
    /// Name of the EnclaveAllocation, which is also the member's slot.
    pub allocation: String,
    /// Name of the node.
    pub node: String,
}

// === impl ListenAddress ===

impl TryFrom<String> for ListenAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err(format!("`{text}`: the path of a unix socket must be absolute"))
            };
        }
        text.parse()
            .map(Self::Tcp)
            .map_err(|_| format!("`{text}` is neither IP:PORT nor unix:/path"))
    }
}

impl From<ListenAddress> for String {
    fn from(address: ListenAddress) -> Self {
        address.to_string()
    }
}

impl std::fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

// === impl Unlock ===

impl Unlock {
    /// Longest wait of a request-driven job.
    pub fn queue_time_max(&self) -> Duration {
        Duration::from_millis(self.queue_time_max_ms)
    }

    /// How long the breaker stays shut.
    pub fn recovery(&self) -> Duration {
        Duration::from_millis(self.recovery_ms)
    }
}

// === impl Limits ===

impl Limits {
    /// Time a request may take.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }
}

// === impl Default ===

impl Default for Listeners {
    fn default() -> Self {
        let loopback = |port| ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], port)));
        Self { public: loopback(8080), tls: Tls::default(), admin: loopback(9090) }
    }
}

impl Default for Enclave {
    fn default() -> Self {
        Self {
            handoff: "@sigil-launcher".to_owned(),
            attestation_root: "aws".to_owned(),
            measurements: Vec::new(),
            measurements_file: None,
            retired_measurements: Vec::new(),
        }
    }
}

impl Default for Keyspaces {
    fn default() -> Self {
        Self(vec!["default".to_owned()])
    }
}

impl Default for Unlock {
    fn default() -> Self {
        Self {
            queue_depth_max: 2_048,
            workers: 16,
            rate_per_second_max: 100,
            queue_time_max_ms: 30_000,
            attempts_max: 3,
            backoff_min_ms: 50,
            backoff_max_ms: 1_000,
            recovery_ms: 1_000,
            retry_after_min_ms: 50,
            retry_after_max_ms: 200,
            connect_timeout_ms: 500,
            attempt_timeout_ms: 2_000,
            operation_timeout_ms: 3_000,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { body_bytes_max: 65_536, request_timeout_ms: 5_000 }
    }
}

#[cfg(test)]
mod tests;
