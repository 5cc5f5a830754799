//! Enclaves in this process with their dataplanes' workers, over one store and one test KMS.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use devkms::policy::{Measured, attested_use};
use devkms::{BREAK_GLASS_ROLE, DATAPLANE_ROLE, TestKms, TestKmsOptions};
use sigil_enclave::boot::{Running, start};
use sigil_enclave_client::EnclaveAddress;
use sigil_enclave_client::connect::claim;
use sigil_enclave_image::pins::{Ceilings, KeyspaceRule, Pins, VerifyMode};
use sigil_enclave_insecure::nsm::{SoftwareNsm, test_root_der};
use sigil_enclave_insecure::serve::process_parts;
use sigil_enclave_protocol::v1::{DekState, StateRequest};
use sigil_image_authoring::measurements::Measurements;
use sigil_verifier::{Measurement, PcrAllowList, TrustRoot};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, interval};

use super::super::Unlocker;
use super::super::authorize::Authorizer;
use super::super::exchange::{ExchangeError, Exchanger};
use super::super::queue::{Job, JobKey, Reason, Target};
use super::super::worker::{Unlocked, Worker};
use crate::access::Caller;
use crate::app::{App, Asked, Asker, CreateRequest, Created, Guards};
use crate::attest::{BirthVerifier, Trust};
use crate::config::{Audit, AuditOutput, Config, Kms, Unlock};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::pool::{Boot, Pool, Upstream, Wanted};
use crate::router::{RetryBudget, Router};
use crate::status::KmsErrorClass;
use crate::store::{CurrentRecord, EmbeddedStore, Records, Store, Table};

pub(super) const KEYSPACE: &str = "default";
const EXECUTABLE: &[u8] = b"the executable";
/// Longest wait for anything; generous, since machines of tests are shared.
pub(super) const PATIENCE: Duration = Duration::from_mins(2);

/// Store, KMS and what all enclaves have in common.
pub(super) struct Bench {
    pub(super) store: Arc<dyn Store>,
    pub(super) records: Records,
    pub(super) kms: TestKms,
    pins: Vec<u8>,
    pub(super) image: Measurement,
    /// Exchanges at once, over all members: as many as there are cores. Each has two seconds in the
    /// enclave, of a clock that runs on while others have the core. A hundred at once share it so finely
    /// that on a busy machine none ends in time, and all begin anew.
    exchanges: Arc<Semaphore>,
    folder: TempDir,
}

/// An enclave with the worker of its dataplane.
pub(super) struct Member {
    running: Option<Running>,
    pub(super) boot: Arc<Boot>,
    pub(super) pool: Pool,
    worker: Worker,
    pub(super) boots: watch::Sender<Option<Arc<Boot>>>,
}

// === impl Bench ===

impl Bench {
    /// `wrap` may put something between the engine and its users.
    pub(super) fn start<S: Store + 'static>(wrap: impl FnOnce(EmbeddedStore) -> Arc<S>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&folder.path().join("store"), |_| {}).unwrap();
        let store: Arc<dyn Store> = wrap(store);
        let attestation_root_der = test_root_der().to_vec();
        let kms = TestKms::start(TestKmsOptions { attestation_root_der, policy: None }).unwrap();
        let pins = pins(&kms).encode().unwrap();
        let measurements = Measurements::of_process(EXECUTABLE, &pins).unwrap();
        let measured: Measured = serde_json::from_str(&measurements.to_json().unwrap()).unwrap();
        let policy =
            attested_use(&[measured], None, &kms.key_arn, DATAPLANE_ROLE, BREAK_GLASS_ROLE);
        kms.put_policy(&policy.unwrap().to_json()).unwrap();
        let Measurements { pcr0, pcr1, pcr2, .. } = measurements;
        let image = Measurement { pcr0, pcr1, pcr2 };
        let records = Records::new(Arc::clone(&store));
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let exchanges = Arc::new(Semaphore::new(cores));
        Self { store, records, kms, pins, image, exchanges, folder }
    }

    /// Another enclave of the image, claimed, with a connection.
    pub(super) async fn member(&self, name: usize) -> Member {
        let socket = self.folder.path().join(format!("enclave-{name}.sock"));
        let nsm = Arc::new(SoftwareNsm::new(EXECUTABLE, &self.pins).unwrap());
        let address = EnclaveAddress::UnixPath(socket.clone());
        let parts = process_parts(self.pins.clone(), nsm, &address, Some(1)).unwrap();
        let running = Some(start(parts).unwrap());
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        let (accepted, token) = claim(&mut stream).await.unwrap();
        let boot_id = accepted.hello.boot_id;
        let boot =
            Arc::new(Boot { boot_id, address, token, pcr0: self.image.pcr0, trusted: false });
        let (sender, boots) = watch::channel(Some(Arc::clone(&boot)));
        let upstream = Arc::new(Upstream::new("test", crate::config::Pool::default()));
        let pool = Pool::start(boots, &upstream, Wanted::Fixed(1));
        let worker = self.worker(pool.clone());
        Member { running, boot, pool, worker, boots: sender }
    }

    fn worker(&self, pool: Pool) -> Worker {
        let kms = Kms {
            region: self.kms.region().to_owned(),
            key_arn: Some(self.kms.key_arn.clone()),
            address: Some(self.kms.addr.to_string()),
        };
        // What waits for others' exchanges is not late.
        let limit_ms = u64::try_from(PATIENCE.as_millis()).unwrap();
        let limits = Unlock {
            connect_timeout_ms: limit_ms,
            attempt_timeout_ms: limit_ms,
            operation_timeout_ms: limit_ms,
            ..Unlock::default()
        };
        let lent = self.kms.credentials();
        let lent =
            Credentials::new(lent.access_key, lent.secret, Some(lent.session_token), None, "test");
        let authorizer = Authorizer::new(&kms, Some(SharedCredentialsProvider::new(lent)));
        let limits = Arc::new(ArcSwap::from_pointee(limits));
        let mut exchanger = Exchanger::new(pool, authorizer, kms, limits);
        exchanger.open = Arc::clone(&self.exchanges);
        Worker { exchanger, records: self.records.clone(), key_arn: Some(self.kms.key_arn.clone()) }
    }

    /// What applications talk to, over the enclave of `member`.
    pub(super) fn app(&self, member: &Member) -> App {
        let root = TrustRoot::from_der(test_root_der().to_vec()).unwrap();
        let images = PcrAllowList::new(vec![self.image]);
        let trust = Trust { root, birthplaces: images.clone(), images };
        let metrics = Arc::new(Metrics::new());
        let guards = Guards::new(&quiet(), &metrics).unwrap();
        App::new(
            Router::new(member.pool.clone(), Arc::new(RetryBudget::new(Instant::now()))),
            self.records.clone(),
            Unlocker::new(&Unlock::default(), Arc::clone(&metrics)),
            Arc::new(BirthVerifier::new(Arc::new(trust))),
            metrics,
            (vec![KEYSPACE.to_owned()].into(), guards),
        )
    }

    /// The DEKs that `current` names, whatever the image.
    pub(super) async fn currents(&self) -> Vec<[u8; 16]> {
        let page = self.store.list(Table::Current, KEYSPACE.to_owned(), None, 1_000).await.unwrap();
        let named = page.rows.iter().map(|(_, row)| CurrentRecord::decode(row).unwrap().dek_id);
        named.collect()
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

// === impl Member ===

impl Member {
    /// A job of this boot, as the queue would give it out.
    pub(super) fn job(&self, target: Target) -> Job {
        Job {
            key: JobKey { keyspace: KEYSPACE.into(), target },
            id: "u-test".into(),
            boot_id: self.boot.boot_id,
            reason: Reason::Boot,
            key_id: None,
            queued_at: Instant::now(),
            rounds_failed: 0,
            last_error: None,
            sealed_at: None,
        }
    }

    /// What a job for the keyspace's sealing DEK does, tried again as the runner does.
    pub(super) async fn unlock(&self) -> Unlocked {
        let job = self.job(Target::Sealing);
        let mut ticks = interval(Duration::from_millis(20));
        loop {
            ticks.tick().await;
            match self.attempt(&job).await {
                Ok(unlocked) => return unlocked,
                // The enclave gives KMS two seconds, and begun unlocks of the stopped take places.
                Err(error) => assert_ne!(error.class, KmsErrorClass::Attestation, "{error}"),
            }
        }
    }

    /// One attempt.
    pub(super) async fn attempt(&self, job: &Job) -> Result<Unlocked, ExchangeError> {
        let dek_id = self.worker.resolve(job, &self.boot).await?;
        self.worker.open(job, dek_id, &self.boot).await
    }

    pub(super) async fn deks(&self) -> Vec<DekState> {
        self.pool.wait_for(self.boot.boot_id).await;
        let (mut client, _) = self.pool.client().unwrap();
        client.state(StateRequest {}).await.unwrap().into_inner().deks
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }
}

/// A key by way of the whole application.
pub(super) async fn create(app: &App) -> Result<Created, Error> {
    let keyspace = KEYSPACE.to_owned();
    let request = CreateRequest { keyspace, idempotency_key: None, challenge: bytes::Bytes::new() };
    let asker = nobody();
    app.create_anywhere(Asked::of_a_test(&asker), request).await
}

/// Settings without an audit among the output of tests.
fn quiet() -> Config {
    Config { audit: Audit { output: AuditOutput::Off }, ..Config::default() }
}

/// Whoever reaches the listener.
pub(super) fn nobody() -> Asker {
    Asker { caller: Caller::anybody("a test"), request_id: "r".into() }
}
