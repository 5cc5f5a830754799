//! Every metric of the process, with the names of `requirements.md`. Handles of the request path are
//! resolved once, so that a request only adds to atomics.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::pool::Upstreams;
use crate::router::RouteMetrics;
use crate::status::KmsErrorClass;

mod by_upstream;
pub(crate) mod enclave;
mod latency;
mod limiters;
mod store;

use by_upstream::{ByUpstream, Enclave, Ingress};
pub(crate) use by_upstream::{Callee, Calls};
use enclave::EnclaveMetrics;
use latency::Latency;
use limiters::Limiters;
use store::StoreMetrics;

type Label1 = [(&'static str, &'static str); 1];
type Label2 = [(&'static str, &'static str); 2];
type ByKeyspace = Family<Vec<(&'static str, String)>, Counter>;
type LatencyFamily = Family<Label1, Latency>;

/// An unlock is a KMS round trip with TLS: tens to hundreds of ms.
const UNLOCK_BUCKETS_MS: [f64; 10] =
    [10.0, 25.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 30000.0];

/// Classes of status codes, for the label `code`.
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// Operations of the public contract, for the label `method`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// `POST /create`, `Create`.
    Create,
    /// `POST /sign`, `Sign`.
    Sign,
    /// `POST /sign/batch`, `SignBatch`; its items count one each.
    SignBatch,
    /// `SignStream`; its requests count one each.
    SignStream,
    /// `GET /keys`, `ListKeys`.
    ListKeys,
    /// `GET /keys/{id}`, `GetKey`.
    GetKey,
    /// `GET /keys/{id}/attestation`.
    Attestation,
    /// Anything else.
    Other,
}

/// Phases of a request; the closed list of label `phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// From the first byte of the body to the answer.
    Total,
    /// Reading and checking the request.
    Ingress,
    /// The enclave's part, queueing for the stream included.
    Enclave,
    /// The store's part.
    Store,
}

/// What became of a file of settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReloadResult {
    /// It is in force, but for what needs a restart.
    Applied,
    /// It has errors.
    Refused,
}

/// All metrics. Shared by every thread.
pub(crate) struct Metrics {
    registry: Registry,
    /// By method and class of status codes.
    answered: [[Counter; CLASSES.len()]; Method::ALL.len()],
    sign_phases: [Latency; 4],
    create_phases: [Latency; 4],
    /// From request to answer, of everything else.
    other_total: Latency,
    by_upstream: ByUpstream,
    /// Answers `UNLOCK_REQUIRED`.
    pub(crate) unlock_required: ByKeyspace,
    /// Attempts of jobs after their first.
    pub(crate) unlock_retry: ByKeyspace,
    /// Jobs that were done in the background.
    pub(crate) unlock_bg: ByKeyspace,
    /// Keys sealed again under the newest DEK.
    pub(crate) reseal: ByKeyspace,
    /// Keys that could not be, and walks that something stopped.
    pub(crate) reseal_fail: ByKeyspace,
    unlock_fail: Family<Vec<(&'static str, String)>, Counter>,
    needs_person: Family<Vec<(&'static str, String)>, Gauge>,
    /// Jobs that wait.
    pub(crate) unlock_queue_depth: Gauge,
    unlock_latency: Histogram,
    /// Enclaves with the pools to them, and what these count.
    pub(crate) upstreams: Upstreams,
    /// Clients' connections that found no place.
    pub(crate) connections_refused: Counter,
    tls_reload: Family<Label1, Counter>,
    tls_handshake_fail: Family<Label1, Counter>,
    /// Rows of the store that lists left out because they do not decode.
    pub(crate) rows_skipped: Counter,
    /// Requests sent again.
    pub(crate) retries: Counter,
    responses_429: Counter,
    responses_503: Counter,
    rng_source: Family<Vec<(&'static str, String)>, Gauge>,
    /// 0 admitting, 1 probing, 2 shut.
    pub(crate) breaker_state: Family<Vec<(&'static str, String)>, Gauge>,
    reloads: Family<Label1, Counter>,
    restart_needed: Gauge,
    auth_refused: Family<Label1, Counter>,
    auth_keys_reads: Family<Label1, Counter>,
    /// Lines of the audit that found no room.
    pub(crate) audit_dropped: Counter,
    /// What stands before requests.
    pub(crate) limiters: Limiters,
    /// The store's durability and connections.
    pub(crate) store: StoreMetrics,
    /// Routing between members.
    pub(crate) routes: RouteMetrics,
    /// What the enclave counts itself.
    pub(crate) enclave: EnclaveMetrics,
}

/// A connection that is counted.
#[derive(Debug)]
pub(crate) struct Connected(Gauge);

impl Connected {
    fn of(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}

// === impl Method ===

impl Method {
    const ALL: [Self; 8] = [
        Self::Create,
        Self::Sign,
        Self::SignBatch,
        Self::SignStream,
        Self::ListKeys,
        Self::GetKey,
        Self::Attestation,
        Self::Other,
    ];

    /// The label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Sign => "sign",
            Self::SignBatch => "sign_batch",
            Self::SignStream => "sign_stream",
            Self::ListKeys => "list_keys",
            Self::GetKey => "get_key",
            Self::Attestation => "attestation",
            Self::Other => "other",
        }
    }
}

// === impl Phase ===

impl Phase {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Total, "total"),
        (Self::Ingress, "ingress"),
        (Self::Enclave, "enclave"),
        (Self::Store, "store"),
    ];
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers everything.
    pub(crate) fn new() -> Self {
        let (latency, create_latency) = (LatencyFamily::default(), LatencyFamily::default());
        let phases = |family: &LatencyFamily| {
            Phase::ALL.map(|(_, name)| family.get_or_create(&[("phase", name)]).clone())
        };
        let requests: Family<Label2, Counter> = Family::default();
        let counter = |method: Method, class| {
            requests.get_or_create(&[("method", method.as_str()), ("code", class)]).clone()
        };
        let mut metrics = Self {
            registry: Registry::default(),
            answered: Method::ALL.map(|method| CLASSES.map(|class| counter(method, class))),
            sign_phases: phases(&latency),
            create_phases: phases(&create_latency),
            other_total: Latency::default(),
            by_upstream: ByUpstream::default(),
            unlock_required: Family::default(),
            unlock_retry: Family::default(),
            unlock_bg: Family::default(),
            reseal: Family::default(),
            reseal_fail: Family::default(),
            unlock_fail: Family::default(),
            needs_person: Family::default(),
            unlock_queue_depth: Gauge::default(),
            unlock_latency: Histogram::new(UNLOCK_BUCKETS_MS),
            upstreams: Upstreams::default(),
            connections_refused: Counter::default(),
            tls_reload: Family::default(),
            tls_handshake_fail: Family::default(),
            rows_skipped: Counter::default(),
            retries: Counter::default(),
            responses_429: Counter::default(),
            responses_503: Counter::default(),
            rng_source: Family::default(),
            breaker_state: Family::default(),
            reloads: Family::default(),
            restart_needed: Gauge::default(),
            auth_refused: Family::default(),
            auth_keys_reads: Family::default(),
            audit_dropped: Counter::default(),
            limiters: Limiters::default(),
            store: StoreMetrics::default(),
            routes: RouteMetrics::default(),
            enclave: EnclaveMetrics::default(),
        };
        metrics.derive();
        metrics.routes.calls = metrics.by_upstream.unused(Callee::Peer);
        metrics.register(requests, latency, create_latency);
        metrics
    }

    fn register(
        &mut self,
        requests: Family<Label2, Counter>,
        sign: LatencyFamily,
        create: LatencyFamily,
    ) {
        let r = &mut self.registry;
        r.register("http_grpc_requests", "Requests by method and code class", requests);
        r.register("sign_latency_ms", "Latency of sign by phase", sign);
        r.register("create_latency_ms", "Latency of create by phase", create);
        let unlock = [
            ("unlock_required", "Answers UNLOCK_REQUIRED", &self.unlock_required),
            ("unlock_retry", "Attempts of unlocks after the first", &self.unlock_retry),
            ("unlock_bg", "Unlocks done behind callers' backs", &self.unlock_bg),
            ("unlock_fail", "Attempts that failed, by reason", &self.unlock_fail),
            ("reseal", "Keys sealed again under the newest DEK", &self.reseal),
            ("reseal_fail", "Keys and walks of which that failed", &self.reseal_fail),
        ];
        for (name, help, family) in unlock {
            r.register(name, help, family.clone());
        }
        let help = "1 while unlocks of a keyspace keep failing and somebody should look";
        r.register("unlock_needs_person", help, self.needs_person.clone());
        let gauge = &self.unlock_queue_depth;
        r.register("unlock_queue_depth", "Unlock jobs that wait", gauge.clone());
        let latency = &self.unlock_latency;
        r.register("unlock_latency_ms", "From queueing to installed", latency.clone());
        let counters = [
            ("connections_refused", "Clients without a place", &self.connections_refused),
            ("store_rows_skipped", "Damaged rows that lists left out", &self.rows_skipped),
            ("retry", "Requests sent again to the enclave", &self.retries),
            ("responses_429", "Answers 429", &self.responses_429),
            ("responses_503", "Answers 503", &self.responses_503),
        ];
        for (name, help, counter) in counters {
            r.register(name, help, counter.clone());
        }
        r.register("rng_source", "1 for the enclave's generator", self.rng_source.clone());
        let tls = [
            ("tls_reload", "New certificates by result", &self.tls_reload),
            ("tls_handshake_fail", "Clients that did not come in", &self.tls_handshake_fail),
        ];
        for (name, help, family) in tls {
            r.register(name, help, family.clone());
        }
        let help = "0 admitting, 1 probing, 2 shut";
        r.register("circuit_breaker_state", help, self.breaker_state.clone());
        r.register(
            "config_reload",
            "Files of settings by what became of them",
            self.reloads.clone(),
        );
        let help = "1 if settings differ that need a restart";
        r.register("config_restart_needed", help, self.restart_needed.clone());
        let help = "Callers whose proof was not taken, by reason";
        r.register("auth_refused", help, self.auth_refused.clone());
        let help = "Looks at the cluster's keys, by result";
        r.register("auth_keys_read", help, self.auth_keys_reads.clone());
        let help = "Lines of the audit that found no room";
        r.register("audit_dropped", help, self.audit_dropped.clone());
        r.register_collector(Box::new(self.limiters.clone()));
        r.register_collector(Box::new(self.store.clone()));
        r.register_collector(Box::new(self.by_upstream.clone()));
        self.routes.register(r);
        r.register_collector(Box::new(self.upstreams.clone()));
        r.register_collector(Box::new(self.enclave.clone()));
    }

    /// What a scrape shows by upstream from what is counted anyway.
    fn derive(&mut self) {
        let totals = [&self.sign_phases[0], &self.create_phases[0], &self.other_total];
        let failures = self.answered.iter().map(|[.., of_5xx]| of_5xx);
        self.by_upstream.ingress = Ingress {
            answered: self.answered.iter().flatten().cloned().collect(),
            failed: failures.chain([&self.responses_429]).cloned().collect(),
            latency: totals.map(Clone::clone).into(),
            connections: Gauge::default(),
        };
        self.by_upstream.enclave = Enclave {
            latency: vec![self.sign_phases[2].clone(), self.create_phases[2].clone()],
            failed: Counter::default(),
            upstreams: self.upstreams.clone(),
        };
    }

    /// Counts a client's connection for as long as what it gives is kept.
    pub(crate) fn connected(&self) -> Connected {
        Connected::of(&self.by_upstream.ingress.connections)
    }

    /// Where calls of this upstream are counted.
    pub(crate) fn calls(&self, callee: Callee) -> Arc<Calls> {
        self.by_upstream.calls(callee)
    }

    /// An enclave did not answer a request.
    pub(crate) fn enclave_failed(&self) {
        self.by_upstream.enclave.failed.inc();
    }

    /// A caller's proof was not taken.
    pub(crate) fn auth_refused(&self, reason: &'static str) {
        self.auth_refused.get_or_create(&[("reason", reason)]).inc();
    }

    /// Somebody looked at the cluster's keys.
    pub(crate) fn auth_keys_read(&self, result: &'static str) {
        self.auth_keys_reads.get_or_create(&[("result", result)]).inc();
    }

    /// Counts one answered request.
    pub(crate) fn answered(&self, method: Method, http_status: u16) {
        let class = match http_status {
            200..=299 => 0,
            300..=399 => 1,
            400..=499 => 2,
            _ => 3,
        };
        let of_method = self.answered.get(method as usize);
        of_method.and_then(|classes| classes.get(class)).map(Counter::inc);
        match http_status {
            429 => drop(self.responses_429.inc()),
            503 => drop(self.responses_503.inc()),
            _ => {}
        }
    }

    /// Records how long a phase of `method` took.
    pub(crate) fn phase(&self, method: Method, phase: Phase, took: Duration) {
        let histograms = match method {
            Method::Sign | Method::SignBatch | Method::SignStream => &self.sign_phases,
            Method::Create => &self.create_phases,
            _ if phase == Phase::Total => return self.other_total.observe(took),
            _ => return,
        };
        let histogram = match phase {
            Phase::Total => &histograms[0],
            Phase::Ingress => &histograms[1],
            Phase::Enclave => &histograms[2],
            Phase::Store => &histograms[3],
        };
        histogram.observe(took);
    }

    /// An attempt of an unlock failed.
    pub(crate) fn unlock_failed(&self, keyspace: &str, reason: KmsErrorClass) {
        let labels =
            vec![("keyspace", keyspace.to_owned()), ("reason", reason.as_str().to_owned())];
        self.unlock_fail.get_or_create(&labels).inc();
    }

    /// Unlocks of the keyspace keep failing, or one worked.
    pub(crate) fn needs_person(&self, keyspace: &str, needed: bool) {
        self.needs_person.get_or_create(&by_keyspace(keyspace)).set(i64::from(needed));
    }

    /// An unlock was done.
    pub(crate) fn unlocked(&self, keyspace: &str, took: Duration) {
        self.unlock_bg.get_or_create(&by_keyspace(keyspace)).inc();
        self.unlock_latency.observe(took.as_secs_f64() * 1_000.0);
    }

    /// The enclave's random generator; the others are no longer in use.
    pub(crate) fn rng_source(&self, source: &str) {
        for known in ["nsm-hwrng", "software", "other"] {
            let labels = vec![("source", known.to_owned())];
            self.rng_source.get_or_create(&labels).set(i64::from(known == source));
        }
    }

    /// A file of settings was read; `needs_restart` of them are not in force.
    pub(crate) fn reloaded(&self, result: ReloadResult, needs_restart: usize) {
        let label = match result {
            ReloadResult::Applied => "applied",
            ReloadResult::Refused => "refused",
        };
        self.reloads.get_or_create(&[("result", label)]).inc();
        if result == ReloadResult::Applied {
            self.restart_needed.set(i64::from(needs_restart > 0));
        }
    }

    /// There is no enclave, so no generator either.
    pub(crate) fn rng_unknown(&self) {
        self.rng_source("");
    }

    /// New certificates are in use, or could not be.
    pub(crate) fn tls_reloaded(&self, used: bool) {
        let result = if used { "ok" } else { "failed" };
        self.tls_reload.get_or_create(&[("result", result)]).inc();
    }

    /// A client's TLS handshake led to no connection.
    pub(crate) fn tls_handshake_failed(&self, reason: &'static str) {
        self.tls_handshake_fail.get_or_create(&[("reason", reason)]).inc();
    }

    /// The text that Prometheus scrapes.
    pub(crate) fn encode(&self) -> String {
        for (enclave_id, gauge) in self.upstreams.breakers() {
            let upstream = ("upstream", "enclave".to_owned());
            let labels = vec![upstream, ("enclave_id", enclave_id)];
            self.breaker_state.get_or_create(&labels).set(gauge);
        }
        let mut out = String::with_capacity(16 * 1024);
        // Writing to a String cannot fail.
        let _ = encode(&mut out, &self.registry);
        out
    }
}

/// The label `keyspace`.
pub(crate) fn by_keyspace(keyspace: &str) -> Vec<(&'static str, String)> {
    vec![("keyspace", keyspace.to_owned())]
}

#[cfg(test)]
mod rules;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_enclave_no_generator_is_in_use() {
        let metrics = Metrics::new();
        metrics.rng_source("nsm-hwrng");
        metrics.rng_unknown();
        let text = metrics.encode();
        assert!(text.contains("rng_source{source=\"nsm-hwrng\"} 0"), "{text}");
    }

    #[test]
    fn every_method_has_its_own_counter() {
        for (index, method) in Method::ALL.into_iter().enumerate() {
            assert_eq!(method as usize, index, "{method:?}");
        }
    }

    #[test]
    fn names_are_those_of_the_contract() {
        let metrics = Metrics::new();
        metrics.answered(Method::Sign, 200);
        metrics.answered(Method::Sign, 503);
        metrics.phase(Method::Sign, Phase::Total, Duration::from_micros(250));
        metrics.unlock_failed("default", KmsErrorClass::Denied);
        metrics.unlocked("default", Duration::from_millis(80));
        metrics.unlock_required.get_or_create(&by_keyspace("default")).inc();
        metrics.unlock_retry.get_or_create(&by_keyspace("default")).inc();
        metrics.rng_source("nsm-hwrng");
        let text = metrics.encode();
        for line in [
            "http_grpc_requests_total{method=\"sign\",code=\"2xx\"} 1",
            "http_grpc_requests_total{method=\"sign\",code=\"5xx\"} 1",
            "responses_503_total 1",
            "sign_latency_ms_bucket{le=\"0.3\",phase=\"total\"} 1",
            "unlock_fail_total{keyspace=\"default\",reason=\"denied\"} 1",
            "unlock_required_total{keyspace=\"default\"} 1",
            "unlock_retry_total{keyspace=\"default\"} 1",
            "unlock_queue_depth 0",
            "rng_source{source=\"nsm-hwrng\"} 1",
            "rng_source{source=\"software\"} 0",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
