//! `ctl verify-key`: checks offline that a key was made in, or is held by, an accepted enclave. Uses
//! no network, and for secp256k1 a library that the enclave does not use.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k256::ecdsa::signature::hazmat::PrehashVerifier;
use k256::ecdsa::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};
use sigil_enclave_client::KeyId;
use sigil_image_authoring::measurements::Measurements;
use sigil_verifier::{
    Document, Measurement, PcrAllowList, Provenance, SignedStatement, Statement, StatementKind,
    TrustRoot, verify_statement,
};

use super::checks::{DOCUMENT_CHECKS, of_statement};
use super::report::{DocumentReport, NotVerified, Refused, RootReport, finish, rfc3339};
use super::verify_attestation::{Hex, load_measurements, load_root, read};
use crate::store::sha256;

/// Arguments of `ctl verify-key`.
#[derive(clap::Args)]
pub struct Args {
    /// The answer to `create`, or to `GET /keys/{id}/attestation`, as JSON.
    file: PathBuf,
    /// Images to accept (measurements.json); may be repeated.
    #[arg(long, value_name = "FILE", required = true)]
    measurements: Vec<PathBuf>,
    /// Root certificate, PEM or DER, instead of AWS'.
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
    /// The challenge or nonce that the statement must repeat.
    #[arg(long, value_name = "HEX")]
    challenge: Option<Hex>,
    /// The public key that the statement must be about, compressed.
    #[arg(long, value_name = "HEX")]
    public_key: Option<Hex>,
    /// The keyspace that the statement must be about.
    #[arg(long)]
    keyspace: Option<String>,
    /// Accept a key, or its DEK, from an image that is not among the measurements.
    #[arg(long)]
    allow_other_birth: bool,
    /// Also verify a signature by the key over this digest.
    #[arg(long, value_name = "HEX", requires = "signature", value_parser = hex::<32>)]
    digest: Option<Box<[u8; 32]>>,
    /// The signature, compact (64 bytes).
    #[arg(long, value_name = "HEX", requires = "digest", value_parser = hex::<64>)]
    signature: Option<Box<[u8; 64]>>,
}

/// Both answers: `create` wraps the statement, `attestation` is the statement.
#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Created(Created),
    Statement(StatementJson),
}

/// An address, if there were one, would have to be checked: it is refused as unknown.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Created {
    key_id: String,
    keyspace: String,
    public_key: String,
    birth: StatementJson,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StatementJson {
    statement: String,
    signature: String,
    document_hash: String,
    document: String,
}

type Checked<T> = Result<T, Refused>;

/// A report on a good key.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    verified: bool,
    /// AWS' root; a statement of an enclave in debug mode is always refused.
    trusted: bool,
    checks: Vec<&'static str>,
    root: RootReport,
    statement: StatementReport,
    document: DocumentReport,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatementReport {
    kind: &'static str,
    app: String,
    keyspace: String,
    key_id: String,
    public_key: String,
    policy_hash: String,
    challenge: String,
    dek_id: String,
    dek_provenance: &'static str,
    dek_birth_pcr0: String,
    key_birth_pcr0: String,
    time_ms: u64,
    time: Option<String>,
}

/// Prints the report; the exit status says whether the key is good.
pub(super) fn run(args: &Args) -> ExitCode {
    if let Some(warning) = warning(args) {
        eprintln!("{warning}");
    }
    finish(check(args).map_err(|refused| NotVerified::new(refused, None)))
}

fn warning(args: &Args) -> Option<&'static str> {
    args.challenge.is_none().then_some(
        "warning: no --challenge given: an answer that was recorded earlier would be accepted too",
    )
}

fn check(args: &Args) -> Checked<Report> {
    let bytes = read(&args.file).map_err(Refused::of("file"))?;
    let (created, json) = match serde_json::from_slice(&bytes) {
        Ok(Answer::Created(Created { key_id, keyspace, public_key, birth })) => {
            (Some((key_id, keyspace, public_key)), birth)
        }
        Ok(Answer::Statement(json)) => (None, json),
        Err(_) => {
            return refused("file", "neither an answer to `create` nor a statement, as JSON");
        }
    };
    let root = load_root(args.root.as_deref()).map_err(Refused::of("root-file"))?;
    let images = Images::load(&args.measurements)?;
    let signed = signed_statement(&json)?;
    let (statement, document) = verify_statement(&signed, &root, &images.allow)
        .map_err(|error| Refused::new(of_statement(error), error.to_string()))?;
    let mut checks = Checks::of_statement();
    if let Some((key_id, keyspace, public_key)) = &created {
        checks.same("kind", statement.kind == StatementKind::Birth)?;
        checks.same("key-id", *key_id == KeyId(statement.key_id).to_string())?;
        checks.same("keyspace", *keyspace == statement.keyspace)?;
        checks.same("public-key", *public_key == const_hex::encode(statement.public_key))?;
    }
    checks.asked_for(args, &statement)?;
    let no_policy = statement.policy_hash == sha256(b"");
    let policy = "the key has a policy, and this version knows none to judge it by";
    checks.require("policy", no_policy, policy)?;
    checks.same("app", images.name_the_app(&document, &statement))?;
    if !args.allow_other_birth {
        images.check_birth(&mut checks, &statement)?;
    }
    let key = VerifyingKey::from_sec1_bytes(&statement.public_key).ok();
    checks.require("point", key.is_some(), "the public key is no point of secp256k1")?;
    if let (Some(key), Some(digest), Some(signature)) = (&key, &args.digest, &args.signature) {
        let good = signature_verifies(key, digest, signature);
        let detail = "--signature: not a low-S signature by this key over --digest";
        checks.require("secp256k1-signature", good, detail)?;
    }
    Ok(Report::new(&statement, &document, &root, checks))
}

fn signed_statement(json: &StatementJson) -> Checked<SignedStatement> {
    let hex = |field, text: &str| {
        const_hex::decode(text).or_else(|_| refused("file", &format!("`{field}` is not hex")))
    };
    let document =
        STANDARD.decode(&json.document).or_else(|_| refused("file", "`document` is not base64"))?;
    if hex("documentHash", &json.document_hash)? != sha256(&document) {
        return refused("document-hash", "`documentHash` is not the SHA-256 of `document`");
    }
    let signature = hex("signature", &json.signature)?;
    let signature =
        signature.try_into().or_else(|_| refused("file", "`signature` is not 64 bytes long"))?;
    Ok(SignedStatement { statement: hex("statement", &json.statement)?, signature, document })
}

/// The checks that passed, in their order.
struct Checks(Vec<&'static str>);

impl Checks {
    /// Those of [`verify_statement`] and of what it is given.
    fn of_statement() -> Self {
        let mut checks = vec!["document-hash"];
        checks.extend(DOCUMENT_CHECKS);
        checks.extend(["debug", "measurements", "statement-key", "statement-signature"]);
        checks.extend(["statement", "statement-time", "statement-origin"]);
        Self(checks)
    }

    fn require(&mut self, check: &'static str, good: bool, detail: &str) -> Checked<()> {
        if !good {
            return refused(check, detail);
        }
        // The answer and the caller may both name what a key must be.
        if !self.0.contains(&check) {
            self.0.push(check);
        }
        Ok(())
    }

    fn same(&mut self, check: &'static str, same: bool) -> Checked<()> {
        self.require(check, same, &format!("{check}: the statement says another"))
    }

    /// What the caller asked for.
    fn asked_for(&mut self, args: &Args, statement: &Statement) -> Checked<()> {
        if let Some(Hex(challenge)) = &args.challenge {
            self.same("challenge", *challenge == statement.challenge)?;
        }
        if let Some(Hex(public_key)) = &args.public_key {
            self.same("public-key", *public_key == statement.public_key)?;
        }
        if let Some(keyspace) = &args.keyspace {
            self.same("keyspace", *keyspace == statement.keyspace)?;
        }
        Ok(())
    }
}

/// The given measurements.
struct Images {
    files: Vec<Measurements>,
    allow: PcrAllowList,
}

impl Images {
    fn load(paths: &[PathBuf]) -> Checked<Self> {
        let load = |path: &PathBuf| load_measurements(Path::new(path));
        let files: Vec<_> = paths
            .iter()
            .map(load)
            .collect::<Result<_, _>>()
            .map_err(Refused::of("measurements-file"))?;
        let entry = |file: &Measurements| {
            let Measurements { pcr0, pcr1, pcr2, .. } = *file;
            Measurement { pcr0, pcr1, pcr2 }
        };
        let allow = PcrAllowList::new(files.iter().map(entry).collect());
        Ok(Self { files, allow })
    }

    /// The image is pinned to its app, so another one means a false measurements file.
    fn name_the_app(&self, document: &Document, statement: &Statement) -> bool {
        let own = |file: &&Measurements| Some(file.pcr0) == document.pcr(0);
        self.files.iter().find(own).is_some_and(|file| file.app == statement.app)
    }

    /// Key and DEK come from accepted images. A foreign or unproven DEK may be known to others.
    fn check_birth(&self, checks: &mut Checks, statement: &Statement) -> Checked<()> {
        let known = |pcr0| self.files.iter().any(|file| file.pcr0 == pcr0);
        let image = "the key was made in an image that is not among the measurements";
        checks.require("key-birth", known(statement.key_birth_pcr0), image)?;
        let (good, detail) = match (statement.dek_provenance, statement.kind) {
            (Provenance::Born, _) => (true, ""),
            (Provenance::Foreign, StatementKind::Possession) => (
                known(statement.dek_birth_pcr0),
                "the DEK was made in an image that is not among the measurements",
            ),
            (Provenance::Foreign, StatementKind::Birth) => {
                (false, "the key was sealed at birth under a DEK of another image")
            }
            (Provenance::Unproven, _) => (false, "no document proves who made the DEK"),
        };
        checks.require("dek-birth", good, detail)
    }
}

/// True for a signature by the key in the low-S form; the other form of the same signature is
/// refused, as the enclave never makes it.
fn signature_verifies(key: &VerifyingKey, digest: &[u8; 32], compact: &[u8; 64]) -> bool {
    Signature::from_slice(compact).is_ok_and(|signature| {
        signature.normalize_s() == signature && key.verify_prehash(digest, &signature).is_ok()
    })
}

impl Report {
    fn new(statement: &Statement, document: &Document, root: &TrustRoot, checks: Checks) -> Self {
        Self {
            verified: true,
            trusted: *root == TrustRoot::aws(),
            checks: checks.0,
            root: RootReport::new(root),
            statement: StatementReport::new(statement),
            document: DocumentReport::new(document),
        }
    }
}

impl StatementReport {
    fn new(statement: &Statement) -> Self {
        Self {
            kind: match statement.kind {
                StatementKind::Birth => "birth",
                StatementKind::Possession => "possession",
            },
            app: statement.app.clone(),
            keyspace: statement.keyspace.clone(),
            key_id: KeyId(statement.key_id).to_string(),
            public_key: const_hex::encode(statement.public_key),
            policy_hash: const_hex::encode(statement.policy_hash),
            challenge: const_hex::encode(&statement.challenge),
            dek_id: const_hex::encode(statement.dek_id),
            dek_provenance: match statement.dek_provenance {
                Provenance::Born => "born",
                Provenance::Foreign => "foreign",
                Provenance::Unproven => "unproven",
            },
            dek_birth_pcr0: const_hex::encode(statement.dek_birth_pcr0),
            key_birth_pcr0: const_hex::encode(statement.key_birth_pcr0),
            time_ms: statement.time_ms,
            time: rfc3339(statement.time_ms),
        }
    }
}

/// Exactly `N` bytes in hex, for the command line.
fn hex<const N: usize>(text: &str) -> Result<Box<[u8; N]>, String> {
    let bytes = const_hex::decode_to_array(text).map_err(|_| format!("not {N} bytes in hex"))?;
    Ok(Box::new(bytes))
}

fn refused<T>(check: &'static str, detail: &str) -> Checked<T> {
    Err(Refused::new(check, detail))
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
