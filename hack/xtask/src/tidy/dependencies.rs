//! Which crate may depend on which, and what the trusted base is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::repo;

/// Normal dependencies among our own crates. What is absent is forbidden.
const ALLOWED: [(&str, &[&str]); 12] = [
    ("sigil-crds", &[]),
    ("sigil-enclave-protocol", &[]),
    ("sigil-attestation", &[]),
    ("sigil-enclave-image", &[]),
    ("sigil-verifier", &["sigil-attestation"]),
    ("sigil-enclave-client", &["sigil-enclave-protocol"]),
    ("sigil-image-authoring", &["sigil-enclave-image"]),
    ("sigil-launcher", &["sigil-enclave-client", "sigil-enclave-protocol"]),
    ("sigil-operator", &["sigil-crds", "sigil-image-authoring"]),
    (
        "sigil-dataplane",
        &[
            "sigil-crds",
            "sigil-enclave-client",
            "sigil-enclave-image",
            "sigil-enclave-protocol",
            "sigil-image-authoring",
            "sigil-verifier",
        ],
    ),
    ("sigil-enclave", &["sigil-attestation", "sigil-enclave-image", "sigil-enclave-protocol"]),
    (
        "sigil-enclave-insecure",
        &[
            "sigil-enclave",
            "sigil-enclave-client",
            "sigil-enclave-image",
            "sigil-enclave-protocol",
            "sigil-image-authoring",
        ],
    ),
];

/// What no production binary may reach.
const DEVELOPMENT_ONLY: &str = "sigil-enclave-insecure";
const PRODUCTION: [&str; 4] =
    ["sigil-dataplane", "sigil-enclave", "sigil-launcher", "sigil-operator"];
/// Crates that the enclave's dependency tree may not hold: Kubernetes, AWS, other TLS stacks.
const BANNED_IN_ENCLAVE: [&str; 9] = [
    "aws-config",
    "aws-sdk-kms",
    "aws-sigv4",
    "axum",
    "kube",
    "openssl",
    "reqwest",
    "ring",
    "tracing-subscriber",
];
/// Reasons for each direct dependency of the enclave, one table row each.
const REASONS: &str = "enclave/DEPENDENCIES.md";

pub(super) fn check(metadata: &Value) -> Result<Vec<String>> {
    let graph = Graph::read()?;
    let mut findings = Vec::new();
    findings.extend(direction(&graph));
    for package in PRODUCTION {
        if graph.reaches(package, DEVELOPMENT_ONLY) {
            findings.push(format!("{package} reaches {DEVELOPMENT_ONLY}"));
        }
    }
    findings.extend(
        BANNED_IN_ENCLAVE
            .iter()
            .filter(|banned| graph.reaches("sigil-enclave", banned))
            .map(|banned| format!("sigil-enclave reaches {banned}")),
    );
    findings.extend(reasons(&graph)?);
    findings.extend(lints(metadata)?);
    Ok(findings)
}

/// Normal dependencies of our packages, each resolved alone, as it is built for an image.
struct Graph {
    direct: BTreeMap<String, BTreeSet<String>>,
    reachable: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    /// Asks `cargo tree`: `cargo metadata` also lists optional dependencies that nobody turned on.
    fn read() -> Result<Self> {
        let mut graph = Self { direct: BTreeMap::new(), reachable: BTreeMap::new() };
        for (package, _) in ALLOWED {
            graph.direct.insert(package.to_owned(), tree(package, &["--depth", "1"])?);
            graph.reachable.insert(package.to_owned(), tree(package, &[])?);
        }
        Ok(graph)
    }

    fn direct(&self, package: &str) -> impl Iterator<Item = &String> {
        self.direct.get(package).into_iter().flatten()
    }

    fn reaches(&self, package: &str, other: &str) -> bool {
        self.reachable.get(package).is_some_and(|names| names.contains(other))
    }
}

/// Names that a package depends on, without itself.
fn tree(package: &str, options: &[&str]) -> Result<BTreeSet<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}"]);
    let text = repo::output(command.args(["--package", package]).args(options))?;
    Ok(names(package, &text))
}

/// The first word of each line.
fn names(package: &str, tree: &str) -> BTreeSet<String> {
    tree.lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != package)
        .map(str::to_owned)
        .collect()
}

fn direction(graph: &Graph) -> Vec<String> {
    let ours: BTreeSet<_> = ALLOWED.iter().map(|(package, _)| *package).collect();
    let mut findings = Vec::new();
    for (package, allowed) in ALLOWED {
        for dependency in graph.direct(package).filter(|name| ours.contains(name.as_str())) {
            if !allowed.contains(&dependency.as_str()) {
                findings.push(format!("{package} may not depend on {dependency}"));
            }
        }
    }
    findings
}

/// Every direct dependency of the enclave has a row with its reason, and no row is stale.
fn reasons(graph: &Graph) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(repo::root().join(REASONS))
        .with_context(|| format!("reading {REASONS}"))?;
    let rows: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|rest| rest.split_once("` | "))
        .map(|(name, _)| name)
        .collect();
    let direct: BTreeSet<_> = graph.direct("sigil-enclave").map(String::as_str).collect();
    let missing = direct.difference(&rows).map(|name| format!("{REASONS}: no reason for {name}"));
    let stale = rows.difference(&direct).map(|name| format!("{REASONS}: {name} is not used"));
    Ok(missing.chain(stale).collect())
}

/// Every package of the workspace takes the workspace's lints.
fn lints(metadata: &Value) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        if !package["source"].is_null() {
            continue;
        }
        let manifest = package["manifest_path"].as_str().context("manifest_path")?;
        let text = std::fs::read_to_string(manifest).context("reading a manifest")?;
        if !text.contains("[lints]\nworkspace = true") {
            findings.push(format!("{manifest}: lacks `[lints] workspace = true`"));
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &[&str])]) -> Graph {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let direct = edges.iter().map(|(from, to)| ((*from).to_owned(), own(to))).collect();
        Graph { direct, reachable: BTreeMap::new() }
    }

    #[test]
    fn a_forbidden_edge_is_named() {
        let good = graph(&[("sigil-launcher", &["sigil-enclave-protocol", "tokio"])]);
        assert!(direction(&good).is_empty());
        let bad = graph(&[("sigil-attestation", &["sigil-crds"])]);
        assert_eq!(direction(&bad), ["sigil-attestation may not depend on sigil-crds"]);
        let bad = graph(&[("sigil-enclave", &["sigil-attestation", "sigil-verifier"])]);
        assert_eq!(direction(&bad), ["sigil-enclave may not depend on sigil-verifier"]);
    }

    #[test]
    fn a_tree_names_everything_but_its_root() {
        let text = "a v0.1.0 (/x)\nb v1.0.0\nc v2.1.0 (proc-macro)\nb v1.0.0 (*)\n";
        assert_eq!(names("a", text).into_iter().collect::<Vec<_>>(), ["b", "c"]);
    }
}
