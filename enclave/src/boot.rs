//! The order of boot, from parts that the binary injects: what is checked before anything listens,
//! and the control thread that runs from then on.

use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Instant;

use aws_lc_rs::digest::{SHA384, digest};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use sigil_attestation::TrustRoot;
use sigil_enclave_image::Pins;
use sigil_enclave_protocol::handshake::BootId;
use tokio::runtime;
use tokio::sync::{oneshot, watch};

use crate::attest::Rate;
use crate::clock::{Clock, boot_ms};
use crate::control::{self, Control};
use crate::dek::DekTable;
use crate::enclave::{DocumentError, Enclave, RngSeen};
use crate::init;
use crate::key_cache::{KeyCache, settings};
use crate::kms_exchange::TlsRoots;
use crate::nsm::{Nsm, NsmError};
use crate::residue;
use crate::rng::{self, Rng, RngSource};
use crate::signer::Signer;
use crate::slab::slab;
use crate::statements::Statements;
use crate::stats::{Count, micros};
use crate::unlock::Unlocks;
use crate::worker::{Worker, pin_to_core};

/// What a binary gives to the enclave.
pub struct Parts {
    /// The bytes of `pins.cbor`.
    pub pins: Vec<u8>,
    /// The Nitro Secure Module, or a development one.
    pub nsm: Arc<dyn Nsm>,
    /// A listening stream socket.
    pub listener: OwnedFd,
    /// Reads the kernel's current source of hardware randomness.
    pub rng_source: fn() -> RngSource,
    /// What the pins must say about `insecure`.
    pub insecure: bool,
    /// Signing workers; none for one a core.
    pub workers: Option<u16>,
    /// Send the boot heartbeat that Nitro waits for.
    pub heartbeat: bool,
}

/// Why an enclave does not start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The pins do not decode.
    #[error("pins.cbor: {0}")]
    Pins(String),
    /// The pins are for the other kind of binary.
    #[error("pins.cbor says `insecure: {0}`, and this binary refuses that")]
    WrongKind(bool),
    /// What keys need is not as it must be; the text says what.
    #[error("{0}")]
    Unfit(&'static str),
    /// The NSM refused.
    #[error(transparent)]
    Nsm(#[from] NsmError),
    /// A thread, a runtime or the listener.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// A running enclave. It runs on if this is dropped.
#[derive(Debug)]
pub struct Running {
    /// This boot.
    pub boot_id: BootId,
    control: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Running {
    /// Runs until the process ends.
    pub fn wait(self) {
        let Self { control, stop, .. } = self;
        let _ = control.join();
        drop(stop);
    }

    /// Closes every connection and ends all threads.
    pub fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.control.join();
    }
}

/// Lets nobody of this user read this process, and no core file of it be written: both hold keys.
/// A limit of zero is not enough, since a node may pipe cores to a program whatever the limit.
///
/// # Errors
/// The kernel refuses.
pub fn forbid_core_dumps() -> std::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Ends the process on any panic, and with it the machine of which it is the first; says the
/// panic's place and not its message.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        if let Some(at) = info.location() {
            eprintln!("sigil-enclave: panic at {}:{}", at.file(), at.line());
        }
        init::end();
        std::process::abort();
    }));
}

/// Checks everything and starts the control thread and the workers.
///
/// # Errors
/// See [`BootError`]. Nothing runs then.
pub fn start(parts: Parts) -> Result<Running, BootError> {
    let control = residue::runtime()?.build()?;
    let enclave = Arc::new(assemble(&parts, control.handle().clone())?);
    let since = Instant::now();
    let signers = (0..enclave.workers)
        .map(|_| Signer::new(enclave.pins.verify_mode, boot_ms()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| BootError::Unfit("the signing self-test failed"))?;
    enclave.engine_init_us.add(micros(since.elapsed()));
    let workers = (0_u16..)
        .zip(signers)
        .map(|(index, signer)| Worker::start(index, Arc::clone(&enclave), signer))
        .collect::<Result<Vec<_>, _>>()?;
    let boot_id = enclave.boot_id;
    let (stop, stopped) = oneshot::channel();
    let unlocking = Arc::clone(&enclave);
    std::thread::Builder::new().name("rsa".into()).spawn(move || {
        if let Err(error) = unlocking.unlocks.draw_recipient() {
            eprintln!("sigil-enclave: {error}");
            init::end();
            std::process::abort();
        }
    })?;
    let task = Control::new(enclave, workers);
    let Parts { listener, heartbeat, .. } = parts;
    let control = std::thread::Builder::new().name("control".into()).spawn(move || {
        // Where worker 0 is too: what an interrupt of either left there, either overwrites.
        pin_to_core(0);
        control.block_on(control::run(task, listener, heartbeat, stopped));
    })?;
    Ok(Running { boot_id, control, stop })
}

pub(crate) fn assemble(parts: &Parts, control: runtime::Handle) -> Result<Enclave, BootError> {
    let pins = Pins::decode(&parts.pins).map_err(|error| BootError::Pins(error.to_string()))?;
    if pins.insecure != parts.insecure {
        return Err(BootError::WrongKind(pins.insecure));
    }
    match slab() {
        Err(_) => return Err(BootError::Unfit("no memory for secrets")),
        Ok(slab) if slab.is_locked() => {}
        // A process of an ordinary user may not lock so much; an image, where it is root, must.
        Ok(_) if !parts.insecure => return Err(BootError::Unfit("secrets cannot be locked")),
        Ok(_) => eprintln!("sigil-enclave: secrets may be swapped: they cannot be locked"),
    }
    let rng_seen = RngSeen::new(parts.rng_source);
    if !rng_seen.current().is_healthy(pins.insecure) {
        return Err(BootError::Unfit("the kernel's current random source is not nsm-hwrng"));
    }
    if !pins.insecure && !residue::all_is_overwritten() {
        return Err(BootError::Unfit("AVX is on: the command line lacks clearcpuid=xsave"));
    }
    let root = TrustRoot::from_der(pins.attestation_root.clone())
        .map_err(|_| BootError::Unfit("the pinned attestation root is no certificate"))?;
    let tls = TlsRoots::new(&pins.tls_roots)
        .ok_or(BootError::Unfit("a pinned TLS root is no certificate"))?;
    let rng = Rng::new(&*parts.nsm)?;
    let boot_id = rng::public_bytes().map_err(|_| BootError::Unfit("no randomness"))?;
    let statements =
        Statements::new(&rng).map_err(|_| BootError::Unfit("no statement key can be drawn"))?;
    let ceilings = settings::ceilings(&pins.ceilings);
    let workers = parts.workers.unwrap_or_else(one_a_core).max(1);
    let enclave = Enclave {
        cache: KeyCache::new(settings::baseline(&ceilings), ceilings),
        pins,
        pins_sha384: digest(&SHA384, &parts.pins),
        boot_id: BootId(boot_id),
        pcr0: OnceLock::new(),
        workers,
        worker_stats: (0..workers).map(|_| Arc::default()).collect(),
        engine_init_us: Count::default(),
        draining: watch::Sender::new(false),
        started_ms: boot_ms(),
        root,
        nsm: Arc::clone(&parts.nsm),
        // Without a verified document there is no time either.
        clock: Clock::new(0, boot_ms()),
        rng,
        rng_seen,
        deks: DekTable::default(),
        statements,
        unlocks: Unlocks::new(tls),
        attest_rate: Rate::new(boot_ms()),
        control,
    };
    match enclave.bind_statement_key() {
        Err(DocumentError::Nsm(error)) => return Err(error.into()),
        // It says so to whoever asks, and unlocks nothing; see decision 16.
        Err(error) => eprintln!("sigil-enclave: {error}; no DEK can be unlocked here"),
        Ok(()) => {}
    }
    Ok(enclave)
}

fn one_a_core() -> u16 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    u16::try_from(cores).unwrap_or(u16::MAX)
}
