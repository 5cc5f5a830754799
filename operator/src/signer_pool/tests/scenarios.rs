//! Stories in `operator/tests/scenarios/NAME.yaml`, transcripts in `NAME.golden` beside them.
//!
//! Documents of a story, in order: an object (put), `{merge: {kind, name, patch}}`,
//! `{delete: {kind, name}}`, `{report: {…}}` (what the dataplane of the pod says), `{advance: S}`,
//! and `{step: text}`: passes until nothing happens any more, then what was done and found.
//! `SIGIL_UPDATE_GOLDEN=1 cargo test -p sigil-operator --lib scenarios` writes the transcripts.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

use serde::Deserialize;
use serde_json::{Value, json};

use super::world::World;

/// Passes in which a story must settle after each step.
const PASSES_MAX: usize = 10;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios")
}

#[test]
fn scenarios_match_their_transcripts() {
    let mut stories = 0;
    let mut wrong = Vec::new();
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        stories += 1;
        let transcript = play(&fs::read_to_string(&path).unwrap());
        let golden = path.with_extension("golden");
        if env::var_os("SIGIL_UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &transcript).unwrap();
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        if expected != transcript {
            wrong.push(format!("{}:\n{transcript}", path.display()));
        }
    }
    assert!(stories > 0);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn play(story: &str) -> String {
    let mut world = World::new();
    let mut transcript = String::new();
    for document in serde_yaml_ng::Deserializer::from_str(story) {
        let document = Value::deserialize(document).unwrap();
        let (merge, delete) = (&document["merge"], &document["delete"]);
        if document["kind"].is_string() {
            world.put(document);
        } else if merge.is_object() {
            world.merge(text(merge, "kind"), text(merge, "name"), &merge["patch"]);
        } else if delete.is_object() {
            world.delete(text(delete, "kind"), text(delete, "name"));
        } else if document["report"].is_object() {
            report(&mut world, &document["report"]);
        } else if let Some(seconds) = document["advance"].as_i64() {
            world.advance(seconds);
        } else if let Some(terminating) = document["namespaceTerminating"].as_bool() {
            world.namespace_terminating = terminating;
        } else {
            step(&mut world, text(&document, "step"), &mut transcript);
        }
    }
    transcript
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key}: {value}"))
}

/// The pod of slot 0 becomes ready and its dataplane reports, as a healthy one would but for what
/// the story says.
pub(super) fn report(world: &mut World, changes: &Value) {
    let uid = world.uid("Pod", "demo-0").expect("a pod that reports");
    let mut enclave = json!({
        "podUid": uid, "running": true, "bootId": "00112233445566778899aabbccddeeff",
        "attested": true, "trusted": false, "rng": "software", "storeDurable": true,
        "ringEpoch": 0, "keyspaces": [{"name": "default", "unlocked": true}],
    });
    for (key, value) in changes.as_object().unwrap() {
        enclave[key] = value.clone();
    }
    let status = json!({"status": {"enclave": enclave}});
    world.merge("EnclaveAllocation", "demo-0", &status);
    let ready = json!({"status": {"phase": "Running", "qosClass": "Guaranteed",
        "conditions": [{"type": "Ready", "status": "True"}]}, "spec": {"nodeName": "node-1"}});
    world.merge("Pod", "demo-0", &ready);
}

fn step(world: &mut World, name: &str, transcript: &mut String) {
    writeln!(transcript, "== {name}").unwrap();
    let mut last = None;
    for number in 1..=PASSES_MAX {
        let Some(pass) = world.pass() else {
            writeln!(transcript, "the pool is gone\n").unwrap();
            return;
        };
        let silent = pass.plan.actions.is_empty() && !pass.status_changed;
        if !pass.plan.actions.is_empty() {
            writeln!(transcript, "pass {number}").unwrap();
            for action in &pass.plan.actions {
                writeln!(transcript, "  {}", action.describe()).unwrap();
            }
        }
        last = Some(pass);
        if silent {
            break;
        }
        assert!(number < PASSES_MAX, "it does not settle:\n{transcript}");
    }
    let Some(pass) = last else { return };
    for waiting in &pass.plan.waiting_on {
        writeln!(transcript, "waits  {}: {}", waiting.reason, waiting.message).unwrap();
    }
    for finding in &pass.findings {
        writeln!(transcript, "{finding}").unwrap();
    }
    transcript.push('\n');
}
