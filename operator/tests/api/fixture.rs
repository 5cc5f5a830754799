//! What the tests share: the definitions, the chart as it is installed, and waiting for something
//! with a deadline.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, Error, ResourceExt};
use serde::Deserialize;
use serde_json::Value;
use sigil_operator::runtime::{Args, RunError, run_with};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::server::{Server, programs};

/// For a machine that is busy with other builds.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);
/// Namespace of the operator.
pub(crate) const SYSTEM: &str = "sigil-system";

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn documents(text: &str) -> Vec<Value> {
    serde_yaml_ng::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).unwrap())
        .filter(|document| !document.is_null())
        .collect()
}

/// Asks until the answer is there.
pub(crate) async fn eventually<T, F: Future<Output = Result<T, String>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let started = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    loop {
        ticks.tick().await;
        match ask().await {
            Ok(answer) => return answer,
            Err(why) if started.elapsed() > DEADLINE => panic!("{what}: {why}"),
            Err(_) => {}
        }
    }
}

/// Server-side apply of any object, as `kubectl apply --server-side` does it.
pub(crate) async fn apply(client: &Client, object: &Value) -> Result<DynamicObject, Error> {
    let object: DynamicObject = serde_json::from_value(object.clone()).unwrap();
    let types = object.types.clone().unwrap();
    let kind = GroupVersionKind::try_from(&types).unwrap();
    let resource = ApiResource::from_gvk(&kind);
    let api: Api<DynamicObject> = match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let parameters = PatchParams::apply("api-test").force();
    api.patch(&object.name_any(), &parameters, &Patch::Apply(&object)).await
}

pub(crate) async fn namespace(client: &Client, name: &str) {
    let namespace = Namespace {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    Api::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
}

/// Installs the definitions and waits until the API server serves them.
pub(crate) async fn install_definitions(client: &Client) {
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    for (file, text) in sigil_crds::generate::files().unwrap() {
        let name = file.trim_end_matches(".yaml");
        apply(client, &documents(&text)[0]).await.unwrap_or_else(|e| panic!("{file}: {e}"));
        eventually(name, || async {
            let found = api.get(name).await.unwrap();
            let conditions = found.status.unwrap_or_default().conditions.unwrap_or_default();
            let established = |wanted: &str| {
                conditions.iter().any(|one| one.type_ == wanted && one.status == "True")
            };
            // The schema is structural only if nothing is complained about.
            let complaint = conditions.iter().find(|one| one.type_ == "NonStructuralSchema");
            assert!(complaint.is_none(), "{complaint:?}");
            (established("Established") && established("NamesAccepted"))
                .then_some(())
                .ok_or_else(|| format!("{conditions:?}"))
        })
        .await;
    }
}

/// The chart, rendered with helm as it is installed. Values as JSON.
pub(crate) fn rendered_chart(values: &Value) -> Vec<Value> {
    let helm = programs().join("helm");
    assert!(helm.exists(), "helm is missing: run hack/tools/build helm");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("values.json");
    fs::write(&file, values.to_string()).unwrap();
    let output = Command::new(helm)
        .args(["template", "sigil"])
        .arg(repository().join("charts/sigil"))
        .args(["--namespace", SYSTEM, "--values"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    documents(&String::from_utf8(output.stdout).unwrap())
}

/// Installs the chart, and gives a client with exactly the rights of the operator's account.
pub(crate) async fn install_chart(server: &Server, values: &Value) -> Client {
    let admin = server.admin();
    namespace(&admin, SYSTEM).await;
    for object in rendered_chart(values) {
        let what = format!("{} {}", object["kind"], object["metadata"]["name"]);
        apply(&admin, &object).await.unwrap_or_else(|e| panic!("{what}: {e}"));
    }
    for crd in ["signerpools", "enclaveallocations", "signerrings"] {
        let api = Api::<CustomResourceDefinition>::all(admin.clone());
        eventually(crd, || async {
            let found = api.get(&format!("{crd}.sigil.dev")).await.unwrap();
            let conditions = found.status.unwrap_or_default().conditions.unwrap_or_default();
            conditions
                .iter()
                .any(|one| one.type_ == "Established" && one.status == "True")
                .then_some(())
                .ok_or_else(|| format!("{conditions:?}"))
        })
        .await;
    }
    let accounts = Api::<ServiceAccount>::namespaced(admin, SYSTEM);
    let request = TokenRequest::default();
    let token = accounts
        .create_token_request("sigil-operator", &PostParams::default(), &request)
        .await
        .unwrap();
    server.client(&token.status.unwrap().token)
}

/// Measurements for the chart: one development image that pins one key.
pub(crate) fn measurements(image: &str) -> Value {
    let pcr = |digit: &str| digit.repeat(96);
    serde_json::json!({"measurements": {image: [{
        "formatVersion": 1, "kind": "process", "arch": "x86_64", "app": "demo",
        "pcr0": pcr("1"), "pcr1": pcr("2"), "pcr2": pcr("3"), "pcr3": pcr("4"),
        "pinsSha384": pcr("5"), "insecure": true,
        "kms": [{"prefix": "", "region": "us-east-1", "host": "kms.us-east-1.amazonaws.com",
            "keyArns": ["arn:aws:kms:us-east-1:111122223333:key/one"]}],
    }]}})
}

/// An operator that runs in this process until it is told to stop.
pub(crate) struct Operator {
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), RunError>>,
}

// === impl Operator ===

impl Operator {
    pub(crate) fn start(client: Client, identity: &str) -> Self {
        let (stop, stopped) = watch::channel(false);
        let args = Args {
            namespace: SYSTEM.to_owned(),
            identity: identity.to_owned(),
            health_address: "127.0.0.1:0".parse().unwrap(),
            metrics_address: "127.0.0.1:0".parse().unwrap(),
        };
        Self { stop, task: tokio::spawn(run_with(args, client, stopped)) }
    }

    /// Stops it as SIGTERM does.
    pub(crate) async fn stop(self) -> Result<(), RunError> {
        self.stop.send_replace(true);
        self.ended().await
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(self) -> Result<(), RunError> {
        tokio::time::timeout(DEADLINE, self.task).await.expect("it does not end").unwrap()
    }
}
