//! The settings of a member's dataplane, in the schema of `config/dataplane.yaml`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use serde::Serialize;
use sigil_crds::SignerPool;

use crate::names::{Names, owned};
use crate::signer_pool::validate::ValidPool;

/// Folder of the settings in the dataplane's container.
pub(super) const SETTINGS_FOLDER: &str = "/etc/sigil";
/// Where the volume of the embedded store is mounted in the dataplane's container.
pub(super) const STORE_FOLDER: &str = "/var/lib/sigil";
/// The store itself: a folder of its own, which the dataplane makes for itself alone.
const STORE_PATH: &str = "/var/lib/sigil/store";
/// Where the launcher hands the claimed enclave over: an abstract socket of the pod's network.
pub(super) const HANDOFF: &str = "@sigil-launcher";
const SETTINGS_KEY: &str = "dataplane.yaml";
const ROOT_KEY: &str = "attestation-root.pem";

/// What the dataplane reads; everything else keeps its default.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Settings<'a> {
    enclave: Enclave<'a>,
    kms: Kms<'a>,
    keyspaces: Vec<&'a str>,
    store: Store<'a>,
    member: Member<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Enclave<'a> {
    handoff: &'a str,
    attestation_root: &'a str,
    measurements: Vec<Measurement<'a>>,
}

#[derive(Serialize)]
struct Measurement<'a> {
    pcr0: &'a str,
    pcr1: &'a str,
    pcr2: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Kms<'a> {
    region: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_arn: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<&'a str>,
}

#[derive(Serialize)]
struct Store<'a> {
    embedded: Embedded<'a>,
}

#[derive(Serialize)]
struct Embedded<'a> {
    path: &'a str,
}

#[derive(Serialize)]
struct Member<'a> {
    namespace: String,
    pool: String,
    allocation: &'a str,
    node: &'a str,
}

/// The settings of the member in `slot` on `node`.
pub fn settings(pool: &SignerPool, valid: &ValidPool, slot: i32, node: &str) -> ConfigMap {
    let pool_name = pool.name_any();
    let names = Names::new(&pool_name);
    let allocation = names.member(slot);
    let mut data = BTreeMap::from([(
        SETTINGS_KEY.to_owned(),
        to_yaml(&content(pool, valid, &allocation, node)),
    )]);
    if let Some(root) = &pool.spec.enclave.attestation_root {
        data.insert(ROOT_KEY.to_owned(), root.clone());
    }
    ConfigMap {
        metadata: owned(pool, names.settings(slot), names.slot_labels(slot)),
        data: Some(data),
        ..ConfigMap::default()
    }
}

fn content<'a>(
    pool: &'a SignerPool,
    valid: &'a ValidPool,
    allocation: &'a str,
    node: &'a str,
) -> Settings<'a> {
    let custom_root = pool.spec.enclave.attestation_root.is_some();
    Settings {
        enclave: Enclave {
            handoff: HANDOFF,
            attestation_root: if custom_root { "/etc/sigil/attestation-root.pem" } else { "aws" },
            measurements: valid
                .measurements
                .iter()
                .map(|m| Measurement { pcr0: &m.pcr0, pcr1: &m.pcr1, pcr2: &m.pcr2 })
                .collect(),
        },
        kms: Kms {
            region: &valid.kms_region,
            key_arn: valid.kms_key_arn.as_deref(),
            address: pool.spec.kms.address.as_deref(),
        },
        keyspaces: pool.spec.keyspaces.iter().map(|keyspace| keyspace.name.as_str()).collect(),
        store: Store { embedded: Embedded { path: STORE_PATH } },
        member: Member {
            namespace: pool.namespace().unwrap_or_default(),
            pool: pool.name_any(),
            allocation,
            node,
        },
    }
}

/// Strings and lists alone: the serializer has nothing to refuse.
fn to_yaml(settings: &Settings<'_>) -> String {
    serde_yaml_ng::to_string(settings).unwrap_or_default()
}
