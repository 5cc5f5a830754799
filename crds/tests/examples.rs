//! Examples parse as the types, and every CEL rule has an example that it refuses.
//! That the API server really refuses them is tested with one: `operator/tests/api_refused.rs`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use sigil_crds::{EnclaveAllocation, SignerPool, SignerRing};

fn documents(text: &str) -> Vec<Value> {
    serde_yaml_ng::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).unwrap())
        .collect()
}

fn parse(document: &Value) -> Result<(), serde_json::Error> {
    let document = document.clone();
    match document["kind"].as_str() {
        Some("SignerPool") => serde_json::from_value::<SignerPool>(document).map(drop),
        Some("EnclaveAllocation") => {
            serde_json::from_value::<EnclaveAllocation>(document).map(drop)
        }
        Some("SignerRing") => serde_json::from_value::<SignerRing>(document).map(drop),
        _ => Ok(()),
    }
}

/// Messages of all CEL rules below `value`.
fn messages(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for rule in
                map.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten()
            {
                found.insert(rule["message"].as_str().expect("a rule without message").to_owned());
            }
            map.values().for_each(|child| messages(child, found));
        }
        Value::Array(items) => items.iter().for_each(|child| messages(child, found)),
        _ => {}
    }
}

#[test]
fn every_rule_has_a_refused_example() {
    let mut rules = BTreeSet::new();
    for (_, text) in sigil_crds::generate::files().unwrap() {
        messages(&serde_yaml_ng::from_str(&text).unwrap(), &mut rules);
    }
    let mut shown = BTreeSet::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/refused");
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let message = text.lines().next().and_then(|line| line.strip_prefix("# refused: "));
        let message = message.unwrap_or_else(|| panic!("{}: no `# refused: `", path.display()));
        assert!(rules.contains(message), "{}: no rule says: {message}", path.display());
        shown.insert(message.to_owned());
        for document in documents(&text) {
            parse(&document).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    }
    assert_eq!(shown, rules, "rules without an example");
}

#[test]
fn the_quick_start_parses() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart.yaml");
    let documents = documents(&fs::read_to_string(path).unwrap());
    assert!(documents.iter().any(|document| document["kind"] == "SignerPool"));
    for document in &documents {
        parse(document).unwrap();
    }
}

/// Development enclaves prove themselves with a committed key; the quick start names its root.
#[test]
fn the_quick_start_has_the_root_of_development_enclaves() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(folder.join("examples/quickstart.yaml")).unwrap();
    let documents = documents(&text);
    let pool = documents.iter().find(|document| document["kind"] == "SignerPool").unwrap();
    let pem = pool["spec"]["enclave"]["attestationRoot"].as_str().unwrap();
    let root = fs::read(folder.join("../enclave/insecure/testdata/root.der")).unwrap();
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    assert_eq!(body, base64(&root), "write root.der into the quick start as PEM");
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_usize, |group, byte| group << 8 | usize::from(*byte))
            << (8 * (3 - chunk.len()));
        for index in 0..4 {
            let six = group >> (18 - 6 * index) & 63;
            text.push(if index <= chunk.len() { char::from(ALPHABET[six]) } else { '=' });
        }
    }
    text
}
