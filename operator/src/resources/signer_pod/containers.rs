//! The two containers. requests == limits everywhere, so that the pod is Guaranteed and `serve`,
//! with its whole cores, gets them for itself where the node's CPU Manager is static.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, EnvVar, EnvVarSource, ExecAction, ObjectFieldSelector, Probe,
    ResourceRequirements, SecretKeySelector, SecurityContext, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use sigil_crds::SignerPool;

use super::super::config_map::{HANDOFF, SETTINGS_FOLDER, STORE_FOLDER};
use super::super::needs::{launcher_cpu_milli, launcher_memory_mib, launcher_workers};
use super::{SETTINGS_VOLUME, STORE_VOLUME};

/// Where a development enclave listens: an abstract socket of the pod's network.
const PROCESS_LISTEN: &str = "unix:@sigil-enclave";

/// What a container printed last is why it ended: conditions show it.
const TERMINATION_MESSAGE_POLICY: &str = "FallbackToLogsOnError";

/// Starts first, ends last, and holds the enclave.
pub(super) fn launcher(pool: &SignerPool) -> Container {
    let workers = launcher_workers(pool).to_string();
    let command = [
        "/sigil-launcher",
        "process",
        "--enclave",
        "/sigil-enclave-insecure",
        "--pins",
        "/pins.cbor",
        "--listen",
        PROCESS_LISTEN,
        "--handoff",
        HANDOFF,
        "--workers",
        &workers,
    ];
    Container {
        name: "launcher".to_owned(),
        image: Some(pool.spec.enclave.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(command.map(str::to_owned).to_vec()),
        restart_policy: Some("Always".to_owned()),
        resources: Some(resources(
            &format!("{}m", launcher_cpu_milli(pool)),
            launcher_memory_mib(pool),
        )),
        security_context: Some(security_context()),
        termination_message_policy: Some(TERMINATION_MESSAGE_POLICY.to_owned()),
        ..Container::default()
    }
}

/// Serves requests.
pub(super) fn serve(pool: &SignerPool) -> Container {
    let wanted = &pool.spec.dataplane.resources;
    let settings = format!("{SETTINGS_FOLDER}/dataplane.yaml");
    let command = ["/sigil-dataplane", "serve", "--config", &settings];
    Container {
        name: "serve".to_owned(),
        image: Some(pool.spec.dataplane.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(command.map(str::to_owned).to_vec()),
        env: Some(environment(pool)),
        resources: Some(resources(&wanted.cpu_count.to_string(), wanted.memory_mib)),
        volume_mounts: Some(vec![
            mount(SETTINGS_VOLUME, SETTINGS_FOLDER, true),
            mount(STORE_VOLUME, STORE_FOLDER, false),
        ]),
        startup_probe: Some(probe("livez", 1, 60)),
        liveness_probe: Some(probe("livez", 10, 3)),
        readiness_probe: Some(probe("readyz", 5, 2)),
        security_context: Some(security_context()),
        termination_message_policy: Some(TERMINATION_MESSAGE_POLICY.to_owned()),
        ..Container::default()
    }
}

fn environment(pool: &SignerPool) -> Vec<EnvVar> {
    let mut environment = vec![EnvVar {
        name: "POD_UID".to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: None,
                field_path: "metadata.uid".to_owned(),
            }),
            ..EnvVarSource::default()
        }),
    }];
    if let Some(secret) = &pool.spec.kms.credentials_secret_name {
        let keys = [
            ("AWS_ACCESS_KEY_ID", false),
            ("AWS_SECRET_ACCESS_KEY", false),
            ("AWS_SESSION_TOKEN", true),
        ];
        environment.extend(keys.map(|(key, optional)| EnvVar {
            name: key.to_owned(),
            value: None,
            value_from: Some(EnvVarSource {
                secret_key_ref: Some(SecretKeySelector {
                    key: key.to_owned(),
                    name: secret.clone(),
                    optional: optional.then_some(true),
                }),
                ..EnvVarSource::default()
            }),
        }));
    }
    environment
}

/// The admin listener is on loopback, where the kubelet is not: the program asks it itself.
fn probe(endpoint: &str, period_s: i32, failures: i32) -> Probe {
    let command = ["/sigil-dataplane", "ctl", "probe", endpoint];
    Probe {
        exec: Some(ExecAction { command: Some(command.map(str::to_owned).to_vec()) }),
        period_seconds: Some(period_s),
        failure_threshold: Some(failures),
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}

fn resources(cpu: &str, memory_mib: i32) -> ResourceRequirements {
    let both = BTreeMap::from([
        ("cpu".to_owned(), Quantity(cpu.to_owned())),
        ("memory".to_owned(), Quantity(format!("{memory_mib}Mi"))),
    ]);
    ResourceRequirements { requests: Some(both.clone()), limits: Some(both), claims: None }
}

fn security_context() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    }
}

fn mount(volume: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: volume.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}
