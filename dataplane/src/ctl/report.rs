//! What `verify-attestation` and `verify-key` print: one JSON object on standard output whether all
//! is well or not, with members in the order of these types. `docs/formats.md` has the names.

use std::collections::BTreeMap;
use std::process::ExitCode;

use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use sigil_verifier::{Document, TrustRoot, UserData};

use crate::store::sha256;

/// Which check failed, and how.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) check: &'static str,
    pub(super) detail: String,
}

/// A report that nothing is good.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NotVerified {
    verified: bool,
    failed_check: &'static str,
    detail: String,
    /// What the document says, of which nothing may be believed.
    #[serde(skip_serializing_if = "Option::is_none")]
    unverified: Option<Box<DocumentReport>>,
}

/// The root of a chain.
#[derive(Serialize)]
pub(super) struct RootReport {
    sha256: String,
    aws: bool,
}

/// Every field of a document.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DocumentReport {
    module_id: String,
    timestamp_ms: u64,
    timestamp: Option<String>,
    digest: &'static str,
    pcrs: BTreeMap<u8, String>,
    certificate_sha256: String,
    cabundle_sha256: Vec<String>,
    public_key: Option<String>,
    user_data: Option<String>,
    nonce: Option<String>,
    sigil: Option<UserDataReport>,
}

/// User data of Sigil's own.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "camelCase")]
enum UserDataReport {
    Live { boot_id: String },
    Kms { boot_id: String },
    StatementKey { boot_id: String },
    DekBirth { dek_id: String, app: String, keyspace: String, kcv: String },
}

/// Prints a report; the exit status says whether all is well.
pub(super) fn finish(report: Result<impl Serialize, NotVerified>) -> ExitCode {
    let (text, status) = match report {
        Ok(report) => (serde_json::to_string_pretty(&report), ExitCode::SUCCESS),
        Err(report) => {
            eprintln!("not verified: {}", report.detail);
            (serde_json::to_string_pretty(&report), ExitCode::FAILURE)
        }
    };
    match text {
        Ok(text) => print(&format!("{text}\n"), status),
        Err(_) => ExitCode::FAILURE,
    }
}

/// Writes a result to standard output. A reader that went away makes it a failure, not a panic.
pub(super) fn print(text: &str, status: ExitCode) -> ExitCode {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if written.is_ok() { status } else { ExitCode::FAILURE }
}

/// RFC 3339 in UTC; none for years that it cannot write.
pub(super) fn rfc3339(ms: u64) -> Option<String> {
    let timestamp = Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?;
    Some(timestamp.to_string())
}

impl Refused {
    pub(super) fn new(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, detail: detail.into() }
    }

    /// For `map_err` where reading a file of the caller's fails.
    pub(super) fn of(check: &'static str) -> impl Fn(String) -> Self {
        move |detail| Self { check, detail }
    }
}

impl NotVerified {
    pub(super) fn new(refused: Refused, unverified: Option<&Document>) -> Self {
        let Refused { check, detail } = refused;
        let unverified = unverified.map(DocumentReport::new).map(Box::new);
        Self { verified: false, failed_check: check, detail, unverified }
    }
}

impl RootReport {
    pub(super) fn new(root: &TrustRoot) -> Self {
        Self { sha256: hash(root.der()), aws: *root == TrustRoot::aws() }
    }
}

impl DocumentReport {
    pub(super) fn new(document: &Document) -> Self {
        let hex = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(const_hex::encode);
        let pcrs = document.pcrs.iter();
        Self {
            module_id: document.module_id.clone(),
            timestamp_ms: document.timestamp_ms,
            timestamp: rfc3339(document.timestamp_ms),
            digest: "SHA384",
            pcrs: pcrs.map(|(index, value)| (index, const_hex::encode(value))).collect(),
            certificate_sha256: hash(&document.certificate),
            cabundle_sha256: document.cabundle.iter().map(|der| hash(der)).collect(),
            public_key: hex(&document.public_key),
            user_data: hex(&document.user_data),
            nonce: hex(&document.nonce),
            sigil: document.user_data().ok().map(UserDataReport::new),
        }
    }
}

impl UserDataReport {
    fn new(data: UserData) -> Self {
        let hex = |id: [u8; 16]| const_hex::encode(id);
        match data {
            UserData::Live { boot_id } => Self::Live { boot_id: hex(boot_id) },
            UserData::Kms { boot_id } => Self::Kms { boot_id: hex(boot_id) },
            UserData::StatementKey { boot_id } => Self::StatementKey { boot_id: hex(boot_id) },
            UserData::DekBirth { dek_id, app, keyspace, kcv } => {
                Self::DekBirth { dek_id: hex(dek_id), app, keyspace, kcv: const_hex::encode(kcv) }
            }
        }
    }
}

fn hash(der: &[u8]) -> String {
    const_hex::encode(sha256(der))
}
