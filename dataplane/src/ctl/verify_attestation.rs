//! `ctl verify-attestation`: verifies an attestation document offline and prints what was checked.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use sigil_image_authoring::measurements::Measurements;
use sigil_verifier::{
    Checked, Document, LiveError, Measurement, PcrAllowList, TrustRoot, VerifyError, VerifyTime,
    check_age, check_allowing_debug, root_from_pem_or_der,
};

use super::checks::{DOCUMENT_CHECKS, of_live};
pub(super) use super::report::print;
use super::report::{DocumentReport, NotVerified, Refused, RootReport, finish, rfc3339};

/// Bytes of any file read here: a document, a certificate, measurements, an answer in JSON.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Arguments of `ctl verify-attestation`.
#[derive(clap::Args)]
pub struct Args {
    /// The document, binary, as the NSM gives it.
    file: PathBuf,
    /// Check certificates at this time instead of now: RFC 3339, or milliseconds since 1970.
    #[arg(long, value_name = "TIME", conflicts_with = "at_document_time")]
    at: Option<Time>,
    /// Check certificates at the document's own time: for stored documents.
    #[arg(long)]
    at_document_time: bool,
    /// Refuse a document that is older than this at the time of the check, or from its future.
    #[arg(long, value_name = "SECONDS", conflicts_with = "at_document_time")]
    max_age: Option<u32>,
    /// Root certificate, PEM or DER, instead of AWS'.
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
    /// Images to accept (measurements.json); without it, registers are printed and not judged.
    #[arg(long, value_name = "FILE")]
    measurements: Vec<PathBuf>,
    /// The nonce that the document must repeat.
    #[arg(long, value_name = "HEX")]
    nonce: Option<Hex>,
    /// Do not refuse an enclave in debug mode; its console, and so its secrets, can be read.
    #[arg(long)]
    allow_debug: bool,
}

/// A point in time, milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Time(u64);

/// Bytes that are written in hex, with or without 0x; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hex(pub(super) Vec<u8>);

/// A report on a good document.
#[derive(Serialize)]
struct Report {
    verified: bool,
    /// AWS' root, and no debug mode.
    trusted: bool,
    checks: Vec<&'static str>,
    root: RootReport,
    chain: ChainReport,
    signature: &'static str,
    debug: bool,
    document: DocumentReport,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ChainReport {
    /// From the leaf to the root, both counted.
    certificates: usize,
    valid_at_ms: u64,
    valid_at: Option<String>,
}

/// Prints the report; the exit status says whether the document is good.
pub(super) fn run(args: &Args) -> ExitCode {
    finish(report(args))
}

fn report(args: &Args) -> Result<Report, NotVerified> {
    let bytes = read_document(&args.file).map_err(|refused| NotVerified::new(refused, None))?;
    check(args, &bytes).map_err(|refused| {
        NotVerified::new(refused, Document::parse_unverified(&bytes).ok().as_ref())
    })
}

fn check(args: &Args, bytes: &[u8]) -> Result<Report, Refused> {
    let root = load_root(args.root.as_deref()).map_err(Refused::of("root-file"))?;
    let images = load_images(&args.measurements).map_err(Refused::of("measurements-file"))?;
    let now_ms = args.at.map_or_else(now_ms, |Time(ms)| ms);
    let time =
        if args.at_document_time { VerifyTime::AtDocument } else { VerifyTime::At { now_ms } };
    let checked = check_allowing_debug(bytes, &root, time).map_err(LiveError::from)?;
    let mut checks = DOCUMENT_CHECKS.to_vec();
    if !args.allow_debug {
        checks.push("debug");
        if checked.document.is_debug() {
            return Err(LiveError::from(VerifyError::Debug).into());
        }
    }
    if let Some(seconds) = args.max_age {
        checks.extend(["future", "age"]);
        check_age(checked.document.timestamp_ms, now_ms, u64::from(seconds) * 1_000)?;
    }
    if let Some(Hex(nonce)) = &args.nonce {
        checks.push("nonce");
        if checked.document.nonce.as_ref() != Some(nonce) {
            return Err(LiveError::Nonce.into());
        }
    }
    if !args.measurements.is_empty() {
        checks.push("measurements");
        if !images.allows(&checked.document.pcrs) {
            let detail = "measurements: PCR0, PCR1 and PCR2 are those of none of the given images";
            return Err(Refused::new("measurements", detail));
        }
    }
    Ok(Report::new(&checked, &root, checks))
}

impl Report {
    fn new(checked: &Checked, root: &TrustRoot, checks: Vec<&'static str>) -> Self {
        let Checked { document, chain_time_ms } = checked;
        let debug = document.is_debug();
        Self {
            verified: true,
            trusted: *root == TrustRoot::aws() && !debug,
            checks,
            root: RootReport::new(root),
            chain: ChainReport {
                // The bundle is the path and nothing else.
                certificates: document.cabundle.len() + 1,
                valid_at_ms: *chain_time_ms,
                valid_at: rfc3339(*chain_time_ms),
            },
            signature: "ES384",
            debug,
            document: DocumentReport::new(document),
        }
    }
}

/// The root of a file, or AWS'.
pub(super) fn load_root(path: Option<&Path>) -> Result<TrustRoot, String> {
    let Some(path) = path else { return Ok(TrustRoot::aws()) };
    let bytes = read(path)?;
    root_from_pem_or_der(&bytes).map_err(|error| format!("{}: {error}", path.display()))
}

/// What measurements.json files allow.
fn load_images(paths: &[PathBuf]) -> Result<PcrAllowList, String> {
    let images = paths.iter().map(|path| {
        let Measurements { pcr0, pcr1, pcr2, .. } = load_measurements(path)?;
        Ok(Measurement { pcr0, pcr1, pcr2 })
    });
    images.collect::<Result<_, String>>().map(PcrAllowList::new)
}

/// One measurements.json.
pub(super) fn load_measurements(path: &Path) -> Result<Measurements, String> {
    let error = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = String::from_utf8(read(path)?).map_err(|_| error(&"not text"))?;
    Measurements::from_json(&text).map_err(|e| error(&e))
}

/// A file of bounded length.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read;
    let error = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(error)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(error)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("{}: longer than {FILE_BYTES_MAX} bytes", path.display()));
    }
    Ok(bytes)
}

/// A document as it is: COSE_Sign1 begins with an array of four or with its tag, and neither byte is
/// ASCII. Text is not guessed at, so that what was verified is always the file itself.
fn read_document(path: &Path) -> Result<Vec<u8>, Refused> {
    let bytes = read(path).map_err(Refused::of("file"))?;
    if bytes.is_empty() || !bytes.is_ascii() {
        return Ok(bytes);
    }
    let path = path.display();
    let detail = format!(
        "{path}: text, and a document is binary: decode it first, base64 with `base64 -d {path}`, \
         hex with `xxd -r -p {path}`"
    );
    Err(Refused::new("file", detail))
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl FromStr for Time {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "not RFC 3339 (2026-06-30T00:33:40Z) nor milliseconds since 1970";
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().map(Self).map_err(|_| WRONG);
        }
        let timestamp: Timestamp = text.parse().map_err(|_| WRONG)?;
        u64::try_from(timestamp.as_millisecond()).map(Self).map_err(|_| WRONG)
    }
}

impl FromStr for Hex {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match const_hex::decode(text) {
            Ok(bytes) if !bytes.is_empty() => Ok(Self(bytes)),
            _ => Err("not hex of at least one byte"),
        }
    }
}

impl From<LiveError> for Refused {
    fn from(error: LiveError) -> Self {
        Self::new(of_live(error), error.to_string())
    }
}

#[cfg(test)]
mod tests;
