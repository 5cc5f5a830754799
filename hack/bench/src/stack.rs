//! A server under load: the dataplane with its enclave, or the plain stack that it is compared with.

use std::net::SocketAddr;

use anyhow::Result;
use tempfile::TempDir;

use crate::enclave::{Checks, Enclave};
use crate::generator::{Path, PublicKey};

mod admin;
pub(crate) mod plain;
mod process;
pub(crate) mod sigil;

pub(crate) use admin::Http;
pub(crate) use process::Process;

/// Two processes: the front, and the one that signs.
pub(crate) struct Stack {
    pub(crate) name: String,
    pub(crate) keys: Vec<PublicKey>,
    pub(crate) front: Process,
    signer: Signer,
    http: SocketAddr,
    grpc: SocketAddr,
    admin: Option<SocketAddr>,
    _rest: Rest,
}

/// What lives as long as a stack.
struct Rest {
    /// Hands the enclave over to whoever asks.
    _launcher: Option<tokio::runtime::Runtime>,
    /// Sockets, settings, logs, the store.
    _folder: TempDir,
}

enum Signer {
    Enclave(Box<Enclave>),
    Plain(Process),
}

/// What has gone over the boundary to the enclave.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Crossings {
    pub(crate) digests: f64,
    pub(crate) messages: f64,
}

// === impl Crossings ===

impl Crossings {
    /// Digests and messages after `before`.
    pub(crate) fn since(self, before: Self) -> (f64, f64) {
        (self.digests - before.digests, self.messages - before.messages)
    }
}

// === impl Stack ===

impl Stack {
    /// Where requests of this kind go.
    pub(crate) fn address(&self, path: Path) -> SocketAddr {
        match path {
            Path::Http1 | Path::Http2 => self.http,
            Path::Grpc | Path::Stream | Path::Batch => self.grpc,
        }
    }

    /// Whether it takes requests of this kind: axum has no HTTP/2 unless told so.
    pub(crate) fn takes(&self, path: Path) -> bool {
        path != Path::Http2 || matches!(self.signer, Signer::Enclave(_))
    }

    /// Front and signer.
    pub(crate) fn processes(&self) -> [u32; 2] {
        let signer = match &self.signer {
            Signer::Enclave(enclave) => enclave.id(),
            Signer::Plain(process) => process.id(),
        };
        [self.front.id(), signer]
    }

    /// What the enclave has sampled of its checks; nothing for a signer without.
    pub(crate) fn checks(&mut self) -> Result<Option<Checks>> {
        match &mut self.signer {
            Signer::Enclave(enclave) => enclave.checks().map(Some),
            Signer::Plain(_) => Ok(None),
        }
    }

    /// The dataplane's own count of what it has sent to the enclave.
    pub(crate) fn crossings(&self) -> Result<Crossings> {
        let text = self.metrics()?;
        Ok(Crossings {
            digests: sum(&text, "batch_size_hist_sum"),
            messages: sum(&text, "batch_size_hist_count"),
        })
    }

    /// The text that Prometheus scrapes; nothing of the plain stack.
    pub(crate) fn metrics(&self) -> Result<String> {
        self.admin.map_or(Ok(String::new()), |admin| Http::connect(admin)?.get("/metrics"))
    }
}

/// The sum of a metric over its labels, 0 if it is not there.
pub(crate) fn sum(text: &str, name: &str) -> f64 {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        (labels.is_empty() || labels.starts_with('{')).then(|| value.parse::<f64>().ok())?
    });
    values.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_and_no_other_counts() {
        let text = "a_total{x=\"1\"} 2\na_total{x=\"2\"} 3\na_total_b 7\nb 1\n";
        assert!((sum(text, "a_total") - 5.0).abs() < f64::EPSILON);
        assert!((sum(text, "b") - 1.0).abs() < f64::EPSILON);
        assert!(sum(text, "c").abs() < f64::EPSILON);
    }
}
