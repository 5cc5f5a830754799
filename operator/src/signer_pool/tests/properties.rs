//! Whatever the world looks like, repeated passes settle and then are silent.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::scenarios::report;
use super::world::World;
use super::{NODE, pool_text};
use crate::measurements::tests::image;

/// Passes in which anything must settle: objects, pod, ring, drain, pod again, ring again.
const PASSES_MAX: usize = 10;

/// Something that happens outside.
#[derive(Clone, Debug)]
enum Happening {
    Node { ready: bool, cordoned: bool, cpu_milli: u32, label: bool },
    NoNode,
    Replicas(i32),
    Image(u8),
    Selector(bool),
    Measurements(bool),
    Report { attested: bool, unlocked: bool, epoch: i64 },
    PodFails,
    PodVanishes,
    AllocationVanishes,
    RingVanishes,
    Seconds(i64),
    Deleted,
    NamespaceGoes,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => (any::<bool>(), any::<bool>(), 0_u32..4000, any::<bool>()).prop_map(
            |(ready, cordoned, cpu_milli, label)| Happening::Node { ready, cordoned, cpu_milli, label }
        ),
        1 => Just(Happening::NoNode),
        2 => (0..=1).prop_map(Happening::Replicas),
        2 => (0_u8..3).prop_map(Happening::Image),
        1 => any::<bool>().prop_map(Happening::Selector),
        1 => any::<bool>().prop_map(Happening::Measurements),
        4 => (any::<bool>(), any::<bool>(), 0_i64..20).prop_map(
            |(attested, unlocked, epoch)| Happening::Report { attested, unlocked, epoch }
        ),
        1 => Just(Happening::PodFails),
        1 => Just(Happening::PodVanishes),
        1 => Just(Happening::AllocationVanishes),
        1 => Just(Happening::RingVanishes),
        2 => (1_i64..200).prop_map(Happening::Seconds),
        1 => Just(Happening::Deleted),
        1 => Just(Happening::NamespaceGoes),
    ]
}

fn pool_patch(world: &mut World, patch: &Value) {
    if world.has("SignerPool", "demo") {
        world.merge("SignerPool", "demo", patch);
    }
}

fn measurements() -> Value {
    let kms = json!([{"prefix": "", "keyArns": ["arn"], "region": "us-east-1", "host": "h"}]);
    let image = image(&kms);
    let catalog = json!({"example.com/enclave:0": [image], "example.com/enclave:1": [image],
        "example.com/enclave:2": [image]});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "sigil-measurements"},
        "data": {"measurements.json": catalog.to_string()}})
}

fn happen(world: &mut World, happening: &Happening) {
    match happening {
        Happening::Node { ready, cordoned, cpu_milli, label } => {
            let ready = if *ready { "True" } else { "False" };
            let labels = if *label { json!({"signing": "yes"}) } else { json!({}) };
            world.put(json!({"apiVersion": "v1", "kind": "Node",
                "metadata": {"name": "node-1", "labels": labels},
                "spec": {"unschedulable": cordoned},
                "status": {"allocatable": {"cpu": format!("{cpu_milli}m"), "memory": "8Gi"},
                    "conditions": [{"type": "Ready", "status": ready}]}}));
        }
        Happening::NoNode => world.delete("Node", "node-1"),
        Happening::Replicas(count) => {
            pool_patch(world, &json!({"spec": {"nodes": {"replicas": count}}}));
        }
        Happening::Image(version) => {
            let image = format!("example.com/enclave:{version}");
            pool_patch(world, &json!({"spec": {"enclave": {"image": image}}}));
        }
        Happening::Selector(on) => {
            let selector = if *on { json!({"signing": "yes"}) } else { Value::Null };
            pool_patch(world, &json!({"spec": {"nodes": {"selector": selector}}}));
        }
        Happening::Measurements(true) => world.put(measurements()),
        Happening::Measurements(false) => world.delete("ConfigMap", "sigil-measurements"),
        Happening::Report { attested, unlocked, epoch } => {
            if world.has("Pod", "demo-0") && world.has("EnclaveAllocation", "demo-0") {
                let keyspaces = json!([{"name": "default", "unlocked": unlocked}]);
                report(
                    world,
                    &json!({"attested": attested, "keyspaces": keyspaces, "ringEpoch": epoch}),
                );
            }
        }
        Happening::PodFails => {
            if world.has("Pod", "demo-0") {
                let patch = json!({"status": {"phase": "Failed", "conditions": null}});
                world.merge("Pod", "demo-0", &patch);
            }
        }
        Happening::PodVanishes => world.delete("Pod", "demo-0"),
        Happening::AllocationVanishes => world.delete("EnclaveAllocation", "demo-0"),
        Happening::RingVanishes => world.delete("SignerRing", "demo"),
        Happening::Seconds(seconds) => world.advance(*seconds),
        Happening::Deleted => {
            pool_patch(world, &json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
        }
        Happening::NamespaceGoes => world.namespace_terminating = true,
    }
}

/// Passes until one does nothing; then one more must do nothing either.
fn settle(world: &mut World) -> Result<(), TestCaseError> {
    for _ in 0..PASSES_MAX {
        let Some(pass) = world.pass() else { return Ok(()) };
        if pass.plan.actions.is_empty() && !pass.status_changed {
            let again = world.pass().unwrap();
            prop_assert!(again.plan.actions.is_empty() && !again.status_changed);
            return Ok(());
        }
    }
    Err(TestCaseError::fail("it does not settle"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Every plan on the way is linted by the world.
    #[test]
    fn repeated_passes_settle_and_then_are_silent(
        happenings in prop::collection::vec(happening(), 1..20),
    ) {
        let mut world = World::new();
        world.put_text(NODE);
        world.put(measurements());
        world.put_text(&pool_text(""));
        settle(&mut world)?;
        for happening in &happenings {
            happen(&mut world, happening);
            settle(&mut world)?;
        }
    }
}
