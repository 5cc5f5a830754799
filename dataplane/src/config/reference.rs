//! Every setting in one table: `docs/configuration.md` is printed from it, and a reload asks it what may
//! change while the process runs.

use std::fmt::Write;

use serde_yaml_ng::{Mapping, Value};

use super::{Config, load};

/// When a change of a setting has effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reload {
    /// At once, while the process runs.
    Running,
    /// When the process starts again.
    Restart,
}

/// What one setting is.
struct Setting {
    path: &'static str,
    /// The name in the documents that the requirements come from, if it has another there.
    documents: &'static str,
    unit: &'static str,
    range: &'static str,
    /// What holds without the setting, where something else than this process decides.
    baseline: &'static str,
    reload: Reload,
}

const fn hot(
    path: &'static str,
    documents: &'static str,
    unit: &'static str,
    range: &'static str,
) -> Setting {
    Setting { path, documents, unit, range, baseline: "", reload: Reload::Running }
}

const fn cold(
    path: &'static str,
    documents: &'static str,
    unit: &'static str,
    range: &'static str,
) -> Setting {
    Setting { path, documents, unit, range, baseline: "", reload: Reload::Restart }
}

/// A setting of the enclave's cache; `baseline` is what the enclave has if none is sent.
const fn cache(
    path: &'static str,
    documents: &'static str,
    unit: &'static str,
    range: &'static str,
    baseline: &'static str,
) -> Setting {
    Setting { path, documents, unit, range, baseline, reload: Reload::Running }
}

/// In the order of `config/dataplane.yaml`.
const SETTINGS: &[Setting] = &[
    cold("listeners.public", "", "address", "IP:PORT (TLS off loopback), unix:/path"),
    cold("listeners.tls.certificateFile", "", "path", "PEM; its content may change"),
    cold("listeners.tls.keyFile", "", "path", "PEM; its content may change"),
    cold("listeners.tls.clientCaFile", "", "path", "PEM; its content may change"),
    cold("listeners.tls.clientCertificates", "", "mode", "none, optional, required"),
    cold("listeners.admin", "", "address", "loopback IP:PORT, unix:/path"),
    cold("workers", "", "threads", "0-256; 0: one a core"),
    cold("enclave.handoff", "SIGNER_ENCLAVES", "socket", "@name or absolute path"),
    cold("enclave.attestationRoot", "", "certificate", "aws or absolute path"),
    cold("enclave.measurements", "", "list", "PCR0, 1, 2 of 96 hex digits"),
    cold("enclave.measurementsFile", "", "path", "measurements.json"),
    cold("enclave.retiredMeasurements", "", "list", "PCR0, 1, 2 of 96 hex digits"),
    hot("pool.min", "SIGN_CONN_POOL_MIN", "connections", "1-256"),
    hot("pool.max", "SIGN_CONN_POOL_MAX", "connections", "min to 256"),
    hot("pool.keepaliveIntervalMs", "keepalive", "ms", "0-3600000; 0: none"),
    hot("pool.keepaliveTimeoutMs", "keepalive timeout", "ms", "10-60000"),
    hot("pool.probe", "health probe", "", "true or false"),
    hot("pool.probePeriodMs", "probe period", "ms", "10-60000"),
    hot("pool.failures", "failures", "in a row", "1-100"),
    hot("pool.cooldownMs", "cooldown", "ms", "10-60000"),
    hot("pool.drainMs", "", "ms", "0-60000"),
    hot("pool.maxBatch", "maxBatch", "digests", "1-32; 1: batching off"),
    hot("pool.maxWaitMs", "maxWait", "ms", "1-2"),
    hot("pool.noWait", "noWait", "", "true or false"),
    cold("kms.region", "", "AWS region", "required"),
    cold("kms.keyArn", "", "ARN", "of a key in the region"),
    cold("kms.address", "", "host:port", "of the TCP connection"),
    cold("keyspaces", "", "list", "1-256 names of 1-63 characters"),
    cold("store.embedded.path", "", "path", "absolute; null: /var/lib/sigil/store"),
    cold(
        "store.postgres.addresses",
        "",
        "list",
        "host:port, unix:/path; empty: the embedded store",
    ),
    cold("store.postgres.database", "", "name", "1-63 bytes"),
    cold("store.postgres.user", "", "name", "1-63 bytes"),
    cold("store.postgres.schema", "", "name", "1-63 of a-z 0-9 _"),
    cold("store.postgres.passwordFile", "", "path", "absolute; null: PGPASSWORD"),
    cold("store.postgres.sslMode", "", "mode", "verify-full; disable on this machine only"),
    cold("store.postgres.caFile", "", "path", "absolute; null: Mozilla's list"),
    cold("store.postgres.connections", "", "connections", "1-64"),
    cold("store.postgres.connectTimeoutMs", "", "ms", "1-60000"),
    cold("store.postgres.acquireTimeoutMs", "", "ms", "1-60000"),
    cold("store.postgres.statementTimeoutMs", "", "ms", "1-60000"),
    cold("store.postgres.acceptSingleNodeDurability", "", "boolean", "true, false"),
    cache("cache.keySoftTtlMs", "ttl_soft", "ms", "1 to keyHardTtlMs", "900000"),
    cache("cache.keyHardTtlMs", "ttl_hard", "ms", "1-604800000", "960000"),
    cache("cache.keyUses", "maxUses", "signatures", "1-4294967295", "1000000"),
    cache("cache.dekHardTtlMs", "DEK ttl_hard", "ms", "1-604800000", "3600000"),
    cache("cache.lowWaterUses", "lowWaterMark", "signatures", "0 to half of keyUses", "500"),
    cache("cache.prefetchWindowMs", "refreshWindow", "ms", "0 to half of keySoftTtlMs", "120000"),
    cache("cache.prefetchJitterPercent", "jitter", "%", "0-50", "10"),
    cache("cache.prefetchInFlight", "maxInFlight", "refreshes", "0-4096; 0: off", "2048"),
    cache("cache.prefetchScanMs", "scan period", "ms", "1000-60000", "1000"),
    cache("cache.signWaitMs", "signWaitBudget", "ms", "2-3", "3"),
    cache("cache.hardRefreshMs", "hard_refresh_budget", "ms", "3-5", "3"),
    cache("cache.keys", "", "keys", "256-1048576", "1048576"),
    cache(
        "cache.bytes",
        "",
        "bytes",
        "655360-1073741824",
        "a quarter of its memory, at most 1 GiB",
    ),
    cache("cache.warmKeys", "", "keys", "256-131072", "131072"),
    hot("unlock.queueDepthMax", "queue depth", "jobs", "1-65536"),
    cold("unlock.workers", "workers", "jobs at once", "1-64"),
    hot("unlock.ratePerSecondMax", "unlock_rate_limit", "jobs a second", "0-10000; 0: no limit"),
    hot("unlock.queueTimeMaxMs", "maximum queue time", "ms", "1-3600000"),
    hot("unlock.attemptsMax", "attempts", "attempts", "1-10"),
    hot("unlock.backoffMinMs", "first wait", "ms", "1 to backoffMaxMs"),
    hot("unlock.backoffMaxMs", "longest wait", "ms", "1-60000"),
    hot("unlock.recoveryMs", "recovery_timeout", "ms", "1-300000"),
    hot("unlock.retryAfterMinMs", "Retry-After", "ms", "1 to retryAfterMaxMs"),
    hot("unlock.retryAfterMaxMs", "Retry-After", "ms", "1-60000"),
    hot("unlock.connectTimeoutMs", "KMS connect", "ms", "1 to attemptTimeoutMs"),
    hot("unlock.attemptTimeoutMs", "KMS attempt", "ms", "1 to operationTimeoutMs"),
    hot("unlock.operationTimeoutMs", "KMS operation", "ms", "1-10000"),
    hot("reseal.perSecondMax", "", "keys a second", "0-1000; 0: off"),
    cold("limits.bodyBytesMax", "", "bytes", "1024-1048576"),
    hot("limits.requestTimeoutMs", "deadline", "ms", "at least 1"),
    hot("admission.maxConcurrent", "max_concurrent", "requests", "0 or more; 0: no limit"),
    hot("admission.mode", "", "mode", "try, waitWithTimeout, waitCancellable"),
    hot("admission.waitTimeoutMs", "", "ms", "1-60000"),
    hot("admission.waitingMax", "", "requests", "1-65536"),
    cold("outbound.timeoutConfig.dial", "timeout_config.dial", "s", "1-3600"),
    cold(
        "outbound.timeoutConfig.responseHeader",
        "timeout_config.response_header",
        "s",
        "0-3600; 0: no limit",
    ),
    cold("outbound.timeoutConfig.idle", "timeout_config.idle", "s", "1-3600"),
    cold("routing.policy", "routing", "policy", "LocalFirst, Owner"),
    cold("routing.virtualNodes", "virtual nodes", "points", "1-16384"),
    cold("routing.slot", "", "slot", "0-511"),
    cold("routing.membershipFile", "", "path", "absolute"),
    cold("auth.tokens.enabled", "", "true or false", "needs audience and keys"),
    cold("auth.tokens.issuer", "", "URL", "`iss` of the cluster's tokens"),
    cold("auth.tokens.audience", "", "text", "sigil:NAMESPACE/POOL of member"),
    cold("auth.tokens.keysFile", "", "path", "a JWKS; else the API server's"),
    cold("auth.tokens.refreshS", "", "s", "1-3600"),
    cold("auth.tokens.leewayS", "", "s", "0-300"),
    hot("access", "", "rules", "at most 1024, the first that fits decides"),
    cold("audit.output", "", "output", "stdout, off, absolute path"),
    cold("routing.hopTimeoutMs", "", "ms", "10-60000"),
    cold("routing.peerCaFile", "", "path", "absolute"),
    cold("routing.peerName", "", "DNS name", "with peerCaFile"),
    hot("routing.peerSubjects", "", "list", "dns:NAME, uri:NAME, cn:NAME"),
    cold("member", "", "objects", "set by the operator"),
];

/// When a change of the setting with this path has effect; `None` if it is none, but perhaps a section.
pub(crate) fn reload(path: &str) -> Option<Reload> {
    SETTINGS.iter().find(|setting| setting.path == path).map(|setting| setting.reload)
}

/// The table as Markdown.
pub fn markdown() -> String {
    let defaults = load::mapping(&Config::default());
    let mut out = String::from(HEAD);
    for setting in SETTINGS {
        let when = match setting.reload {
            Reload::Running => "at once",
            Reload::Restart => "restart",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "| `{}` | `{}` | {} | {} | {} | {} | {when} |",
            setting.path,
            load::variable(setting.path),
            setting.documents,
            setting.unit,
            default_of(setting, &defaults),
            setting.range,
        );
    }
    out
}

const HEAD: &str = "\
# Settings of `sigil-dataplane serve`

Printed by `make generate` from `dataplane/src/config/reference.rs`. What each setting is for stands beside
its default in [config/dataplane.yaml](../config/dataplane.yaml).

A setting comes from the file or from the environment, which wins. A variable's value is text where the
setting is text, and YAML otherwise (`[a, b]` is a list).
`sigil-dataplane check-config --config FILE` reads both, names every error and opens nothing. A running
process reads the file again when its content changes (it looks each second; a ConfigMap's swap of links
counts) and on SIGHUP. A file with an error changes nothing: the log names the errors and
`/debug/status` shows them under `config`. What needs a restart is named there too, and stays as it is.

| key | environment | in the documents | unit | default | range | a change has effect |
|---|---|---|---|---|---|---|
";

fn default_of(setting: &Setting, defaults: &Mapping) -> String {
    if !setting.baseline.is_empty() {
        return format!("the enclave's: {}", setting.baseline);
    }
    let (mut at, mut found) = (defaults, None);
    for name in setting.path.split('.') {
        found = at.get(name);
        if let Some(Value::Mapping(inner)) = found {
            at = inner;
        }
    }
    match found {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) if text.is_empty() => String::new(),
        Some(value) => match serde_json::to_string(value) {
            Ok(text) => format!("`{}`", text.trim_matches('"')),
            Err(_) => String::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(prefix: &str, mapping: &Mapping, all: &mut Vec<String>) {
        for (key, value) in mapping {
            let here = format!("{prefix}{}", key.as_str().unwrap());
            match value {
                Value::Mapping(inner) if reload(&here).is_none() => {
                    paths(&format!("{here}."), inner, all);
                }
                _ => all.push(here),
            }
        }
    }

    #[test]
    fn every_setting_has_a_row_and_every_row_a_setting() {
        let (mut known, mut listed) = (Vec::new(), Vec::new());
        paths("", &load::mapping(&Config::default()), &mut known);
        listed.extend(SETTINGS.iter().map(|setting| setting.path.to_owned()));
        known.sort();
        listed.sort();
        assert_eq!(known, listed, "left: settings; right: rows of config/reference.rs");
    }

    #[test]
    fn the_document_is_what_the_table_prints() {
        let document = include_str!("../../../docs/configuration.md");
        assert!(document == markdown(), "docs/configuration.md is old: make generate");
    }
}
