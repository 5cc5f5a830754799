//! Whole passes against a world in memory: scenarios with golden transcripts, properties, and the
//! first status of a pool.

mod linter;
mod properties;
mod scenarios;
mod world;

use sigil_crds::ConditionType;

use world::World;

const NODE: &str = "
apiVersion: v1
kind: Node
metadata: {name: node-1, labels: {kubernetes.io/hostname: node-1}}
status:
  allocatable: {cpu: 1900m, memory: 8Gi}
  conditions: [{type: Ready, status: 'True'}]
";

/// A pool that an API server with our definitions accepts.
fn pool_text(spec_changes: &str) -> String {
    format!(
        "
apiVersion: sigil.dev/v1alpha1
kind: SignerPool
metadata: {{name: demo, namespace: ns, uid: uid-pool, generation: 7}}
spec:
  nodes: {{replicas: 1}}
  enclave: {{launcher: process, image: 'example.com/enclave:1', cpuCount: 2, memoryMiB: 128}}
  dataplane: {{image: 'example.com/dataplane:1'}}
  keyspaces: [{{name: default}}]
  store: {{engine: embedded, embedded: {{sizeMiB: 64}}}}
{spec_changes}"
    )
}

/// What a tool sees before anything else happened must already be complete.
#[test]
fn the_first_status_has_every_condition_and_the_generation() {
    for pool in [pool_text(""), pool_text("  kms: {region: us-east-1}")] {
        for nodes in ["", NODE] {
            let mut world = World::new();
            world.put_text(&pool);
            if !nodes.is_empty() {
                world.put_text(nodes);
            }
            let status = world.status_without_applying();
            assert_eq!(status.observed_generation, 7);
            let types: Vec<_> = status.conditions.iter().map(|one| one.type_).collect();
            assert_eq!(types, ConditionType::OF_POOL);
            for condition in &status.conditions {
                assert_eq!(condition.observed_generation, 7, "{condition:?}");
                assert!(!condition.reason.is_empty() && !condition.message.is_empty());
            }
        }
    }
}
