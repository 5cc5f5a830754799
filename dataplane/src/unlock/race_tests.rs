//! A hundred dataplanes make the DEK of one keyspace at once, over real enclaves of one image, one
//! store and one KMS, and most of them are stopped, some at each step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use bytes::Bytes;
use devkms::policy::{Measured, attested_use};
use devkms::{BREAK_GLASS_ROLE, DATAPLANE_ROLE, TestKms, TestKmsOptions};
use futures_util::future::{BoxFuture, FutureExt, join_all};
use sigil_attestation::{Measurement, PcrAllowList, TrustRoot};
use sigil_enclave::boot::{Running, start};
use sigil_enclave_image::measurements::Measurements;
use sigil_enclave_image::pins::{Ceilings, KeyspaceRule, Pins, VerifyMode};
use sigil_enclave_insecure::nsm::{SoftwareNsm, test_root_der};
use sigil_enclave_insecure::serve::process_parts;
use sigil_enclave_protocol::EnclaveAddress;
use sigil_enclave_protocol::handshake::io::claim;
use sigil_enclave_protocol::v1::{DekState, StateRequest};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{interval, timeout};

use super::exchange::ExchangeError;
use super::*;
use crate::app::{App, CreateRequest};
use crate::attest::{BirthVerifier, Trust};
use crate::config::{Kms, Unlock};
use crate::failpoint::{UNLOCK_POINTS, stop};
use crate::pool::Boot;
use crate::store::{CurrentRecord, EmbeddedStore, Page, Put, Row, Store, StoreError, Swap, Table};

const RACERS: usize = 100;
const ENCLAVES: usize = 10;
const KEYSPACE: &str = "default";
const EXECUTABLE: &[u8] = b"the executable";
/// Longest wait for anything; generous, since machines of tests are shared.
const PATIENCE: Duration = Duration::from_mins(2);

/// The shared store. Nobody is elected before every racer stands at the election or was stopped on
/// the way, so that all of them have found no `current` and have a DEK of their own.
struct StartLine {
    store: EmbeddedStore,
    arrived: watch::Sender<usize>,
}

/// Store, KMS and what all enclaves have in common.
struct Bench {
    line: Arc<StartLine>,
    records: Records,
    kms: TestKms,
    pins: Vec<u8>,
    image: Measurement,
    folder: TempDir,
}

/// An enclave with the worker of its dataplane.
struct Member {
    running: Option<Running>,
    boot: Arc<Boot>,
    pool: Pool,
    worker: Worker,
    _boots: watch::Sender<Option<Arc<Boot>>>,
}

// === impl StartLine ===

impl StartLine {
    fn arrive(&self) {
        self.arrived.send_modify(|count| *count += 1);
    }
}

impl Store for StartLine {
    fn get(&self, table: Table, key: Bytes) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>> {
        self.store.get(table, key)
    }

    fn put_if_absent(&self, table: Table, row: Row) -> BoxFuture<'_, Result<Put, StoreError>> {
        self.store.put_if_absent(table, row)
    }

    fn compare_and_swap(
        &self,
        table: Table,
        expected: Option<Bytes>,
        row: Row,
    ) -> BoxFuture<'_, Result<Swap, StoreError>> {
        async move {
            self.arrive();
            let mut arrived = self.arrived.subscribe();
            arrived.wait_for(|count| *count >= RACERS).await.unwrap();
            self.store.compare_and_swap(table, expected, row).await
        }
        .boxed()
    }

    fn list(
        &self,
        table: Table,
        keyspace: String,
        after: Option<Bytes>,
        rows_max: usize,
    ) -> BoxFuture<'_, Result<Page, StoreError>> {
        self.store.list(table, keyspace, after, rows_max)
    }
}

// === impl Bench ===

impl Bench {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&folder.path().join("store"), |_| {}).unwrap();
        let line = Arc::new(StartLine { store, arrived: watch::Sender::new(0) });
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
        let records = Records::new(Arc::clone(&line) as Arc<dyn Store>);
        Self { line, records, kms, pins, image, folder }
    }

    /// Another enclave of the image, claimed, with a connection.
    async fn member(&self, name: usize) -> Member {
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
        let pool = Pool::start(boots, 1, Arc::new(Metrics::new()));
        let worker = self.worker(pool.clone());
        Member { running, boot, pool, worker, _boots: sender }
    }

    fn worker(&self, pool: Pool) -> Worker {
        let kms = Kms {
            region: self.kms.region().to_owned(),
            key_arn: Some(self.kms.key_arn.clone()),
            address: Some(self.kms.addr.to_string()),
        };
        // A hundred exchanges at once are slow where cores are few.
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
        Worker {
            exchanger: Exchanger::new(pool, authorizer, kms, limits),
            records: self.records.clone(),
            key_arn: Some(self.kms.key_arn.clone()),
        }
    }

    /// What applications talk to, over the enclave of `member`.
    fn app(&self, member: &Member) -> App {
        let root = TrustRoot::from_der(test_root_der().to_vec()).unwrap();
        let trust = Trust { root, images: PcrAllowList::new(vec![self.image]) };
        let metrics = Arc::new(Metrics::new());
        App::new(
            member.pool.clone(),
            self.records.clone(),
            Unlocker::new(&Unlock::default(), Arc::clone(&metrics)),
            Arc::new(BirthVerifier::new(Arc::new(trust))),
            metrics,
            vec![KEYSPACE.to_owned()].into(),
        )
    }

    /// The DEKs that `current` names, whatever the image.
    async fn currents(&self) -> Vec<[u8; 16]> {
        let page = self.line.list(Table::Current, KEYSPACE.to_owned(), None, 1_000).await.unwrap();
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
    /// What a job for the keyspace's sealing DEK does, tried again as the runner does.
    async fn unlock(&self) -> Unlocked {
        let job = Job {
            key: JobKey { keyspace: KEYSPACE.into(), target: Target::Sealing },
            id: "u-race".into(),
            boot_id: self.boot.boot_id,
            reason: Reason::Boot,
            key_id: None,
            queued_at: Instant::now(),
            rounds_failed: 0,
            last_error: None,
            sealed_at: None,
        };
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

    async fn attempt(&self, job: &Job) -> Result<Unlocked, ExchangeError> {
        let dek_id = self.worker.resolve(job, &self.boot).await?;
        self.worker.open(job, dek_id, &self.boot).await
    }

    async fn deks(&self) -> Vec<DekState> {
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

/// Where the racer with this number is stopped; two of eight go to the end.
fn stopped_at(racer: usize) -> Option<&'static str> {
    UNLOCK_POINTS.get(racer % (UNLOCK_POINTS.len() + 2)).copied()
}

/// A racer that is stopped here never comes to the election.
fn stopped_before_election(point: &str) -> bool {
    ["unlock.begun", "unlock.generated", "unlock.row-stored"].contains(&point)
}

/// One racer in a task of its own; gives the point that stopped it.
async fn race(
    racer: usize,
    line: Arc<StartLine>,
    member: Arc<Member>,
) -> Result<Unlocked, &'static str> {
    let point = stopped_at(racer);
    let task = tokio::spawn(async move { stop::at(point, member.unlock()).await });
    let panic = match task.await {
        Ok(unlocked) => return Ok(unlocked),
        Err(error) => error.into_panic(),
    };
    let Ok(stopped) = panic.downcast::<stop::Stopped>() else {
        panic!("racer {racer} failed; its message is above");
    };
    if stopped_before_election(stopped.0) {
        line.arrive();
    }
    Err(stopped.0)
}

/// The id of the DEK that the blob's own header names: `docs/formats.md`, "Key blob".
fn dek_of(blob: &[u8]) -> [u8; 16] {
    let mut at = b"SGK1".len() + 3;
    for _ in ["app", "keyspace"] {
        at += 2 + usize::from(u16::from_be_bytes([blob[at], blob[at + 1]]));
    }
    blob[at..at + 16].try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_generations_stopped_at_each_step_leave_one_current_and_nothing_under_a_loser() {
    timeout(PATIENCE, race_and_check()).await.expect("the race ends");
}

async fn race_and_check() {
    let bench = Bench::start();
    let mut members = Vec::new();
    for name in 0..ENCLAVES {
        members.push(Arc::new(bench.member(name).await));
    }
    let racers = (0..RACERS).map(|racer| {
        let member = Arc::clone(&members[racer % ENCLAVES]);
        race(racer, Arc::clone(&bench.line), member)
    });
    let ends = join_all(racers).await;

    let mut stopped = BTreeMap::new();
    for (racer, end) in ends.iter().enumerate() {
        assert_eq!(end.as_ref().err().copied(), stopped_at(racer), "racer {racer}");
        *stopped.entry(end.as_ref().err().copied()).or_insert(0_usize) += 1;
    }
    assert_eq!(stopped.len(), UNLOCK_POINTS.len() + 1, "some at each step, some to the end");
    let [current] = bench.currents().await[..] else { panic!("not one `current`") };
    for unlocked in ends.iter().flatten() {
        assert!(unlocked.sealing && unlocked.dek_id == current);
    }
    // Every generation that was stopped after its row was written left its row, and no other did.
    let (rows, _) = bench.records.deks(KEYSPACE, None, 1_000).await.unwrap();
    let made: BTreeSet<_> = rows.iter().map(|row| row.dek_id).collect();
    let rowless = stopped[&Some("unlock.begun")] + stopped[&Some("unlock.generated")];
    assert_eq!(made.len(), RACERS - rowless);
    assert!(made.contains(&current));
    for member in &members {
        let installed = member.deks().await;
        assert!(
            installed.iter().all(|dek| dek.dek_id[..] == current && dek.sealing),
            "a loser is never installed: {installed:?}"
        );
    }
    assert_new_keys_are_under(&bench, &members, current, &made).await;
}

/// Every member goes on, those whose racers were all stopped too, and makes keys.
async fn assert_new_keys_are_under(
    bench: &Bench,
    members: &[Arc<Member>],
    current: [u8; 16],
    made: &BTreeSet<[u8; 16]>,
) {
    const KEYS_EACH: usize = 3;
    for member in members {
        let unlocked = member.unlock().await;
        assert!(unlocked.sealing && unlocked.dek_id == current);
        let app = bench.app(member);
        for _ in 0..KEYS_EACH {
            let keyspace = KEYSPACE.to_owned();
            let request =
                CreateRequest { keyspace, idempotency_key: None, challenge: Bytes::new() };
            app.create(request).await.unwrap();
        }
        let sealing: Vec<_> = member.deks().await.into_iter().filter(|dek| dek.sealing).collect();
        assert!(matches!(&sealing[..], [dek] if dek.dek_id[..] == current), "{sealing:?}");
    }
    let (keys, _) = bench.records.keys(KEYSPACE, None, 1_000).await.unwrap();
    assert_eq!(keys.len(), members.len() * KEYS_EACH);
    let dek = bench.records.dek(current).await.unwrap().unwrap();
    for key in &keys {
        assert_eq!((key.dek_id, dek_of(&key.blob)), (current, current));
        assert_eq!(key.wrapped_dek, dek.wrapped_dek, "the record's own copy is the winner's");
    }
    let (rows, _) = bench.records.deks(KEYSPACE, None, 1_000).await.unwrap();
    let still: BTreeSet<_> = rows.iter().map(|row| row.dek_id).collect();
    assert_eq!(&still, made, "losers' rows stay, and nobody made another DEK");
    assert_eq!(bench.currents().await, [current]);
}
