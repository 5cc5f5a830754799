//! The generated files are current, and every field in them is bounded and described.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

fn folder(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn schemas() -> Vec<(String, Value)> {
    sigil_crds::generate::files()
        .unwrap()
        .into_iter()
        .map(|(name, text)| {
            let crd: Value = serde_yaml_ng::from_str(&text).unwrap();
            (name.to_owned(), crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone())
        })
        .collect()
}

/// Calls `check` with the path of each schema node.
fn walk(path: &str, schema: &Value, check: &mut impl FnMut(&str, &Value)) {
    check(path, schema);
    for (name, child) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), child, check);
    }
    for key in ["items", "additionalProperties"] {
        if schema[key].is_object() {
            walk(&format!("{path}[]"), &schema[key], check);
        }
    }
}

#[test]
fn generated_files_are_current() {
    for target in ["generated", "../charts/sigil/files/crds"] {
        let files = sigil_crds::generate::files().unwrap();
        for (name, content) in &files {
            let found = fs::read_to_string(folder(target).join(name)).unwrap_or_default();
            assert_eq!(
                &found, content,
                "{target}/{name} is old: run `cargo run -p sigil-crds --bin crdgen`"
            );
        }
        assert_eq!(fs::read_dir(folder(target)).unwrap().count(), files.len(), "{target}");
    }
}

#[test]
fn every_field_is_bounded_and_described() {
    let mut wrong = Vec::new();
    for (name, schema) in schemas() {
        walk(&name, &schema, &mut |path, node| {
            let bounded = match node["type"].as_str() {
                Some("string") => node["maxLength"].is_u64() || node["enum"].is_array(),
                Some("array") => node["maxItems"].is_u64(),
                Some("integer") => {
                    node["format"] == "int64"
                        || node["maximum"].is_i64()
                        || path.contains(".status.")
                }
                Some("object") => node["properties"].is_object() || node["maxProperties"].is_u64(),
                Some("boolean") => true,
                other => {
                    wrong.push(format!("{path}: unexpected type {other:?}"));
                    true
                }
            };
            if !bounded {
                wrong.push(format!("{path}: no upper bound"));
            }
            if !path.ends_with("[]") && node["description"].as_str().is_none_or(str::is_empty) {
                wrong.push(format!("{path}: no description"));
            }
        });
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn lists_have_no_defaults_and_nothing_is_nullable() {
    for (name, schema) in schemas() {
        walk(&name, &schema, &mut |path, node| {
            assert!(node["nullable"].is_null(), "{path} is nullable");
            assert!(node["default"].is_null() || !path.contains("[]"), "{path} has a default");
        });
    }
}

/// `kubectl get sp` fits into a terminal of 120 columns for names and reasons as they occur.
#[test]
fn signer_pools_fit_into_120_columns() {
    let widths = [
        ("Ready", "Unknown".len()),
        ("Reason", "MeasurementsUnknown".len()),
        ("Active", 3),
        ("Desired", 3),
        ("Epoch", 6),
        ("Trusted", "Unknown".len()),
        ("Age", 6),
    ];
    let files = sigil_crds::generate::files().unwrap();
    let crd: Value = serde_yaml_ng::from_str(&files[0].1).unwrap();
    let columns = crd["spec"]["versions"][0]["additionalPrinterColumns"].as_array().unwrap();
    let mut total = 40; // the name
    for column in columns.iter().filter(|column| column["priority"].as_i64().unwrap_or(0) == 0) {
        let name = column["name"].as_str().unwrap();
        let (_, width) = widths.iter().find(|(known, _)| *known == name).unwrap();
        total += 3 + name.len().max(*width);
    }
    assert!(total <= 120, "{total}");
}
