//! Rules that types do not express. Each message names the path, the reason and the fix.

use sigil_enclave_protocol::bounds::NAME_BYTES_MAX;

use super::{Config, ListenAddress, Measurement};

const PCR_HEX_DIGITS: usize = 96;
/// Keyspaces of one member; each has its own DEKs to unlock at every boot.
const KEYSPACES_MAX: usize = 256;
const WORKERS_MAX: usize = 256;

impl Config {
    pub(super) fn validate(&self, errors: &mut Vec<String>) {
        self.validate_listeners(errors);
        self.validate_enclave(errors);
        self.validate_kms(errors);
        self.validate_keyspaces(errors);
        self.pool.validate(errors);
        self.cache.validate(errors);
        self.admission.validate(errors);
        self.outbound.validate(errors);
        self.auth.tokens.validate(self.member.as_ref(), errors);
        self.access.validate(self, errors);
        self.validate_unlock(errors);
        self.reseal.validate(errors);
        self.routing.validate((self.member.as_ref(), &self.listeners.tls), errors);
        let mut bound = |path: &str, value: usize, low: usize, high: usize| {
            if !(low..=high).contains(&value) {
                errors.push(format!("{path}: {value} is not in {low}..={high}"));
            }
        };
        bound("workers", self.workers, 0, WORKERS_MAX);
        bound("limits.bodyBytesMax", self.limits.body_bytes_max, 1_024, 1 << 20);
        self.store.validate(errors);
        if self.limits.request_timeout_ms == 0 {
            errors.push("limits.requestTimeoutMs: must be at least 1".to_owned());
        }
    }

    fn validate_listeners(&self, errors: &mut Vec<String>) {
        let listeners = &self.listeners;
        listeners.tls.validate(&listeners.public, self.auth.tokens.enabled, errors);
        if let ListenAddress::Tcp(address) = &listeners.admin
            && !address.ip().is_loopback()
        {
            errors.push(format!(
                "listeners.admin: {address} is not a loopback address; callers are not \
                 authenticated there in this version, so use 127.0.0.1, [::1] or unix:/path"
            ));
        }
    }

    fn validate_enclave(&self, errors: &mut Vec<String>) {
        let enclave = &self.enclave;
        if enclave.measurements.is_empty() && enclave.measurements_file.is_none() {
            errors.push(
                "enclave.measurements: name at least one image, here or with \
                 enclave.measurementsFile"
                    .to_owned(),
            );
        }
        validate_images("enclave.measurements", &enclave.measurements, errors);
        validate_images("enclave.retiredMeasurements", &enclave.retired_measurements, errors);
        let handoff = enclave.handoff.as_str();
        if handoff == "@" || !(handoff.starts_with('@') || handoff.starts_with('/')) {
            errors.push("enclave.handoff: expected @name or an absolute path".to_owned());
        }
        if enclave.attestation_root != "aws" && !enclave.attestation_root.starts_with('/') {
            errors.push(
                "enclave.attestationRoot: expected `aws` or the absolute path of a certificate"
                    .to_owned(),
            );
        }
    }

    fn validate_kms(&self, errors: &mut Vec<String>) {
        let kms = &self.kms;
        if kms.region.is_empty() {
            errors.push("kms.region: required; there is no signing without KMS".to_owned());
        }
        if let Some(arn) = &kms.key_arn {
            let mut parts = arn.split(':');
            let kind = (parts.next(), parts.nth(1), parts.next(), parts.nth(1));
            let fits = matches!(
                kind,
                (Some("arn"), Some("kms"), Some(region), Some(resource))
                    if region == kms.region && resource.starts_with("key/")
            );
            if !fits {
                errors.push(format!(
                    "kms.keyArn: `{arn}` is not the ARN of a KMS key (not an alias) in region `{}`",
                    kms.region
                ));
            }
        }
        if let Some(address) = &kms.address {
            let port = address.rsplit_once(':').and_then(|(host, port)| {
                (!host.is_empty()).then(|| port.parse::<u16>().ok()).flatten()
            });
            if port.is_none() {
                errors.push(format!("kms.address: `{address}` is not host:port"));
            }
        }
    }

    fn validate_keyspaces(&self, errors: &mut Vec<String>) {
        let names = &self.keyspaces.0;
        if names.is_empty() || names.len() > KEYSPACES_MAX {
            errors.push(format!("keyspaces: expected 1 to {KEYSPACES_MAX} names"));
        }
        for (index, name) in names.iter().enumerate() {
            if !keyspace_name_is_valid(name) {
                errors.push(format!(
                    "keyspaces[{index}]: `{name}`: expected 1-{NAME_BYTES_MAX} of a-z 0-9 - . _, \
                     the first alphanumeric"
                ));
            }
            if names.iter().take(index).any(|other| other == name) {
                errors.push(format!("keyspaces[{index}]: `{name}` is named twice"));
            }
        }
    }

    fn validate_unlock(&self, errors: &mut Vec<String>) {
        let unlock = &self.unlock;
        let mut bound = |path: &str, value: u64, low: u64, high: u64| {
            if !(low..=high).contains(&value) {
                errors.push(format!("unlock.{path}: {value} is not in {low}..={high}"));
            }
        };
        bound("queueDepthMax", unlock.queue_depth_max as u64, 1, 65_536);
        bound("workers", unlock.workers as u64, 1, 64);
        bound("ratePerSecondMax", unlock.rate_per_second_max.into(), 0, 10_000);
        bound("queueTimeMaxMs", unlock.queue_time_max_ms, 1, 3_600_000);
        bound("attemptsMax", unlock.attempts_max.into(), 1, 10);
        bound("backoffMinMs", unlock.backoff_min_ms, 1, unlock.backoff_max_ms);
        bound("backoffMaxMs", unlock.backoff_max_ms, 1, 60_000);
        bound("recoveryMs", unlock.recovery_ms, 1, 300_000);
        bound("retryAfterMinMs", unlock.retry_after_min_ms, 1, unlock.retry_after_max_ms);
        bound("retryAfterMaxMs", unlock.retry_after_max_ms, 1, 60_000);
        bound("connectTimeoutMs", unlock.connect_timeout_ms, 1, unlock.attempt_timeout_ms);
        bound("attemptTimeoutMs", unlock.attempt_timeout_ms, 1, unlock.operation_timeout_ms);
        // A begun unlock lives 10 s in the enclave.
        bound("operationTimeoutMs", unlock.operation_timeout_ms, 1, 10_000);
    }
}

fn validate_images(path: &str, images: &[Measurement], errors: &mut Vec<String>) {
    for (index, image) in images.iter().enumerate() {
        for (name, value) in [("pcr0", &image.pcr0), ("pcr1", &image.pcr1), ("pcr2", &image.pcr2)] {
            let hex =
                value.len() == PCR_HEX_DIGITS && value.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !hex {
                errors
                    .push(format!("{path}[{index}].{name}: expected {PCR_HEX_DIGITS} hex digits"));
            } else if value.bytes().all(|byte| byte == b'0') {
                errors.push(format!(
                    "{path}[{index}].{name}: zeros are the measurement of every debug enclave and \
                     are refused"
                ));
            }
        }
    }
}

/// The rule of `docs/formats.md` for keyspace names.
pub(crate) fn keyspace_name_is_valid(name: &str) -> bool {
    let bytes = name.as_bytes();
    let allowed = |byte: &u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b'_')
    };
    (1..=NAME_BYTES_MAX).contains(&bytes.len())
        && bytes.iter().all(allowed)
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
}
