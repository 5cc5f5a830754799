//! `ctl verify-key`: checks offline that a key was made in, or is held by, an accepted enclave. Uses
//! no network, and for secp256k1 a library that the enclave does not use.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k256::ecdsa::signature::hazmat::PrehashVerifier;
use k256::ecdsa::{Signature, VerifyingKey};
use serde::Deserialize;
use serde_json::{Value, json};
use sigil_attestation::{
    Document, Measurement, PcrAllowList, Provenance, SignedStatement, Statement, StatementKind,
    TrustRoot, verify_statement,
};
use sigil_enclave_protocol::KeyId;
use sigil_image_authoring::measurements::Measurements;

use super::verify_attestation::{document_json, load_measurements, load_root, print, read};
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
    challenge: Option<String>,
    /// The public key that the statement must be about, compressed.
    #[arg(long, value_name = "HEX")]
    public_key: Option<String>,
    /// The keyspace that the statement must be about.
    #[arg(long)]
    keyspace: Option<String>,
    /// Accept a key, or its DEK, from an image that is not among the measurements.
    #[arg(long)]
    allow_other_birth: bool,
    /// Also verify a signature by the key over this digest.
    #[arg(long, value_name = "HEX", requires = "signature")]
    digest: Option<String>,
    /// The signature, compact (64 bytes).
    #[arg(long, value_name = "HEX", requires = "digest")]
    signature: Option<String>,
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

/// Why a key is not accepted: a stable name and a sentence.
#[derive(Debug, PartialEq, Eq)]
struct Refused {
    name: &'static str,
    detail: String,
}

type Checked<T> = Result<T, Refused>;

/// Prints the report as JSON; the exit status says whether the key is good.
pub(super) fn run(args: &Args) -> ExitCode {
    if let Some(warning) = warning(args) {
        eprintln!("{warning}");
    }
    match check(args) {
        Ok(report) => print(&format!("{report:#}\n"), ExitCode::SUCCESS),
        Err(Refused { name, detail }) => {
            eprintln!("not verified: {detail}");
            let error = json!({ "name": name, "detail": detail });
            let report = json!({ "verified": false, "error": error });
            print(&format!("{report:#}\n"), ExitCode::FAILURE)
        }
    }
}

fn warning(args: &Args) -> Option<&'static str> {
    args.challenge.is_none().then_some(
        "warning: no --challenge given: an answer that was recorded earlier would be accepted too",
    )
}

fn check(args: &Args) -> Checked<Value> {
    let bytes = read(&args.file).map_err(|detail| Refused { name: "file", detail })?;
    let (created, json) = match serde_json::from_slice(&bytes) {
        Ok(Answer::Created(Created { key_id, keyspace, public_key, birth })) => {
            (Some((key_id, keyspace, public_key)), birth)
        }
        Ok(Answer::Statement(json)) => (None, json),
        Err(_) => {
            return refused("file", "neither an answer to `create` nor a statement, as JSON");
        }
    };
    let root =
        load_root(args.root.as_deref()).map_err(|detail| Refused { name: "root", detail })?;
    let images = Images::load(&args.measurements)?;
    let signed = signed_statement(&json)?;
    let (statement, document) = verify_statement(&signed, &root, &images.allow)
        .map_err(|error| Refused { name: error.name(), detail: error.to_string() })?;
    if let Some((key_id, keyspace, public_key)) = &created {
        same("kind", statement.kind == StatementKind::Birth)?;
        same("keyId", *key_id == KeyId(statement.key_id).to_string())?;
        same("keyspace", *keyspace == statement.keyspace)?;
        same("publicKey", *public_key == const_hex::encode(statement.public_key))?;
    }
    expected(args, &statement)?;
    if statement.policy_hash != sha256(b"") {
        return refused(
            "policy",
            "the key has a policy, and this version knows none to judge it by",
        );
    }
    images.check_app(&document, &statement)?;
    if !args.allow_other_birth {
        images.check_birth(&statement)?;
    }
    let key = VerifyingKey::from_sec1_bytes(&statement.public_key)
        .or_else(|_| refused("public-key", "the public key is no point of secp256k1"))?;
    let signature = signature(args, &key)?;
    Ok(report(args, &statement, &document, &root, signature))
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

/// What the caller asked for.
fn expected(args: &Args, statement: &Statement) -> Checked<()> {
    let equal = |field, given: &Option<String>, bytes: &[u8]| match given {
        None => Ok(()),
        Some(text) => same(field, const_hex::decode(text).is_ok_and(|given| given == bytes)),
    };
    equal("challenge", &args.challenge, &statement.challenge)?;
    equal("publicKey", &args.public_key, &statement.public_key)?;
    same("keyspace", args.keyspace.as_ref().is_none_or(|name| *name == statement.keyspace))
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
            .map_err(|detail| Refused { name: "measurements", detail })?;
        let entry = |file: &Measurements| {
            let Measurements { pcr0, pcr1, pcr2, .. } = *file;
            Measurement { pcr0, pcr1, pcr2 }
        };
        let allow = PcrAllowList::new(files.iter().map(entry).collect());
        Ok(Self { files, allow })
    }

    /// The image is pinned to its app, so another one means a false measurements file.
    fn check_app(&self, document: &Document, statement: &Statement) -> Checked<()> {
        let own = |file: &&Measurements| Some(file.pcr0) == document.pcr(0);
        same("app", self.files.iter().find(own).is_some_and(|file| file.app == statement.app))
    }

    /// Key and DEK come from accepted images. A foreign or unproven DEK may be known to others.
    fn check_birth(&self, statement: &Statement) -> Checked<()> {
        let known = |pcr0| self.files.iter().any(|file| file.pcr0 == pcr0);
        if !known(statement.key_birth_pcr0) {
            return refused(
                "key-birth",
                "the key was made in an image that is not among the measurements",
            );
        }
        match statement.dek_provenance {
            Provenance::Born => Ok(()),
            Provenance::Foreign if statement.kind == StatementKind::Possession => {
                if known(statement.dek_birth_pcr0) {
                    return Ok(());
                }
                refused(
                    "dek-birth",
                    "the DEK was made in an image that is not among the measurements",
                )
            }
            Provenance::Foreign => {
                refused("dek-birth", "the key was sealed at birth under a DEK of another image")
            }
            Provenance::Unproven => refused("dek-birth", "no document proves who made the DEK"),
        }
    }
}

/// Verifies `--signature` over `--digest`; only the low-S form counts.
fn signature(args: &Args, key: &VerifyingKey) -> Checked<Option<bool>> {
    let (Some(digest), Some(signature)) = (&args.digest, &args.signature) else { return Ok(None) };
    let digest = const_hex::decode_to_array::<_, 32>(digest)
        .or_else(|_| refused("digest", "--digest: not 32 bytes in hex"))?;
    let signature = const_hex::decode(signature).unwrap_or_default();
    let signature = Signature::from_slice(&signature)
        .or_else(|_| refused("secp256k1-signature", "--signature: not 64 bytes r | s in hex"))?;
    let low = signature.normalize_s() == signature;
    if low && key.verify_prehash(&digest, &signature).is_ok() {
        return Ok(Some(true));
    }
    refused("secp256k1-signature", "--signature: not a low-S signature by this key over --digest")
}

fn report(
    args: &Args,
    statement: &Statement,
    document: &Document,
    root: &TrustRoot,
    signature: Option<bool>,
) -> Value {
    json!({
        "verified": true,
        "trusted": root.is_aws(),
        "root": { "sha256": const_hex::encode(root.sha256()), "aws": root.is_aws() },
        "statement": statement_json(statement),
        "challengeChecked": args.challenge.is_some(),
        "signatureVerified": signature,
        "document": document_json(document),
    })
}

fn statement_json(statement: &Statement) -> Value {
    let kind = match statement.kind {
        StatementKind::Birth => "birth",
        StatementKind::Possession => "possession",
    };
    let provenance = match statement.dek_provenance {
        Provenance::Born => "born",
        Provenance::Foreign => "foreign",
        Provenance::Unproven => "unproven",
    };
    json!({
        "kind": kind,
        "app": statement.app,
        "keyspace": statement.keyspace,
        "keyId": KeyId(statement.key_id).to_string(),
        "publicKey": const_hex::encode(statement.public_key),
        "policyHash": const_hex::encode(statement.policy_hash),
        "challenge": const_hex::encode(&statement.challenge),
        "dekId": const_hex::encode(statement.dek_id),
        "dekProvenance": provenance,
        "dekBirthPcr0": const_hex::encode(statement.dek_birth_pcr0),
        "keyBirthPcr0": const_hex::encode(statement.key_birth_pcr0),
        "timeMs": statement.time_ms,
    })
}

fn same(field: &'static str, same: bool) -> Checked<()> {
    if same { Ok(()) } else { refused(field, &format!("{field}: the statement says another")) }
}

fn refused<T>(name: &'static str, detail: &str) -> Checked<T> {
    Err(Refused { name, detail: detail.to_owned() })
}

#[cfg(test)]
mod tests;
