//! `ctl verify-attestation`: verifies an attestation document offline and prints what was checked.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sigil_attestation::{
    Checked, Document, Measurement, PcrAllowList, TrustRoot, UserData, VerifyError, VerifyTime,
    check_allowing_debug,
};
use sigil_image_authoring::measurements::Measurements;

/// Bytes of any file read here: a document, a certificate, measurements, an answer in JSON.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Arguments of `ctl verify-attestation`.
#[derive(clap::Args)]
pub struct Args {
    /// The document: binary, or its base64 as the API gives it.
    file: PathBuf,
    /// Check certificates at this time instead of now: milliseconds since 1970.
    #[arg(long, value_name = "MS", conflicts_with = "at_document_time")]
    at: Option<u64>,
    /// Check certificates at the document's own time: for stored documents.
    #[arg(long)]
    at_document_time: bool,
    /// Root certificate, PEM or DER, instead of AWS'.
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
    /// Images to accept (measurements.json); without it, registers are printed and not judged.
    #[arg(long, value_name = "FILE")]
    measurements: Vec<PathBuf>,
    /// The nonce that the document must repeat.
    #[arg(long, value_name = "HEX")]
    nonce: Option<String>,
    /// Do not refuse an enclave in debug mode; its console, and so its secrets, can be read.
    #[arg(long)]
    allow_debug: bool,
}

/// Why a document is not accepted: a stable name and a sentence.
struct Refused {
    name: &'static str,
    detail: String,
}

/// Prints the report as JSON; the exit status says whether the document is good.
pub(super) fn run(args: &Args) -> ExitCode {
    match read(&args.file).and_then(|bytes| document_bytes(&bytes)) {
        Ok(bytes) => finish(&report(args, &bytes)),
        Err(detail) => finish(&Err((Refused { name: "file", detail }, Value::Null))),
    }
}

fn finish(report: &Result<Value, (Refused, Value)>) -> ExitCode {
    match report {
        Ok(report) => print(&format!("{report:#}\n"), ExitCode::SUCCESS),
        Err((Refused { name, detail }, document)) => {
            eprintln!("not verified: {detail}");
            let error = json!({ "name": name, "detail": detail });
            let report = json!({ "verified": false, "error": error, "unverified": document });
            print(&format!("{report:#}\n"), ExitCode::FAILURE)
        }
    }
}

/// Writes a result to standard output. A reader that went away makes it a failure, not a panic.
pub(super) fn print(text: &str, status: ExitCode) -> ExitCode {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if written.is_ok() { status } else { ExitCode::FAILURE }
}

fn report(args: &Args, bytes: &[u8]) -> Result<Value, (Refused, Value)> {
    check(args, bytes).map_err(|refused| {
        let parsed = Document::parse_unverified(bytes).ok();
        (refused, parsed.map_or(Value::Null, |document| document_json(&document)))
    })
}

fn check(args: &Args, bytes: &[u8]) -> Result<Value, Refused> {
    let input = |name| move |detail| Refused { name, detail };
    let root = load_root(args.root.as_deref()).map_err(input("root"))?;
    let images = load_images(&args.measurements).map_err(input("measurements"))?;
    let time = match (args.at_document_time, args.at) {
        (true, _) => VerifyTime::AtDocument,
        (false, at) => VerifyTime::At { now_ms: at.unwrap_or_else(now_ms) },
    };
    let checked = check_allowing_debug(bytes, &root, time)?;
    if checked.debug && !args.allow_debug {
        return Err(VerifyError::Debug.into());
    }
    let nonce = args.nonce.as_deref().map(const_hex::decode).transpose();
    let nonce = nonce.map_err(|_| Refused { name: "nonce", detail: "--nonce: not hex".into() })?;
    if nonce.is_some() && nonce != checked.document.nonce {
        return Err(VerifyError::Nonce.into());
    }
    let image = (!args.measurements.is_empty())
        .then(|| images.find(&checked.document.pcrs).ok_or_else(other_image))
        .transpose()?;
    Ok(good(&checked, nonce.is_some(), image.is_some()))
}

fn other_image() -> Refused {
    let detail = "measurements: PCR0, PCR1 and PCR2 are those of none of the given images";
    Refused { name: "measurements", detail: detail.to_owned() }
}

fn good(checked: &Checked, nonce: bool, image: bool) -> Value {
    let Checked { document, chain_time_ms, chain_certificates, root_sha256, root_is_aws, debug } =
        checked;
    json!({
        "verified": true,
        "trusted": *root_is_aws && !debug,
        "root": { "sha256": const_hex::encode(root_sha256), "aws": root_is_aws },
        "chain": { "certificates": chain_certificates, "validAtMs": chain_time_ms },
        "signature": "ES384",
        "debug": debug,
        "nonceChecked": nonce,
        "measurementsChecked": image,
        "document": document_json(document),
    })
}

/// Every field of a document.
pub(super) fn document_json(document: &Document) -> Value {
    let hex = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(const_hex::encode);
    let pcrs = document.pcrs.iter().filter(|(_, value)| **value != [0; 48]);
    let pcrs: serde_json::Map<_, _> =
        pcrs.map(|(index, value)| (index.to_string(), const_hex::encode(value).into())).collect();
    let sha256 = |der: &Vec<u8>| const_hex::encode(crate::store::sha256(der));
    json!({
        "moduleId": document.module_id,
        "timestampMs": document.timestamp_ms,
        "digest": "SHA384",
        "pcrs": pcrs,
        "certificateSha256": sha256(&document.certificate),
        "cabundleSha256": document.cabundle.iter().map(sha256).collect::<Vec<_>>(),
        "publicKey": hex(&document.public_key),
        "userData": hex(&document.user_data),
        "nonce": hex(&document.nonce),
        "sigil": document.user_data().ok().map(|data| user_data_json(&data)),
    })
}

fn user_data_json(data: &UserData) -> Value {
    match data {
        UserData::Live { boot_id } => boot_json("live", boot_id),
        UserData::Kms { boot_id } => boot_json("kms", boot_id),
        UserData::StatementKey { boot_id } => boot_json("statement-key", boot_id),
        UserData::DekBirth { dek_id, app, keyspace, kcv } => json!({
            "kind": "dek-birth",
            "dekId": const_hex::encode(dek_id),
            "app": app,
            "keyspace": keyspace,
            "kcv": const_hex::encode(kcv),
        }),
    }
}

fn boot_json(kind: &str, boot_id: &[u8; 16]) -> Value {
    json!({ "kind": kind, "bootId": const_hex::encode(boot_id) })
}

/// The root of a file, or AWS'.
pub(super) fn load_root(path: Option<&Path>) -> Result<TrustRoot, String> {
    let Some(path) = path else { return Ok(TrustRoot::aws()) };
    let bytes = read(path)?;
    TrustRoot::from_pem_or_der(&bytes).map_err(|error| format!("{}: {error}", path.display()))
}

/// What measurements.json files allow.
pub(super) fn load_images(paths: &[PathBuf]) -> Result<PcrAllowList, String> {
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

/// COSE_Sign1 begins with an array of four or with its tag; neither byte is ASCII.
fn document_bytes(bytes: &[u8]) -> Result<Vec<u8>, String> {
    if !bytes.is_ascii() {
        return Ok(bytes.to_vec());
    }
    let digits: Vec<u8> =
        bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    STANDARD.decode(digits).map_err(|_| "neither a document nor base64 of one".to_owned())
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl From<VerifyError> for Refused {
    fn from(error: VerifyError) -> Self {
        Self { name: error.name(), detail: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use sigil_enclave_image::measure::process;
    use sigil_enclave_insecure::nsm::{TestDocument, TestRoot, Validity, test_root_der};

    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    struct Bench(tempfile::TempDir);

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("root.der"), test_root_der()).unwrap();
            Self(folder)
        }

        fn args(&self) -> Args {
            Args {
                file: self.0.path().join("document"),
                at: None,
                at_document_time: true,
                root: Some(self.0.path().join("root.der")),
                measurements: Vec::new(),
                nonce: None,
                allow_debug: false,
            }
        }
    }

    fn document() -> TestDocument {
        let mut document = TestDocument::new(NOW_MS, process(b"executable", b"pins"));
        let user_data = UserData::Live { boot_id: [9; 16] }.encode();
        document.user_data(Some(&user_data)).nonce(Some(b"nonce"));
        document
    }

    fn sign(document: &TestDocument) -> Vec<u8> {
        let chain = TestRoot::committed().unwrap().issue(Validity::aws(NOW_MS)).unwrap();
        document.sign(&chain).unwrap()
    }

    fn name(args: &Args, bytes: &[u8]) -> Result<Value, &'static str> {
        report(args, bytes).map_err(|(refused, _)| refused.name)
    }

    #[test]
    fn a_good_document_is_shown_with_all_that_was_checked() {
        let bench = Bench::new();
        let bytes = sign(&document());
        let report = name(&bench.args(), &bytes).unwrap();
        assert_eq!(report["verified"], true);
        assert_eq!(report["trusted"], false, "the test root is not AWS'");
        assert_eq!(report["chain"]["certificates"], 5);
        assert_eq!(report["document"]["timestampMs"], NOW_MS);
        assert_eq!(report["document"]["sigil"]["kind"], "live");
        assert_eq!(report["document"]["nonce"], const_hex::encode("nonce"));
        assert_eq!(report["nonceChecked"], false);
        let nonce = |nonce: &str| Args { nonce: Some(nonce.to_owned()), ..bench.args() };
        let checked = name(&nonce(&const_hex::encode("nonce")), &bytes).unwrap();
        assert_eq!(checked["nonceChecked"], true);
        assert_eq!(name(&nonce("00"), &bytes), Err("nonce"));
        assert_eq!(name(&nonce("zz"), &bytes), Err("nonce"));
    }

    #[test]
    fn time_root_debug_and_images_are_judged() {
        let bench = Bench::new();
        let bytes = sign(&document());
        let at = |at| Args { at: Some(at), at_document_time: false, ..bench.args() };
        assert!(name(&at(NOW_MS), &bytes).is_ok());
        assert_eq!(name(&at(NOW_MS + 4 * 3_600_000), &bytes), Err("cert-expired"));
        assert_eq!(name(&Args { root: None, ..bench.args() }, &bytes), Err("other-root"));
        let debug = sign(document().pcrs(&[(3, [1; 48])]));
        assert_eq!(name(&bench.args(), &debug), Err("debug"));
        let shown = name(&Args { allow_debug: true, ..bench.args() }, &debug).unwrap();
        assert_eq!((&shown["debug"], &shown["trusted"]), (&true.into(), &false.into()));
        let path = bench.0.path().join("measurements.json");
        for (executable, expected) in
            [(&b"executable"[..], Ok(())), (b"other", Err("measurements"))]
        {
            let pcrs = process(executable, b"pins");
            let json = json!({
                "formatVersion": 1, "kind": "eif", "arch": "x86_64", "app": "demo",
                "pcr0": const_hex::encode(pcrs.pcr0), "pcr1": const_hex::encode(pcrs.pcr1),
                "pcr2": const_hex::encode(pcrs.pcr2), "pinsSha384": "00".repeat(48),
                "insecure": false, "kms": [],
            });
            std::fs::write(&path, json.to_string()).unwrap();
            let args = Args { measurements: vec![path.clone()], ..bench.args() };
            assert_eq!(name(&args, &bytes).map(drop), expected);
        }
    }

    #[test]
    fn a_refused_document_is_still_shown_as_unverified() {
        let bench = Bench::new();
        let mut bytes = sign(&document());
        *bytes.last_mut().unwrap() ^= 1;
        let (refused, shown) = report(&bench.args(), &bytes).unwrap_err();
        assert_eq!(refused.name, "signature");
        assert_eq!(shown["timestampMs"], NOW_MS);
        assert!(matches!(report(&bench.args(), &[0x84]), Err((_, Value::Null))));
    }

    #[test]
    fn documents_are_read_as_bytes_or_base64() {
        let bytes = sign(&document());
        assert_eq!(document_bytes(&bytes).as_ref(), Ok(&bytes));
        let mut text = STANDARD.encode(&bytes);
        text.insert(76, '\n');
        text.push('\n');
        assert_eq!(document_bytes(text.as_bytes()), Ok(bytes));
        assert!(document_bytes(b"no base64!").is_err());
    }
}
