//! The chart: clean, strict about its values, and with the definitions of this source.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

#[path = "api/server.rs"]
#[allow(dead_code, reason = "only the folder of the programs is needed here")]
mod server;

use std::path::Path;
use std::process::{Command, Output};

use serde::Deserialize;
use serde_json::Value;

fn helm(arguments: &[&str]) -> Output {
    let program = server::programs().join("helm");
    assert!(program.exists(), "helm is missing: run hack/tools/build helm");
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/sigil");
    let (verb, rest) = arguments.split_first().unwrap();
    let mut command = Command::new(program);
    command.arg(verb);
    if *verb == "template" {
        command.arg("sigil");
    }
    command.arg(chart).args(rest).output().unwrap()
}

fn rendered(arguments: &[&str]) -> Vec<Value> {
    let output = helm(&[&["template"], arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_yaml_ng::Deserializer::from_str(&String::from_utf8(output.stdout).unwrap())
        .map(|document| Value::deserialize(document).unwrap())
        .collect()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

#[test]
fn helm_finds_nothing_to_complain_about() {
    let output = helm(&["lint", "--strict"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn unknown_and_wrong_values_are_refused() {
    for wrong in ["operator.replica=2", "operator.replicas=0", "measurements.image=text", "crd=x"] {
        let output = helm(&["template", "--set", wrong]);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{wrong} was accepted");
        assert!(message.contains("schema"), "{wrong}: {message}");
    }
}

#[test]
fn definitions_are_those_of_the_source_and_stay_when_they_should() {
    let objects = rendered(&[]);
    let found = of_kind(&objects, "CustomResourceDefinition");
    let files = sigil_crds::generate::files().unwrap();
    assert_eq!(found.len(), files.len());
    for (name, text) in files {
        let wanted: Value = serde_yaml_ng::from_str(&text).unwrap();
        let found = found.iter().find(|one| one["metadata"]["name"] == wanted["metadata"]["name"]);
        let found = found.unwrap_or_else(|| panic!("{name} is not in the chart"));
        assert_eq!(found["spec"], wanted["spec"], "{name}");
        assert_eq!(found["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    }
    let without = rendered(&["--set", "crds.enabled=false"]);
    assert!(of_kind(&without, "CustomResourceDefinition").is_empty());
    let gone = rendered(&["--set", "crds.keep=false"]);
    let gone = of_kind(&gone, "CustomResourceDefinition");
    assert!(gone.iter().all(|one| one["metadata"]["annotations"].is_null()));
}

/// The operator may not do more than it needs: no secrets, no wildcard, no deletion of claims.
#[test]
fn the_operator_has_few_rights() {
    let objects = rendered(&[]);
    let roles = [of_kind(&objects, "ClusterRole"), of_kind(&objects, "Role")].concat();
    assert!(!roles.is_empty());
    for rule in roles.iter().flat_map(|role| role["rules"].as_array().unwrap()) {
        let text = rule.to_string();
        assert!(!text.contains('*') && !text.contains("secrets"), "{text}");
        assert!(!text.contains("escalate") && !text.contains("bind\""), "{text}");
        let kept = ["persistentvolumeclaims", "signerrings"].iter().any(|one| text.contains(one));
        assert!(!kept || !text.contains("delete"), "{text}");
    }
}

/// Whoever installs the chart reads in which order it is taken away, whatever the values.
#[test]
fn the_notes_say_that_pools_are_deleted_first() {
    for keep in ["crds.keep=true", "crds.keep=false"] {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/sigil");
        let output = Command::new(server::programs().join("helm"))
            .args(["install", "sigil", "--dry-run=client", "--kubeconfig", "/dev/null"])
            .args(["--set", keep])
            .arg(chart)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let (_, notes) = text.split_once("NOTES:").unwrap();
        assert!(notes.contains("Delete pools first"), "{keep}: {notes}");
    }
}

/// The operator runs as pods must where PodSecurity is *restricted*, and is Guaranteed.
#[test]
fn the_operator_is_restricted() {
    let objects = rendered(&[]);
    let deployment = of_kind(&objects, "Deployment")[0];
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    for container in pod["containers"].as_array().unwrap() {
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
        assert_eq!(container["securityContext"]["capabilities"]["drop"][0], "ALL");
        assert_eq!(container["resources"]["requests"], container["resources"]["limits"]);
    }
}
