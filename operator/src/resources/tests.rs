//! What is rendered, against committed files, and what must hold for every pod.
//! `SIGIL_UPDATE_GOLDEN=1 cargo test -p sigil-operator --lib resources` writes the files.

use std::path::Path;
use std::{env, fs};

use k8s_openapi::api::core::v1::{Container, Pod};
use serde::Serialize;
use serde_json::json;
use sigil_crds::{EnclaveAllocation, SignerPool};

use crate::measurements::Catalog;
use crate::measurements::tests::{config_map, image};
use crate::resources;
use crate::signer_pool::validate::{ValidPool, Verdict, validate};

fn quickstart() -> SignerPool {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/examples/quickstart.yaml");
    let text = fs::read_to_string(path).unwrap();
    let pool = text.split("\n---\n").last().unwrap();
    let mut pool: SignerPool = serde_yaml_ng::from_str(pool).unwrap();
    pool.metadata.name = Some("demo".to_owned());
    pool.metadata.uid = Some("uid-pool".to_owned());
    pool.spec.enclave.attestation_root = Some("a certificate\n".to_owned());
    pool
}

fn valid(pool: &SignerPool) -> ValidPool {
    let kms = json!([{"prefix": "", "keyArns": ["arn"], "region": "us-east-1", "host": "h"}]);
    let map = config_map(&json!({ &pool.spec.enclave.image: [image(&kms)] }));
    match validate(pool, &Catalog::read(Some(&map))) {
        Verdict::Valid(valid) => *valid,
        Verdict::Blocked(problems) => panic!("{problems:?}"),
    }
}

fn allocation(pool: &SignerPool) -> EnclaveAllocation {
    let mut allocation = resources::enclave_allocation(pool, 0, "node-1");
    allocation.metadata.uid = Some("uid-allocation".to_owned());
    allocation
}

fn pod() -> Pod {
    let pool = quickstart();
    resources::signer_pod(&pool, &valid(&pool), &allocation(&pool))
}

fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if env::var_os("SIGIL_UPDATE_GOLDEN").is_some() {
        fs::write(&path, text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{} is old", path.display());
}

fn yaml(object: &impl Serialize) -> String {
    serde_yaml_ng::to_string(object).unwrap()
}

#[test]
fn the_settings_are_as_committed() {
    let pool = quickstart();
    let settings = resources::settings(&pool, &valid(&pool), 0, "node-1");
    let data = settings.data.unwrap();
    check("dataplane.yaml", &data["dataplane.yaml"]);
    assert_eq!(data["attestation-root.pem"], "a certificate\n");
}

#[test]
fn the_objects_are_as_committed() {
    let pool = quickstart();
    check("signer-pod.yaml", &yaml(&pod()));
    check("enclave-allocation.yaml", &yaml(&allocation(&pool)));
    check("role.yaml", &yaml(&resources::role(&pool, &[0])));
    check("role-binding.yaml", &yaml(&resources::role_binding(&pool, "demo-signer")));
    check("disruption-budget.yaml", &yaml(&resources::disruption_budget(&pool, 1)));
    let store = pool.spec.store.embedded.clone().unwrap();
    check("volume-claim.yaml", &yaml(&resources::volume_claim(&pool, &store, 0)));
}

fn containers(pod: &Pod) -> Vec<&Container> {
    let spec = pod.spec.as_ref().unwrap();
    spec.init_containers.iter().flatten().chain(&spec.containers).collect()
}

/// Requests equal limits in every container, or the pod is not Guaranteed; and `serve` asks for
/// whole cores, or the CPU Manager gives it none of its own.
#[test]
fn the_pod_is_guaranteed() {
    let pod = pod();
    for container in containers(&pod) {
        let resources = container.resources.as_ref().unwrap();
        assert_eq!(resources.requests, resources.limits, "{}", container.name);
        for name in ["cpu", "memory"] {
            assert!(resources.limits.as_ref().unwrap().contains_key(name), "{}", container.name);
        }
    }
    let serve = &pod.spec.as_ref().unwrap().containers[0];
    let cpu = &serve.resources.as_ref().unwrap().limits.as_ref().unwrap()["cpu"];
    assert!(cpu.0.parse::<u32>().is_ok(), "{cpu:?}");
}

/// What a container printed last is in the pod's status, where conditions take it from.
#[test]
fn what_ends_says_why() {
    for container in containers(&pod()) {
        let policy = container.termination_message_policy.as_deref();
        assert_eq!(policy, Some("FallbackToLogsOnError"), "{}", container.name);
    }
}

/// PodSecurity *restricted*; and nothing that a drain would refuse to delete.
#[test]
fn the_pod_is_restricted_and_can_be_drained() {
    let pod = pod();
    let spec = pod.spec.as_ref().unwrap();
    let context = spec.security_context.as_ref().unwrap();
    assert_eq!(context.run_as_non_root, Some(true));
    assert_eq!(context.seccomp_profile.as_ref().unwrap().type_, "RuntimeDefault");
    for volume in spec.volumes.iter().flatten() {
        assert!(volume.host_path.is_none() && volume.empty_dir.is_none(), "{}", volume.name);
    }
    for container in containers(&pod) {
        let context = container.security_context.as_ref().unwrap();
        assert_eq!(context.allow_privilege_escalation, Some(false));
        assert_eq!(context.read_only_root_filesystem, Some(true));
        let drop = context.capabilities.as_ref().unwrap().drop.as_ref().unwrap();
        assert_eq!(drop, &["ALL"]);
        assert!(context.run_as_user.is_none(), "the hand-off wants one user for both");
    }
}

/// A change of what pods are made from is another template; anything else is not.
#[test]
fn the_template_hash_follows_what_pods_are_made_from() {
    let hash = |change: fn(&mut SignerPool)| {
        let mut pool = quickstart();
        change(&mut pool);
        valid(&pool).template_hash
    };
    let original = hash(|_| {});
    assert_eq!(hash(|pool| pool.metadata.generation = Some(9)), original);
    assert_eq!(hash(|pool| pool.spec.nodes.replicas = Some(0)), original);
    assert_ne!(hash(|pool| pool.spec.enclave.memory_mib += 2), original);
    assert_ne!(hash(|pool| pool.spec.dataplane.image.push('1')), original);
    assert_ne!(hash(|pool| pool.spec.kms.address = None), original);
}
