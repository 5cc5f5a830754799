//! One of everything.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use devkms::policy::{Measured, attested_use};
use devkms::{BREAK_GLASS_ROLE, DATAPLANE_ROLE, FaultMode, TestKms, TestKmsOptions};
use http::Request;
use serde_json::{Value, json};
use sigil_enclave_image::pins::{Ceilings, KeyspaceRule, Pins, VerifyMode};
use sigil_enclave_insecure::nsm::test_root_der;
use sigil_image_authoring::measurements::Measurements;
use tempfile::TempDir;

use super::client::{self, Answer, Grpc};
use super::process::{Process, binary};
use super::{PATIENCE, eventually};

/// What a test may want different.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Settings of the connections to the enclave.
    pub(crate) pool: &'static str,
    /// How the KMS is wrong from the start.
    pub(crate) fault: FaultMode,
    /// The measurements that the dataplane allows are others.
    pub(crate) other_image: bool,
    /// The dataplane looks for the launcher at `cable-handoff.sock`, where a [`super::Cutter`] is.
    pub(crate) cable: bool,
    /// Files and sockets that the dataplane may have open.
    pub(crate) files_max: Option<u32>,
    /// The enclave is of the next image: another executable, so another PCR0.
    pub(crate) next_image: bool,
    /// More settings of the dataplane: `unlock:` and `cache:`.
    pub(crate) extra: &'static str,
    /// The value of `store`; absent: an embedded store in the bench's folder.
    pub(crate) store: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            pool: "min: 2, max: 4",
            fault: FaultMode::Off,
            other_image: false,
            cable: false,
            files_max: None,
            next_image: false,
            extra: "unlock: {recoveryMs: 200}",
            store: None,
        }
    }
}

/// Test KMS, launcher with enclave, dataplane; all end with it.
pub(crate) struct Bench {
    pub(crate) dataplane: Process,
    pub(crate) launcher: Process,
    pub(crate) kms: Arc<TestKms>,
    pub(crate) measurements: Measurements,
    /// What the dataplane is started by, if not directly.
    pub(crate) wrapper: Vec<String>,
    folder: TempDir,
}

impl Bench {
    /// Everything started; the dataplane answers, the enclave may still be starting.
    pub(crate) async fn start() -> Self {
        Self::with(Settings::default()).await
    }

    pub(crate) async fn with(settings: Settings) -> Self {
        let mut bench = Self::without_dataplane(&settings);
        bench.start_dataplane(&[]).await;
        bench
    }

    /// Everything but a dataplane that answers; [`Bench::start_dataplane`] starts it.
    pub(crate) fn without_dataplane(settings: &Settings) -> Self {
        let attestation_root_der = test_root_der().to_vec();
        let kms = TestKms::start(TestKmsOptions { attestation_root_der, policy: None }).unwrap();
        Self::assemble(Arc::new(kms), settings)
    }

    /// Another launcher with an enclave, and another dataplane, with the same pins and the same KMS.
    pub(crate) fn beside(other: &Self, settings: &Settings) -> Self {
        Self::assemble(Arc::clone(&other.kms), settings)
    }

    fn assemble(kms: Arc<TestKms>, settings: &Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("root.der"), test_root_der()).unwrap();
        let pins = pins(&kms).encode().unwrap();
        std::fs::write(path("pins.cbor"), &pins).unwrap();
        let mut enclave = binary("sigil-enclave-insecure");
        let mut executable = std::fs::read(&enclave).unwrap();
        if settings.next_image {
            let mode = std::fs::metadata(&enclave).unwrap().permissions();
            executable.extend(b"next");
            enclave = path("enclave");
            std::fs::write(&enclave, &executable).unwrap();
            std::fs::set_permissions(&enclave, mode).unwrap();
        }
        let measurements = Measurements::of_process(&executable, &pins).unwrap();
        kms.put_policy(&policy(&kms, &measurements)).unwrap();
        kms.set_fault(settings.fault).unwrap();
        std::fs::write(
            path("dataplane.yaml"),
            config(folder.path(), &kms, &measurements, settings),
        )
        .unwrap();
        let launcher = Process::start(
            Command::new(binary("sigil-launcher"))
                .arg("process")
                .args([&"--enclave".into(), &enclave, &"--pins".into(), &path("pins.cbor")])
                .arg("--listen")
                .arg(format!("unix:{}", path("enclave.sock").display()))
                .args([&"--handoff".into(), &path("handoff.sock")]),
            &path("launcher.log"),
        );
        let dataplane = Process::start(&mut Command::new("true"), &path("dataplane.log"));
        let limited = |files| vec!["prlimit".to_owned(), format!("--nofile={files}")];
        let wrapper = settings.files_max.map(limited).unwrap_or_default();
        Self { dataplane, launcher, kms, measurements, wrapper, folder }
    }

    fn dataplane_command(&self) -> Command {
        let dataplane = env!("CARGO_BIN_EXE_sigil-dataplane");
        let Some((first, rest)) = self.wrapper.split_first() else {
            return Command::new(dataplane);
        };
        let mut command = Command::new(first);
        command.args(rest).arg(dataplane);
        command
    }

    /// Starts the dataplane with more environment and waits until it answers or has ended.
    pub(crate) async fn start_dataplane(&mut self, environment: &[(&str, &str)]) {
        let credentials = self.kms.credentials();
        self.dataplane = Process::start(
            self.dataplane_command()
                .args([&"serve".into(), &"--config".into(), &self.path("dataplane.yaml")])
                .env("SIGIL_LOG", "debug,h2=info,hyper=info")
                .env("HOME", self.folder.path())
                .env("AWS_ACCESS_KEY_ID", &credentials.access_key)
                .env("AWS_SECRET_ACCESS_KEY", &credentials.secret)
                .env("AWS_SESSION_TOKEN", &credentials.session_token)
                // Must have no effect: KMS is where the configuration says.
                .env("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
                .envs(environment.iter().copied()),
            &self.path("dataplane.log"),
        );
        eventually("the dataplane answers", async || {
            if self.dataplane.has_ended() {
                return Some(());
            }
            self.admin("GET", "/livez").await.ok().map(|_| ())
        })
        .await;
    }

    /// SIGKILL, then a new process over the same store.
    pub(crate) async fn restart_dataplane(&mut self) {
        self.dataplane.kill();
        self.start_dataplane(&[]).await;
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A request to the public listener.
    pub(crate) async fn http(&self, request: Request<Bytes>) -> Result<Answer, String> {
        client::send(&self.path("public.sock"), request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        let request = Request::get(path).header("host", "sigil").body(Bytes::new()).unwrap();
        self.http(request).await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Answer, String> {
        let request = Request::post(path)
            .header("host", "sigil")
            .header("content-type", "application/json")
            .body(body.to_string().into())
            .unwrap();
        self.http(request).await
    }

    /// A request to the admin listener.
    pub(crate) async fn admin(&self, verb: &str, path: &str) -> Result<Answer, String> {
        let request = Request::builder().method(verb).uri(path).header("host", "sigil");
        client::send(&self.path("admin.sock"), request.body(Bytes::new()).unwrap()).await
    }

    pub(crate) async fn grpc(&self) -> Grpc {
        client::grpc(&self.path("public.sock")).await
    }

    /// One whose first `requests` reach the dataplane together.
    pub(crate) async fn grpc_gathered(&self, requests: usize) -> Grpc {
        client::gathered(self.path("public.sock"), requests).await
    }

    /// Lines of the dataplane's log with this message.
    pub(crate) fn logged(&self, message: &str) -> Vec<Value> {
        let log = std::fs::read_to_string(self.path("dataplane.log")).unwrap();
        // The last line may be half written.
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["message"] == message).collect()
    }

    /// Attempts to unlock that ended without an answer; KMS may have given one. The enclave gives KMS two
    /// seconds of a clock that runs on while the machine has no time for it, so there may be some
    /// whenever the machine is busy. What is counted at KMS may be higher by these.
    pub(crate) fn unlocks_cut_off(&self) -> u64 {
        let failed = self.logged("unlock attempt failed");
        let cut_off = |line: &&Value| line["reason"] == "timeout" || line["reason"] == "enclave";
        failed.iter().filter(cut_off).count() as u64
    }

    /// Waits until both keyspaces are unlocked and signed once; gives the status.
    pub(crate) async fn every_keyspace_tested(&self) -> Value {
        eventually("test signature", async || {
            let status = self.status().await;
            let tested = |name: &str| status["keyspaces"][name]["testSignatureMs"].is_number();
            (tested("default") && tested("payments")).then_some(status)
        })
        .await
    }

    /// The member's status as JSON.
    pub(crate) async fn status(&self) -> Value {
        self.admin("GET", "/debug/status").await.unwrap().json()
    }

    /// A metric of the connections to the enclave.
    pub(crate) async fn pool_metric(&self, name: &str) -> f64 {
        self.metric(&format!("{name}{{enclave_id=\"local\"}}")).await
    }

    /// A metric's value, 0 if it is absent.
    pub(crate) async fn metric(&self, line: &str) -> f64 {
        let text = self.admin("GET", "/metrics").await.unwrap().body;
        let text = String::from_utf8(text.to_vec()).unwrap();
        let found = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
        found.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Creates, again and again while the answer asks to retry.
    pub(crate) async fn create(&self, body: &Value) -> Value {
        let answer = eventually("create", async || {
            let answer = self.post("/create", body).await.unwrap();
            (answer.json()["retryAfterMs"].is_null()).then_some(answer)
        })
        .await;
        assert_eq!(answer.status, 200, "{}", answer.json());
        answer.json()
    }

    /// Signs, again and again while the answer asks to retry.
    pub(crate) async fn sign(&self, key_id: &str, digest: [u8; 32]) -> Value {
        let body = json!({ "keyId": key_id, "digest": const_hex::encode(digest), "der": true });
        let answer = eventually("sign", async || {
            let answer = self.post("/sign", &body).await.ok()?;
            (answer.json()["retryAfterMs"].is_null()).then_some(answer)
        })
        .await;
        assert_eq!(answer.status, 200, "{}", answer.json());
        answer.json()
    }

    /// The key signs, and an independent implementation accepts the signature under the public key
    /// that was acknowledged.
    pub(crate) async fn assert_signs(&self, created: &Value) {
        use k256::ecdsa::signature::hazmat::PrehashVerifier;
        use k256::ecdsa::{RecoveryId, Signature, VerifyingKey};
        let digest = [0x42; 32];
        let signed = self.sign(created["keyId"].as_str().unwrap(), digest).await;
        assert_eq!(signed["publicKey"], created["publicKey"]);
        let bytes = |field: &str| const_hex::decode(signed[field].as_str().unwrap()).unwrap();
        let key = VerifyingKey::from_sec1_bytes(&bytes("publicKey")).unwrap();
        let signature = Signature::from_slice(&bytes("signature")).unwrap();
        key.verify_prehash(&digest, &signature).unwrap();
        assert_eq!(Signature::from_der(&bytes("der")).unwrap(), signature);
        assert_eq!(signature.normalize_s(), signature, "low S");
        let recovery = u8::try_from(signed["recoveryId"].as_u64().unwrap()).unwrap();
        let recovery = RecoveryId::from_byte(recovery).unwrap();
        let recovered = VerifyingKey::recover_from_prehash(&digest, &signature, recovery).unwrap();
        assert_eq!(recovered, key);
    }

    /// Keys that the store lists, over all pages.
    pub(crate) async fn listed(&self) -> Vec<Value> {
        let mut keys = Vec::new();
        let mut path = "/keys".to_owned();
        loop {
            let page = self.get(&path).await.json();
            keys.extend(page["keys"].as_array().unwrap().iter().cloned());
            match page["nextPage"].as_str() {
                Some(next) => path = format!("/keys?page={next}"),
                None => return keys,
            }
        }
    }
}

fn pins(kms: &TestKms) -> Pins {
    Pins {
        app: "sigil-test".to_owned(),
        rules: vec![KeyspaceRule {
            prefix: String::new(),
            key_arns: vec![kms.key_arn.clone()],
            region: kms.region().to_owned(),
            host: kms.host().to_owned(),
        }],
        tls_roots: vec![kms.tls_root_der.clone()],
        attestation_root: test_root_der().to_vec(),
        verify_mode: VerifyMode::BatchSample,
        ceilings: Ceilings::default(),
        parent_cid: 2,
        insecure: true,
    }
}

fn policy(kms: &TestKms, measurements: &Measurements) -> String {
    let measured: Measured = serde_json::from_str(&measurements.to_json().unwrap()).unwrap();
    attested_use(&[measured], None, &kms.key_arn, DATAPLANE_ROLE, BREAK_GLASS_ROLE)
        .unwrap()
        .to_json()
}

fn config(
    folder: &Path,
    kms: &TestKms,
    measurements: &Measurements,
    settings: &Settings,
) -> String {
    let pool = settings.pool;
    let folder = folder.display();
    let embedded = || format!("{{embedded: {{path: {folder}/store}}}}");
    let store = settings.store.clone().unwrap_or_else(embedded);
    let pcr = |pcr: &[u8; 48]| const_hex::encode(pcr);
    let handoff = if settings.cable { "cable-handoff.sock" } else { "handoff.sock" };
    let pcr0 = if settings.other_image { [7; 48] } else { measurements.pcr0 };
    format!(
        "listeners: {{public: 'unix:{folder}/public.sock', admin: 'unix:{folder}/admin.sock'}}\n\
         workers: 1\n\
         pool: {{{pool}}}\n\
         enclave:\n  handoff: {folder}/{handoff}\n  attestationRoot: {folder}/root.der\n  \
         measurements: [{{pcr0: '{}', pcr1: '{}', pcr2: '{}'}}]\n\
         kms: {{region: {}, keyArn: '{}', address: '{}'}}\n\
         keyspaces: [default, payments]\n\
         store: {store}\n\
         limits: {{requestTimeoutMs: {}}}\n{}\n",
        pcr(&pcr0),
        pcr(&measurements.pcr1),
        pcr(&measurements.pcr2),
        kms.region(),
        kms.key_arn,
        kms.addr,
        // A request takes what the machine's load makes of it; what tests wait for is their own bound.
        PATIENCE.as_millis(),
        settings.extra,
    )
}
