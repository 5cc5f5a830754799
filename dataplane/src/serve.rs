//! From settings to a running process: open and bind everything, then start threads, then serve until
//! told to stop.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::admin::Admin;
use crate::app::{App, Guards};
use crate::attest::{Attester, BirthVerifier, Trust};
use crate::audit::AuditTrail;
use crate::auth::Source as KeySource;
use crate::config::live::Live;
use crate::config::{Config, Engine, ListenAddress, Member};
use crate::ingress::listener::{Bound, bind_all};
use crate::ingress::{Ingress, Standard};
use crate::kubernetes::{self, Kubernetes, POD_UID};
use crate::metrics::{Callee, Metrics};
use crate::pool::{BootWatch, Pool, Share, Upstream, Wanted};
use crate::reload::{Reloader, Source};
use crate::reseal::Resealer;
use crate::router::membership::{Memberships, follow_file};
use crate::router::{Identity, Members, Peers, RetryBudget, Router, Table};
use crate::status::{MemberStatus, StatusWriter};
use crate::store::{EmbeddedStore, PostgresStore, Records, Store, StoreStatus};
use crate::tls::{Files, Tls};
use crate::unlock::Unlocker;

/// Threads of the control runtime: hand-off, attestation, unlock, admin, Kubernetes.
const CONTROL_THREADS: usize = 2;
/// Time that the audit has for its last lines.
const AUDIT_END_MAX: Duration = Duration::from_secs(1);
/// The control runtime's own connection to the enclave.
const CONTROL_CONNECTIONS: usize = 1;
/// Label `enclave_id` without Kubernetes.
const LOCAL_ENCLAVE: &str = "local";

/// A running dataplane. Dropping it without [`Server::stop`] leaves its threads running.
pub struct Server {
    /// Where applications connect; the real port if 0 was configured.
    pub public: ListenAddress,
    /// Where probes and metrics are.
    pub admin: ListenAddress,
    /// Newest status.
    pub status: watch::Receiver<MemberStatus>,
    live: Arc<Live>,
    status_writer: StatusWriter,
    metrics: Arc<Metrics>,
    audit: Arc<AuditTrail>,
    stop: watch::Sender<bool>,
    workers: Vec<JoinHandle<()>>,
    control: Runtime,
}

/// What every worker thread gets.
struct Shared {
    /// What was given at the start.
    config: Config,
    /// What is in force.
    live: Arc<Live>,
    boots: BootWatch,
    upstream: Arc<Upstream>,
    records: Records,
    unlocker: Unlocker,
    births: Arc<BirthVerifier>,
    metrics: Arc<Metrics>,
    budget: Arc<RetryBudget>,
    guards: Guards,
    table: Arc<Table>,
    identity: Arc<Identity>,
    standard: Standard,
    tls: Option<Arc<Tls>>,
    stop: watch::Receiver<bool>,
    workers: usize,
}

impl Shared {
    /// A router that asks the own enclave only.
    fn router(&self, pool: Pool) -> Router {
        Router::new(pool, Arc::clone(&self.budget))
    }

    /// The pool as the current runtime reaches it.
    fn members(&self) -> Members {
        Members {
            table: Arc::clone(&self.table),
            peers: Peers::start(Arc::clone(&self.table), Arc::clone(&self.identity)),
            policy: self.config.routing.policy,
            hop_time_max: self.config.routing.hop_time_max(),
        }
    }

    fn app(&self, router: Router) -> App {
        App::new(
            router,
            self.records.clone(),
            self.unlocker.clone(),
            Arc::clone(&self.births),
            Arc::clone(&self.metrics),
            (self.config.keyspaces.0.clone().into(), self.guards.clone()),
        )
    }
}

impl Server {
    /// Opens the store, reads the trust files, binds the listeners, starts everything.
    ///
    /// # Errors
    /// Anything of that fails; nothing is left running then.
    pub fn start(config: Config) -> anyhow::Result<Self> {
        let trust = Arc::new(Trust::load(&config)?);
        let tls = Files::of(&config.listeners.tls).map(Tls::load).transpose();
        let tls = tls.context("listeners.tls")?.map(Arc::new);
        let workers = worker_count(&config);
        let (public_sockets, public) = bind_all(&config.listeners.public, workers)
            .with_context(|| format!("listeners.public: {}", config.listeners.public))?;
        let (mut admin_sockets, admin) = bind_all(&config.listeners.admin, 1)
            .with_context(|| format!("listeners.admin: {}", config.listeners.admin))?;
        let status = StatusWriter::new(&config.keyspaces.0);
        let metrics = Arc::new(Metrics::new());
        let store = open_store(&config, &status, &metrics)?;
        metrics.store.show(&store, status.clone());
        let upstream = local_upstream(&config, &metrics);
        let (boots_sender, boots) = watch::channel(None);
        let (stop, stopped) = watch::channel(false);
        let control = Builder::new_multi_thread()
            .worker_threads(CONTROL_THREADS)
            .thread_name("control")
            .enable_all()
            .build()?;
        let standard = control.block_on(Standard::new())?;
        let shared = Arc::new(Shared {
            boots,
            upstream,
            records: Records::new(store).counting(metrics.rows_skipped.clone()),
            unlocker: Unlocker::new(&config.unlock, Arc::clone(&metrics)),
            births: Arc::new(BirthVerifier::new(Arc::clone(&trust))),
            metrics: Arc::clone(&metrics),
            budget: Arc::new(RetryBudget::new(Instant::now())),
            table: Arc::new(Table::of(&config, &metrics)),
            guards: Guards::new(&config, &metrics).with_context(|| {
                format!("audit.output: {}", String::from(config.audit.output.clone()))
            })?,
            identity: Arc::new(Identity::of(&config)),
            standard,
            tls,
            stop: stopped,
            workers,
            live: Arc::new(Live::new(config.clone())),
            config,
        });
        let attester = Attester {
            handoff: shared.config.enclave.handoff.clone(),
            trust,
            live: Arc::clone(&shared.live),
            boots: boots_sender,
            status: status.clone(),
            metrics: Arc::clone(&metrics),
        };
        let admin_socket = admin_sockets.pop().context("listeners.admin: nothing bound")?;
        control.spawn(run_control(Arc::clone(&shared), attester, status.clone(), admin_socket));
        let workers = start_workers(&shared, public_sockets)?;
        tracing::info!(%public, %admin, workers = workers.len(), "listening");
        Ok(Self {
            public,
            admin,
            status: status.subscribe(),
            live: Arc::clone(&shared.live),
            status_writer: status,
            metrics,
            audit: Arc::clone(&shared.guards.audit),
            stop,
            workers,
            control,
        })
    }

    /// Follows the file that the settings came from.
    pub fn follow(&self, source: Source) {
        let (live, status) = (Arc::clone(&self.live), self.status_writer.clone());
        let reloader = Reloader { source, live, status, metrics: Arc::clone(&self.metrics) };
        self.control.spawn(reloader.run());
    }

    /// Stops accepting, lets requests in flight end, closes the store.
    pub fn stop(self) {
        self.stop.send_replace(true);
        for worker in self.workers {
            if worker.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
        self.audit.stop(AUDIT_END_MAX);
        // Blocking reads of the store end by themselves; nothing else needs waiting for.
        self.control.shutdown_timeout(std::time::Duration::from_secs(1));
    }

    /// Waits on the control runtime, for a signal for example.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.control.block_on(work)
    }
}

/// The embedded engine must be there; a server may come later.
fn open_store(
    config: &Config,
    status: &StatusWriter,
    metrics: &Metrics,
) -> anyhow::Result<Arc<dyn Store>> {
    let status = status.clone();
    match config.store.engine() {
        Engine::Embedded(path) => {
            let report = move |durable: bool| {
                let error = (!durable).then(|| "the last commit failed; see the log".to_owned());
                let engine = "embedded";
                let ready = durable;
                status.store(StoreStatus { engine, ready, durable, error, durability: None });
            };
            Ok(Arc::new(EmbeddedStore::open(path, report)?))
        }
        Engine::Postgres(settings) => {
            let calls = metrics.calls(Callee::Postgres);
            let report = move |report| status.store(report);
            let store = PostgresStore::counting(settings, calls, report)?;
            Ok(Arc::new(store))
        }
    }
}

async fn run_control(shared: Arc<Shared>, attester: Attester, status: StatusWriter, admin: Bound) {
    let wanted = Wanted::Fixed(CONTROL_CONNECTIONS);
    let pool = Pool::start(shared.boots.clone(), &shared.upstream, wanted);
    let page = Admin {
        metrics: Arc::clone(&shared.metrics),
        status: status.clone(),
        unlocker: shared.unlocker.clone(),
        app: shared.app(shared.router(pool.clone())),
        request_time_max: shared.config.limits.request_timeout(),
    };
    match admin.listen() {
        Ok(listener) => drop(tokio::spawn(page.serve(listener))),
        Err(error) => return tracing::error!(%error, "admin listener"),
    }
    tokio::spawn(settle_unlocks(shared.unlocker.clone(), Arc::clone(&shared.live)));
    shared.unlocker.audit_to(shared.guards.audit.log());
    if shared.config.auth.tokens.enabled {
        tokio::spawn(follow_keys(Arc::clone(&shared)));
    }
    tokio::spawn(settle_guards(shared.guards.clone(), Arc::clone(&shared.live)));
    tokio::spawn(settle_pools(Arc::clone(&shared.metrics), Arc::clone(&shared.live)));
    tokio::spawn(shared.standard.clone().follow(status.subscribe(), shared.stop.clone()));
    if let Some(tls) = shared.tls.clone() {
        let metrics = Arc::clone(&shared.metrics);
        tokio::spawn(tls.follow(metrics, status.clone(), shared.stop.clone()));
    }
    follow_ring(&shared, &status);
    tokio::spawn(resealer(&shared, &status).run(shared.stop.clone()));
    let boots = shared.boots.clone();
    let records = shared.records.clone();
    shared.unlocker.start(&shared.config, pool, records, boots, status).await;
    attester.run().await;
}

fn resealer(shared: &Shared, status: &StatusWriter) -> Resealer {
    Resealer {
        records: shared.records.clone(),
        boots: shared.boots.clone(),
        upstream: Arc::clone(&shared.upstream),
        live: Arc::clone(&shared.live),
        metrics: Arc::clone(&shared.metrics),
        status: status.clone(),
    }
}

/// The unlock queue follows its settings.
async fn settle_unlocks(unlocker: Unlocker, live: Arc<Live>) {
    let mut changed = live.subscribe();
    while changed.changed().await.is_ok() {
        unlocker.settle(&live.load().unlock);
    }
}

/// What stands before requests follows its settings.
async fn settle_guards(guards: Guards, live: Arc<Live>) {
    let mut changed = live.subscribe();
    while changed.changed().await.is_ok() {
        guards.settle(&live.load());
    }
}

/// The ring comes from a file, from the API server, or from both.
fn follow_ring(shared: &Shared, status: &StatusWriter) {
    let Config { member, routing, .. } = &shared.config;
    let memberships = Memberships::new(member.as_ref().map(|member| member.pool.as_str()));
    tokio::spawn(Arc::clone(&shared.table).run(memberships.clone(), status.clone()));
    if let Some(path) = routing.membership_file.clone() {
        let memberships = memberships.clone();
        tokio::spawn(async move { follow_file(&path, &memberships).await });
    }
    if let Some(member) = member.clone() {
        let calls = shared.metrics.calls(Callee::Kubernetes);
        let client = kubernetes::connected(calls, shared.config.outbound.timeout_config.clone());
        tokio::spawn(run_kubernetes(client, member, status.subscribe(), memberships));
    }
}

/// Keys for tokens come from a file or the API server.
async fn follow_keys(shared: Arc<Shared>) {
    let tokens = &shared.config.auth.tokens;
    let source = if let Some(path) = &tokens.keys_file {
        KeySource::File(path.clone())
    } else {
        let calls = shared.metrics.calls(Callee::Kubernetes);
        let times = shared.config.outbound.timeout_config.clone();
        KeySource::ApiServer(Box::new(move || {
            let client = kubernetes::client(Arc::clone(&calls), times.clone());
            Box::pin(async { client.await.map_err(|error| error.to_string()) })
        }))
    };
    let every = Duration::from_secs(tokens.refresh_s);
    Arc::clone(&shared.guards.authenticator).follow_keys(source, every).await;
}

/// The connections to enclaves follow their settings. What an operator ordered meanwhile holds until
/// these change.
async fn settle_pools(metrics: Arc<Metrics>, live: Arc<Live>) {
    let mut changed = live.subscribe();
    let mut before = live.load().pool.clone();
    while changed.changed().await.is_ok() {
        let settings = live.load().pool.clone();
        if settings != before {
            for upstream in metrics.upstreams.find(None) {
                upstream.configure(settings.clone());
            }
        }
        before = settings;
    }
}

/// Signing goes on without the API server, so nothing here ends the process.
async fn run_kubernetes(
    client: impl Future<Output = kube::Client>,
    member: Member,
    status: watch::Receiver<MemberStatus>,
    memberships: Memberships,
) {
    let client = client.await;
    let pod_uid = std::env::var(POD_UID).unwrap_or_default();
    Kubernetes::new(client, member, pod_uid, status, memberships).run().await;
}

fn start_workers(shared: &Arc<Shared>, sockets: Vec<Bound>) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let cpus = allowed_cpus();
    let pinned = pinned_cpus(&cpus, sockets.len());
    let mut threads = Vec::with_capacity(sockets.len());
    for (index, socket) in sockets.into_iter().enumerate() {
        let shared = Arc::clone(shared);
        let cpu = pinned.get(index).copied();
        let all = cpus.clone();
        let runtime = Builder::new_current_thread()
            .enable_all()
            // Threads for blocking reads must not inherit the one core of the worker they serve.
            .on_thread_start(move || set_affinity(&all))
            .build()?;
        let thread = std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || run_worker(&runtime, &shared, (index, socket), cpu))?;
        threads.push(thread);
    }
    Ok(threads)
}

fn run_worker(
    runtime: &Runtime,
    shared: &Shared,
    (index, socket): (usize, Bound),
    cpu: Option<usize>,
) {
    if let Some(cpu) = cpu {
        set_affinity(&[cpu]);
    }
    runtime.block_on(async {
        let wanted = Wanted::Share(Share { index, of: shared.workers });
        let pool = Pool::start(shared.boots.clone(), &shared.upstream, wanted);
        let app = shared.app(shared.router(pool).among(shared.members()));
        let ingress = Arc::new(Ingress::new(
            Arc::new(app),
            Arc::clone(&shared.live),
            shared.standard.clone(),
            shared.tls.clone(),
        ));
        match socket.listen() {
            Ok(listener) => ingress.serve(listener, shared.stop.clone()).await,
            Err(error) => tracing::error!(%error, "public listener"),
        }
    });
}

/// The node's own enclave, by the slot that it fills.
fn local_upstream(config: &Config, metrics: &Metrics) -> Arc<Upstream> {
    let slot = config.member.as_ref().map_or(LOCAL_ENCLAVE, |member| &member.allocation);
    let upstream = Arc::new(Upstream::new(slot, config.pool.clone()));
    metrics.upstreams.add(&upstream);
    upstream
}

fn worker_count(config: &Config) -> usize {
    match config.workers {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        count => count,
    }
}

fn allowed_cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

/// One core for each worker. Fewer workers than cores mean that the machine is shared: every process
/// would choose the same cores, so none is pinned.
fn pinned_cpus(cpus: &[usize], workers: usize) -> &[usize] {
    if workers == cpus.len() { cpus } else { &[] }
}

fn set_affinity(cpus: &[usize]) {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu);
    }
    // Unpinned is slower, not wrong.
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!(%error, ?cpus, "affinity not set");
    }
}

/// Waits for SIGTERM or SIGINT.
pub async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("no signal handlers; stopping is by SIGKILL only");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_pinned_only_when_every_core_is_ours() {
        assert_eq!(pinned_cpus(&[2, 3], 2), [2, 3]);
        assert!(pinned_cpus(&[2, 3], 1).is_empty());
        assert!(pinned_cpus(&[2, 3], 4).is_empty());
        assert!(!allowed_cpus().is_empty());
    }
}
