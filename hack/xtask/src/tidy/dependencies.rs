//! Which crate may depend on which, and what the trusted base is made of.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::repo;

/// Normal dependencies among our own crates. What is absent is forbidden.
const ALLOWED: [(&str, &[&str]); 9] = [
    ("sigil-crds", &[]),
    ("sigil-enclave-protocol", &[]),
    ("sigil-attestation", &[]),
    ("sigil-enclave-image", &[]),
    ("sigil-launcher", &["sigil-enclave-protocol"]),
    ("sigil-operator", &["sigil-crds", "sigil-enclave-image"]),
    (
        "sigil-dataplane",
        &["sigil-attestation", "sigil-crds", "sigil-enclave-image", "sigil-enclave-protocol"],
    ),
    ("sigil-enclave", &["sigil-attestation", "sigil-enclave-image", "sigil-enclave-protocol"]),
    (
        "sigil-enclave-insecure",
        &["sigil-attestation", "sigil-enclave", "sigil-enclave-image", "sigil-enclave-protocol"],
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
    let graph = Graph::read(metadata)?;
    let mut findings = Vec::new();
    findings.extend(direction(&graph));
    for package in PRODUCTION {
        if graph.reachable(package).contains(DEVELOPMENT_ONLY) {
            findings.push(format!("{package} reaches {DEVELOPMENT_ONLY}"));
        }
    }
    let enclave = graph.reachable("sigil-enclave");
    findings.extend(
        BANNED_IN_ENCLAVE
            .iter()
            .filter(|banned| enclave.contains(**banned))
            .map(|banned| format!("sigil-enclave reaches {banned}")),
    );
    findings.extend(reasons(&graph)?);
    findings.extend(lints(metadata)?);
    Ok(findings)
}

/// Normal dependencies by package name. Two versions of a package are one node.
struct Graph {
    edges: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn read(metadata: &Value) -> Result<Self> {
        let packages = metadata["packages"].as_array().context("metadata.packages")?;
        let name_of: BTreeMap<_, _> = packages
            .iter()
            .filter_map(|package| Some((package["id"].as_str()?, package["name"].as_str()?)))
            .collect();
        let mut edges = BTreeMap::<String, BTreeSet<String>>::new();
        for node in metadata["resolve"]["nodes"].as_array().context("metadata.resolve")? {
            let name = name_of.get(node["id"].as_str().unwrap_or_default()).context("node")?;
            let entry = edges.entry((*name).to_owned()).or_default();
            for dependency in node["deps"].as_array().into_iter().flatten() {
                let normal = dependency["dep_kinds"]
                    .as_array()
                    .is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()));
                let target = dependency["pkg"].as_str().and_then(|id| name_of.get(id));
                if let (true, Some(target)) = (normal, target) {
                    entry.insert((*target).to_owned());
                }
            }
        }
        Ok(Self { edges })
    }

    fn direct(&self, package: &str) -> impl Iterator<Item = &String> {
        self.edges.get(package).into_iter().flatten()
    }

    fn reachable<'a>(&'a self, package: &'a str) -> BTreeSet<&'a str> {
        let mut seen = BTreeSet::new();
        let mut open = vec![package];
        while let Some(next) = open.pop() {
            if seen.insert(next) {
                open.extend(self.direct(next).map(String::as_str));
            }
        }
        seen
    }
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
        Graph { edges: edges.iter().map(|(from, to)| ((*from).to_owned(), own(to))).collect() }
    }

    #[test]
    fn a_forbidden_edge_is_named() {
        let good = graph(&[("sigil-launcher", &["sigil-enclave-protocol", "tokio"])]);
        assert!(direction(&good).is_empty());
        let bad = graph(&[("sigil-attestation", &["sigil-crds"])]);
        assert_eq!(direction(&bad), ["sigil-attestation may not depend on sigil-crds"]);
    }

    #[test]
    fn reach_follows_every_step() {
        let chain = graph(&[("a", &["b"]), ("b", &["c", "a"])]);
        assert_eq!(chain.reachable("a").into_iter().collect::<Vec<_>>(), ["a", "b", "c"]);
    }
}
