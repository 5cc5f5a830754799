//! The line that a request leaves (row G6): failures at a level that is on by default, successes at
//! `debug`. What a field takes to find is only looked for when the line is written.

use std::time::Duration;

use tracing::Level;

use crate::app::App;
use crate::error::Error;
use crate::metrics::Method;

/// Which of the programs of a pod writes.
const PROXY_NAME: &str = "sigil-dataplane";

/// What the process was like when the request ended.
struct Around {
    /// The breaker of the enclaves that admits least.
    circuit_state: &'static str,
    /// Requests in flight. Without `admission.maxConcurrent` nobody counts them.
    concurrent_count: Option<u32>,
}

/// One line. The audit of who may do what begins with authentication; here every `create` leaves a line.
pub(super) fn request(
    app: &App,
    (method, face): (Method, &'static str),
    request_id: &str,
    took: Duration,
    error: Option<&Error>,
) {
    match error {
        Some(error) if tracing::enabled!(Level::INFO) => {
            failure(&around(app), (method, face), request_id, took, error);
        }
        None if method == Method::Create => {
            let (took_ms, method) = (ms(took), method.as_str());
            let Around { circuit_state, concurrent_count } = around(app);
            tracing::info!(
                target: "sigil_dataplane::audit", proxy_name = PROXY_NAME, request_id, method, face,
                took_ms, status_code = 200, circuit_state, concurrent_count, "request"
            );
        }
        None if tracing::enabled!(Level::DEBUG) => {
            let (took_ms, method) = (ms(took), method.as_str());
            let Around { circuit_state, concurrent_count } = around(app);
            tracing::debug!(
                proxy_name = PROXY_NAME,
                request_id,
                method,
                face,
                took_ms,
                status_code = 200,
                circuit_state,
                concurrent_count,
                "request"
            );
        }
        _ => {}
    }
}

fn failure(
    around: &Around,
    (method, face): (Method, &'static str),
    request_id: &str,
    took: Duration,
    error: &Error,
) {
    let upstream = Duration::from_micros(error.upstream_us.into()).min(took);
    tracing::info!(
        proxy_name = PROXY_NAME,
        request_id,
        method = method.as_str(),
        face,
        took_ms = ms(took),
        upstream_latency_ms = ms(upstream),
        proxy_latency_ms = ms(took.saturating_sub(upstream)),
        status_code = error.status(),
        circuit_state = around.circuit_state,
        concurrent_count = around.concurrent_count,
        code = error.code.row().name,
        field = error.field.as_deref(),
        detail = &*error.detail,
        internal = error.internal,
        unlock_request_id = error.unlock_request_id,
        "request refused"
    );
}

fn around(app: &App) -> Around {
    let circuit_state = match app.metrics.upstreams.breaker() {
        0 => "Admitting",
        1 => "Probing",
        _ => "Shut",
    };
    let admission = &app.guards.admission;
    Around { circuit_state, concurrent_count: admission.free().map(|_| admission.in_flight()) }
}

/// Milliseconds with three decimals.
#[allow(clippy::cast_precision_loss, reason = "exact up to 285 years")]
fn ms(took: Duration) -> f64 {
    took.as_micros() as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::error::Code;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_failures_line_has_the_fields_of_the_contract() {
        let (lines, around) =
            (Lines::default(), Around { circuit_state: "Shut", concurrent_count: Some(3) });
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
        let error = Error { upstream_us: 2_500, ..Error::new(Code::EnclaveUnavailable, "away") };
        tracing::subscriber::with_default(subscriber, || {
            let took = Duration::from_millis(4);
            failure(&around, (Method::Sign, "http"), "r-1", took, &error);
        });
        let line: serde_json::Value = serde_json::from_slice(&lines.0.lock().unwrap()).unwrap();
        for (field, value) in [
            ("proxy_name", "sigil-dataplane".into()),
            ("upstream_latency_ms", 2.5.into()),
            ("proxy_latency_ms", 1.5.into()),
            ("status_code", 503.into()),
            ("circuit_state", "Shut".into()),
            ("concurrent_count", 3.into()),
            ("request_id", "r-1".into()),
        ] {
            let wanted: serde_json::Value = value;
            assert_eq!(line["fields"][field], wanted, "{field}: {line}");
        }
    }

    #[test]
    fn times_in_the_log_are_whole_microseconds() {
        assert_eq!(ms(Duration::from_nanos(248_131)).to_string(), "0.248");
        assert_eq!(ms(Duration::from_micros(1_000_001)).to_string(), "1000.001");
    }
}
