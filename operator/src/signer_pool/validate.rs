//! What CEL cannot see: measurements, pins, and what this version can run. Pure.

use aws_lc_rs::digest::{SHA256, digest};
use kube::ResourceExt;
use serde::Serialize;
use sigil_crds::{
    ConditionType, DataplaneSpec, EffectiveSettings, EnclaveSpec, KmsSpec, Launcher, Measurement,
    SignerPool, StoreEngine, Toleration,
};
use sigil_image_authoring::measurements::Measurements;

use crate::conditions::Reason;
use crate::measurements::{Catalog, pinned as pinned_keys, registers};
use crate::names::Names;
use crate::resources::needs;

/// Members that an embedded store serves.
const EMBEDDED_REPLICAS_MAX: i32 = 1;
/// Hex digits of a template hash: 64 bits tell templates of one pool apart.
const TEMPLATE_HASH_DIGITS: usize = 16;

/// Whether pods can be made from a pool.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Yes, from this.
    Valid(Box<ValidPool>),
    /// No; what runs is left alone.
    Blocked(Vec<Problem>),
}

/// Everything that pods are made from, looked up and defaulted.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidPool {
    /// Measurements that members accept.
    pub measurements: Vec<Measurement>,
    /// Region that requests to KMS are signed for.
    pub kms_region: String,
    /// The one KMS key that all keyspaces name, if they do.
    pub kms_key_arn: Option<String>,
    /// Account of the pods.
    pub service_account_name: String,
    /// Hash over everything that pods are made from.
    pub template_hash: String,
    /// Values in force, for the status.
    pub effective: EffectiveSettings,
}

/// Something that a person must change before pods can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Condition that it shows in.
    pub condition: ConditionType,
    /// Why.
    pub reason: Reason,
    /// Why, and what to do.
    pub message: String,
}

/// What decides whether a pod is replaced. Inputs, not the rendered pod: an operator that renders
/// them in another way replaces nothing.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Template<'a> {
    enclave: &'a EnclaveSpec,
    dataplane: &'a DataplaneSpec,
    kms: &'a KmsSpec,
    tolerations: &'a [Toleration],
    keyspaces: Vec<&'a str>,
    measurements: &'a [Measurement],
    kms_region: &'a str,
    kms_key_arn: Option<&'a str>,
}

/// Looks everything up that pods are made from, or says all that is in the way.
pub fn validate(pool: &SignerPool, catalog: &Catalog) -> Verdict {
    let (known, unreadable) = match catalog.of(&pool.spec.enclave.image) {
        Ok(known) => (known, None),
        Err(error) => (&[][..], Some(error)),
    };
    let mut problems: Vec<_> = [
        launcher(pool),
        replicas(pool),
        measurements(pool, known, unreadable),
        debug_measurements(pool, known),
        trust(pool, known),
        pins(pool, known),
    ]
    .into_iter()
    .flatten()
    .collect();
    let region = kms_region(pool, known);
    // Without measurements there is nothing that could name it: one problem, not two.
    if region.is_none() && problems.is_empty() {
        problems.push(region_unknown(pool));
    }
    match region {
        Some(region) if problems.is_empty() => {
            Verdict::Valid(Box::new(valid_pool(pool, known, region)))
        }
        _ => Verdict::Blocked(problems),
    }
}

/// Members that the pool wants.
pub fn desired_replicas(pool: &SignerPool) -> i32 {
    pool.spec.nodes.replicas.unwrap_or(1).clamp(0, EMBEDDED_REPLICAS_MAX)
}

fn launcher(pool: &SignerPool) -> Option<Problem> {
    let launcher = pool.spec.enclave.launcher();
    (launcher != Launcher::Process).then(|| Problem {
        condition: ConditionType::EnclavesAttested,
        reason: Reason::LauncherUnsupported,
        message: format!(
            "enclave.launcher {} is not supported by this version; set launcher: process \
             (development) or wait for the version that starts Nitro enclaves",
            launcher.as_str()
        ),
    })
}

/// CEL refuses this at the API server; an object from before the rule must not be half right.
fn replicas(pool: &SignerPool) -> Option<Problem> {
    let nodes = &pool.spec.nodes;
    let too_many = nodes.replicas.unwrap_or(1) > EMBEDDED_REPLICAS_MAX || nodes.all == Some(true);
    (pool.spec.store.engine == StoreEngine::Embedded && too_many).then(|| Problem {
        condition: ConditionType::AllocationReady,
        reason: Reason::ReplicasUnsupported,
        message: "an embedded store serves one member; set nodes.replicas: 1".to_owned(),
    })
}

fn measurements(
    pool: &SignerPool,
    known: &[Measurements],
    unreadable: Option<&str>,
) -> Option<Problem> {
    let enclave = &pool.spec.enclave;
    if !enclave.measurements.is_empty() || !known.is_empty() {
        return None;
    }
    let (reason, message) = match unreadable {
        Some(error) => (
            Reason::MeasurementsUnreadable,
            format!(
                "ConfigMap sigil-measurements cannot be read for {} ({error}); correct the chart's \
                 value measurements",
                enclave.image
            ),
        ),
        None => (
            Reason::MeasurementsUnknown,
            format!(
                "nobody named the measurements of {}; add its measurements.json to the chart's \
                 value measurements under this reference, or set enclave.measurements",
                enclave.image
            ),
        ),
    };
    Some(Problem { condition: ConditionType::EnclavesAttested, reason, message })
}

/// Every debug enclave measures zero, so such a list would accept them all.
fn debug_measurements(pool: &SignerPool, known: &[Measurements]) -> Option<Problem> {
    let zero = |one: &Measurement| one.pcr0.bytes().all(|digit| digit == b'0');
    accepted(pool, known).iter().any(zero).then(|| Problem {
        condition: ConditionType::EnclavesAttested,
        reason: Reason::DebugMeasurements,
        message: format!(
            "the measurements of {} are zeros, which every debug enclave has; name those of an \
             image that was built without debug",
            pool.spec.enclave.image
        ),
    })
}

/// What the pool names goes before what the chart knows.
fn accepted(pool: &SignerPool, known: &[Measurements]) -> Vec<Measurement> {
    if pool.spec.enclave.measurements.is_empty() {
        known.iter().map(registers).collect()
    } else {
        pool.spec.enclave.measurements.clone()
    }
}

fn trust(pool: &SignerPool, known: &[Measurements]) -> Option<Problem> {
    let insecure = known.iter().any(|image| image.insecure);
    (pool.spec.production && insecure).then(|| Problem {
        condition: ConditionType::Trusted,
        reason: Reason::InsecureImage,
        message: format!(
            "{} is a development image and production: true; use the production image",
            pool.spec.enclave.image
        ),
    })
}

/// The enclave uses what it pins, whatever the pool says: a difference must not go unseen.
fn pins(pool: &SignerPool, known: &[Measurements]) -> Option<Problem> {
    let differs = |image: &Measurements| {
        pool.spec.keyspaces.iter().find_map(|keyspace| {
            let pinned = pinned_keys(image, &keyspace.name);
            let pinned = pinned.map_or(&[][..], |rule| &rule.key_arns);
            let wrong = if pinned.is_empty() {
                Some("no KMS key".to_owned())
            } else if keyspace.kms_key_arns.iter().all(|arn| pinned.contains(arn)) {
                None
            } else {
                Some(pinned.join(", "))
            };
            wrong.map(|pinned| (keyspace.name.clone(), pinned))
        })
    };
    let (keyspace, pinned) = known.iter().find_map(differs)?;
    Some(Problem {
        condition: ConditionType::EnclavesAttested,
        reason: Reason::PinsMismatch,
        message: format!(
            "{} pins {pinned} for keyspace {keyspace}, which is not what the pool asks for; \
             correct keyspaces[].kmsKeyArns, or pin an image with the pool's keys",
            pool.spec.enclave.image
        ),
    })
}

fn kms_region(pool: &SignerPool, known: &[Measurements]) -> Option<String> {
    pool.spec.kms.region.clone().or_else(|| {
        let keyspace = pool.spec.keyspaces.first()?;
        Some(pinned_keys(known.first()?, &keyspace.name)?.region.clone())
    })
}

fn region_unknown(pool: &SignerPool) -> Problem {
    Problem {
        condition: ConditionType::KeysUnlocked,
        reason: Reason::KmsRegionUnknown,
        message: format!(
            "no region is known for KMS: neither kms.region is set nor do the chart's measurements \
             of {} name one; set kms.region",
            pool.spec.enclave.image
        ),
    }
}

fn valid_pool(pool: &SignerPool, known: &[Measurements], kms_region: String) -> ValidPool {
    let spec = &pool.spec;
    let measurements = accepted(pool, known);
    let kms_key_arn = common_key(pool);
    let pool_name = pool.name_any();
    let names = Names::new(&pool_name);
    let service_account_name =
        spec.dataplane.service_account_name.clone().unwrap_or_else(|| names.service_account());
    let template_hash = template_hash(&Template {
        enclave: &spec.enclave,
        dataplane: &spec.dataplane,
        kms: &spec.kms,
        tolerations: &spec.nodes.tolerations,
        keyspaces: spec.keyspaces.iter().map(|keyspace| keyspace.name.as_str()).collect(),
        measurements: &measurements,
        kms_region: &kms_region,
        kms_key_arn: kms_key_arn.as_deref(),
    });
    let effective = EffectiveSettings {
        launcher: spec.enclave.launcher(),
        enclave_image: spec.enclave.image.clone(),
        dataplane_image: spec.dataplane.image.clone(),
        measurements: measurements.clone(),
        kms_region: kms_region.clone(),
        launcher_cpu_milli: needs::launcher_cpu_milli(pool),
        dataplane_cpu_count: spec.dataplane.resources.cpu_count,
        service_account_name: service_account_name.clone(),
        store_claim: spec.store.embedded.as_ref().map(|_| names.claim(0)),
        deletion_policy: spec
            .store
            .embedded
            .as_ref()
            .and_then(|store| store.deletion_policy)
            .unwrap_or_default(),
        template_hash: template_hash.clone(),
    };
    ValidPool {
        measurements,
        kms_region,
        kms_key_arn,
        service_account_name,
        template_hash,
        effective,
    }
}

/// The KMS key, if all keyspaces name the same single one.
fn common_key(pool: &SignerPool) -> Option<String> {
    let mut keyspaces = pool.spec.keyspaces.iter();
    let [first] = keyspaces.next()?.kms_key_arns.as_slice() else { return None };
    keyspaces
        .all(|keyspace| keyspace.kms_key_arns.as_slice() == std::slice::from_ref(first))
        .then(|| first.clone())
}

fn template_hash(template: &Template<'_>) -> String {
    let text = serde_json::to_vec(template).unwrap_or_default();
    let mut hash = const_hex::encode(digest(&SHA256, &text));
    hash.truncate(TEMPLATE_HASH_DIGITS);
    hash
}
