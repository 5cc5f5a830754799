//! Lines of the audit. Their fields are listed in `docs/audit.md`.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// Bytes of the longest line: names of Kubernetes and of certificates, ids and details are all bounded
/// far below.
pub(super) const LINE_BYTES_MAX: usize = 4 * 1024;

/// One request, or one item of a batch or a stream.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    /// As the answer has it.
    pub(crate) request_id: &'a str,
    /// Who asked.
    pub(crate) caller: &'a str,
    /// `create`, `sign`, `list`, `read`.
    pub(crate) verb: &'static str,
    /// If it was found.
    pub(crate) keyspace: Option<&'a str>,
    /// Of Sigil's key.
    pub(crate) key_id: Option<&'a str>,
    /// First half of the SHA-256 of what was signed, hex.
    pub(crate) digest_hash: Option<&'a str>,
    /// `OK`, the error's name, or `CUT` if nobody waited for the end.
    pub(crate) outcome: &'static str,
    /// The unlock that the answer named.
    pub(crate) unlock_request_id: Option<&'a str>,
}

/// One call of KMS (row U5).
#[derive(Debug, Serialize)]
pub(crate) struct UnlockCall<'a> {
    /// ARN of the KMS key.
    #[serde(rename = "keyID")]
    pub(crate) kms_key_arn: &'a str,
    /// The action.
    pub(crate) kms_op: &'static str,
    /// SHA-256 of the attestation document that KMS was shown, hex.
    pub(crate) attestation_hash: &'a str,
    /// The DEK, hex.
    pub(crate) dek_id: &'a str,
    /// The DEK's keyspace.
    pub(crate) keyspace: &'a str,
    /// The key whose request asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) signing_key_id: Option<&'a str>,
    /// The job.
    pub(crate) unlock_request_id: &'a str,
    /// `ok` or the class of the error.
    pub(crate) result: &'static str,
}

/// What every line begins with.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<T> {
    stream: &'static str,
    event: &'static str,
    time_ms: u64,
    #[serde(flatten)]
    rest: T,
}

#[derive(Serialize)]
struct Gap {
    dropped: u64,
}

// === impl Entry ===

impl Entry<'_> {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        // By hand: the path of every signature. Texts that callers choose are plain, or escaped here.
        out.extend_from_slice(b"{\"stream\":\"audit\",\"event\":\"request\",\"timeMs\":");
        // Writing to a Vec cannot fail.
        let _ = write!(out, "{}", now_ms());
        let fields = [
            ("requestId", Some(self.request_id)),
            ("caller", Some(self.caller)),
            ("verb", Some(self.verb)),
            ("keyspace", self.keyspace),
            ("keyID", self.key_id),
            ("digestHash", self.digest_hash),
            ("outcome", Some(self.outcome)),
            ("unlockRequestId", self.unlock_request_id),
        ];
        for (name, value) in fields {
            let Some(value) = value else { continue };
            out.extend_from_slice(b",\"");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            if value
                .bytes()
                .all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\')
            {
                out.push(b'"');
                out.extend_from_slice(value.as_bytes());
                out.push(b'"');
            } else {
                let _ = serde_json::to_writer(&mut *out, value);
            }
        }
        out.push(b'}');
    }
}

// === impl UnlockCall ===

impl UnlockCall<'_> {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        write_line(out, "unlock_audit", self);
    }
}

/// Says how many lines are missing here.
pub(super) fn write_gap(out: &mut Vec<u8>, dropped: u64) {
    write_line(out, "gap", Gap { dropped });
    out.push(b'\n');
}

fn write_line<T: Serialize>(out: &mut Vec<u8>, event: &'static str, rest: T) {
    let line = Line { stream: "audit", event, time_ms: now_ms(), rest };
    // Writing texts and numbers to a Vec cannot fail.
    let _ = serde_json::to_writer(out, &line);
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
