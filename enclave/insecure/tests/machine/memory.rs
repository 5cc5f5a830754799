//! The guest's whole memory, read from outside while it runs: how often a secret that we know stands
//! in it, in any form that the code could leave behind.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use memchr::memmem::Finder;
use sigil_enclave::key_cache::SHARDS;
use sigil_enclave::seal;
use sigil_enclave::secret::Secret32;
use sigil_enclave_protocol::v1::{
    ActivateRequest, CacheSettings, CreateReply, CreateRequest, DekRow, ErrorCode, ForgetRequest,
    SignItem, StateReply, StateRequest,
};
use tokio::time::Instant;

use crate::bench::{Bench, PATIENCE};
use crate::life::{activate, assert_signed};
use crate::sidecar::{Sidecar, item};

/// Bytes that are read at once.
const CHUNK_BYTES: usize = 1 << 20;
/// Half a secret: what is left of a copy that was overwritten in part.
const HALF_BYTES: usize = 16;
/// Until what is to be erased is gone: the next sweep is a second away at most, what registers held
/// is overwritten when the threads go idle, and a look takes a second on a busy machine.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(20);
/// Bytes before and after a copy that a failing test shows.
const AROUND_BYTES: u64 = 512;
/// Openings of a sealed key before the memory is looked at again, in full batches.
const OPENINGS: u32 = 313 * ITEMS;
const ITEMS: u32 = 32;
/// Other keys until the first one's place is taken: none of them comes to it once in ten million.
const OTHERS_MAX: u128 = 16 * SHARDS as u128;

/// A secret, and what stands for it in memory: as it is, in the byte order of libsecp256k1's limbs,
/// and as the two key blocks of an HMAC (RFC 2104). Each in two halves.
struct Needles(Vec<Needle>);

struct Needle {
    form: &'static str,
    half: usize,
    finder: Finder<'static>,
}

/// Where a half of a secret stands.
struct Found {
    form: &'static str,
    half: usize,
    /// In the guest's memory, from its start.
    at: u64,
}

impl Needles {
    fn of(secret: &[u8; 32]) -> Self {
        assert!(secret.iter().any(|byte| *byte != 0));
        let mut reversed = *secret;
        reversed.reverse();
        let forms = [
            ("as it is", *secret),
            ("reversed", reversed),
            ("inner pad", secret.map(|byte| byte ^ 0x36)),
            ("outer pad", secret.map(|byte| byte ^ 0x5c)),
        ];
        let mut needles = Vec::new();
        for (form, bytes) in forms {
            for (half, part) in bytes.chunks(HALF_BYTES).enumerate() {
                needles.push(Needle { form, half, finder: Finder::new(part).into_owned() });
            }
        }
        Self(needles)
    }

    fn find(&self, memory: &File) -> Vec<Found> {
        let length = memory.metadata().unwrap().len();
        assert!(length >= 64 << 20, "the memory of a guest, not {length} bytes");
        let mut found = Vec::new();
        let mut bytes = vec![0; CHUNK_BYTES + HALF_BYTES - 1];
        for start in (0..length).step_by(CHUNK_BYTES) {
            let count = memory.read_at(&mut bytes, start).unwrap();
            for Needle { form, half, finder } in &self.0 {
                // What begins in the overlap is found with the next chunk.
                let here = finder.find_iter(&bytes[..count]).filter(|at| *at < CHUNK_BYTES);
                found.extend(here.map(|at| Found { form, half: *half, at: start + at as u64 }));
            }
        }
        found
    }
}

/// Copies in what was found. A part of one counts as one.
fn copies(found: &[Found]) -> usize {
    let mut halves: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    for Found { form, half, .. } in found {
        halves.entry(form).or_default()[*half] += 1;
    }
    halves.values().map(|[one, other]| one.max(other)).sum()
}

/// The guest's memory is a file in QEMU, which the user who started it may read.
fn memory_of(bench: &Bench) -> File {
    let files = format!("/proc/{}/fd", bench.machine.qemu_pid().unwrap());
    let named = |path: &PathBuf| {
        let target = std::fs::read_link(path).unwrap_or_default();
        target.to_string_lossy().starts_with("/memfd:memory-backend-memfd")
    };
    let mut paths = std::fs::read_dir(files).unwrap().map(|entry| entry.unwrap().path());
    File::open(paths.find(named).expect("QEMU keeps the guest's memory in a memfd")).unwrap()
}

/// What is looked for in one machine, with a line of the table for each look.
struct Scan {
    memory: File,
    dek: Needles,
    scalar: Option<Needles>,
}

impl Scan {
    fn new(bench: &Bench, row: &DekRow) -> Self {
        let dek = Needles::of(&plain_dek(bench, row));
        Self { memory: memory_of(bench), dek, scalar: None }
    }

    /// Looks until it sees what is stated, copies of the scalar and of the DEK, but not for long; a
    /// line of the table says how long.
    fn expect(&self, state: &str, scalars: usize, deks: usize) {
        let began = Instant::now();
        let found = loop {
            let found = self.find();
            let as_stated = (copies(&found.0), copies(&found.1)) == (scalars, deks);
            if as_stated || began.elapsed() > SETTLE_TIME_MAX {
                break found;
            }
        };
        let (scalar, dek) = (copies(&found.0), copies(&found.1));
        let seconds = began.elapsed().as_secs_f64();
        println!("memory | {state:<52} | {scalar:>6} | {dek:>3} | {seconds:.1} s |");
        if (scalar, dek) != (scalars, deks) {
            self.show("scalar", &found.0);
            self.show("DEK", &found.1);
        }
        assert_eq!((scalar, dek), (scalars, deks), "{state}: copies of scalar and DEK");
    }

    /// Says what stands where, and what stands around it: the way to who left it there.
    fn show(&self, secret: &str, found: &[Found]) {
        for Found { form, half, at } in found {
            println!("{secret}, {form}, half {half}, at {at:#x} of the guest's memory:");
            let start = (at & !0xf).saturating_sub(AROUND_BYTES);
            let mut bytes = vec![0; 2 * usize::try_from(AROUND_BYTES).unwrap()];
            let count = self.memory.read_at(&mut bytes, start).unwrap();
            for (line, bytes) in (start..).step_by(16).zip(bytes[..count].chunks(16)) {
                println!("{line:#012x}: {bytes:02x?}");
            }
        }
    }

    fn look(&self) -> (usize, usize) {
        let (scalar, dek) = self.find();
        (copies(&scalar), copies(&dek))
    }

    fn find(&self) -> (Vec<Found>, Vec<Found>) {
        let find = |secret: &Needles| secret.find(&self.memory);
        (self.scalar.as_ref().map(find).unwrap_or_default(), find(&self.dek))
    }
}

/// What the KMS wrapped. It is the KMS's to know.
fn plain_dek(bench: &Bench, row: &DekRow) -> [u8; 32] {
    bench.kms.unwrap_dek(&row.dek_id, &row.keyspace, &row.wrapped_dek).try_into().unwrap()
}

/// The private key in a blob, opened here by the production code.
fn plain_scalar(bench: &Bench, row: &DekRow, created: &CreateReply) -> [u8; 32] {
    let dek = Secret32::copy_from(&plain_dek(bench, row)).unwrap();
    let opened = seal::parse(&created.blob).unwrap().open(&dek).unwrap();
    *opened.expose_secret()
}

async fn state(sidecar: &mut Sidecar<'_>) -> StateReply {
    sidecar.client.state(StateRequest {}).await.unwrap().into_inner()
}

/// Asks the enclave for its state until it is as wanted.
async fn until(sidecar: &mut Sidecar<'_>, what: &str, wanted: impl Fn(&StateReply) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let state = state(sidecar).await;
        if wanted(&state) {
            return;
        }
        assert!(Instant::now() < deadline, "not {what}: {state:?}");
    }
}

async fn forget(sidecar: &mut Sidecar<'_>, key_id: u8) {
    let key_id = vec![key_id; 16].into();
    let request = ForgetRequest { keyspace: "default".into(), key_id };
    let reply = sidecar.client.forget(request).await.unwrap().into_inner();
    assert!(reply.error() == ErrorCode::Ok && reply.was_cached);
}

#[tokio::test]
async fn a_forgotten_key_is_nowhere() {
    let bench = Bench::boot().await;
    let mut sidecar = Sidecar::claim(&bench).await;
    let row = sidecar.generate("default").await;
    let mut scan = Scan::new(&bench, &row);
    scan.expect("DEK generated, and not installed", 0, 0);
    let unlocked = sidecar.unlock(&row).await;
    assert_eq!(unlocked.error(), ErrorCode::Ok);
    scan.expect("DEK installed", 0, 1);
    let created = sidecar.create("default", 1).await;
    scan.scalar = Some(Needles::of(&plain_scalar(&bench, &row, &created)));
    scan.expect("key created and sealed, not activated", 0, 1);
    activate(&mut sidecar, 1, &created).await;
    scan.expect("WARM", 1, 1);
    for tag in 0..100_u8 {
        let signed = sidecar.sign(item("default", 1, &[tag; 32], b"")).await;
        assert_signed(&signed, &created.public_key, &[tag; 32]);
    }
    scan.expect("WARM, after 100 signatures", 1, 1);
    forget(&mut sidecar, 1).await;
    scan.expect("forgotten", 0, 1);
}

/// Puts settings in force that differ from those that are in force.
async fn configure(sidecar: &mut Sidecar<'_>, change: impl FnOnce(&mut CacheSettings)) {
    let mut settings = state(sidecar).await.settings.unwrap();
    change(&mut settings);
    let configured = sidecar.client.configure(settings).await.unwrap().into_inner();
    assert_eq!(configured.error(), ErrorCode::Ok, "{configured:?}");
}

/// Opens the key again and again: it is spent by one signature. What thousands of openings leave on
/// stacks and in freed memory would add up. Leaves it sealed, which is looked at, and limits as they
/// were.
async fn open_ten_thousand_times(sidecar: &mut Sidecar<'_>, scan: &Scan) {
    let before = state(sidecar).await.settings.unwrap();
    configure(sidecar, |settings| (settings.key_uses, settings.low_water_uses) = (1, 0)).await;
    let mut opened = 0;
    while opened < OPENINGS {
        let items = (0..ITEMS).map(|tag| SignItem { tag, ..item("default", 1, &[7; 32], b"") });
        for result in sidecar.sign_batch(items.collect()).await.results {
            assert_eq!(result.error(), ErrorCode::Ok);
            opened += 1;
        }
    }
    // Before the limits are back, under which it would not be spent.
    scan.expect("COOL, after 10,016 openings", 0, 1);
    configure(sidecar, |settings| *settings = before).await;
}

/// Makes and caches key 1; the scan looks for its scalar and for the DEK.
async fn scan_for_key(sidecar: &mut Sidecar<'_>, row: &DekRow) -> Scan {
    let created = sidecar.create("default", 1).await;
    let mut scan = Scan::new(sidecar.bench, row);
    scan.scalar = Some(Needles::of(&plain_scalar(sidecar.bench, row, &created)));
    activate(sidecar, 1, &created).await;
    scan
}

/// Signs, so that the plain key is there.
async fn warm(sidecar: &mut Sidecar<'_>) {
    let signed = sidecar.sign(item("default", 1, &[7; 32], b"")).await;
    assert_eq!(signed.error(), ErrorCode::Ok);
}

#[tokio::test]
async fn ten_thousand_openings_leave_nothing() {
    let bench = Bench::boot().await;
    let mut sidecar = Sidecar::claim(&bench).await;
    let row = sidecar.seal_with_new_dek("default").await;
    let scan = scan_for_key(&mut sidecar, &row).await;
    open_ten_thousand_times(&mut sidecar, &scan).await;
    forget(&mut sidecar, 1).await;
    scan.expect("forgotten, after 10,016 openings", 0, 1);
}

/// The cache has many parts, each with a bound of its own: other keys come until one of them takes
/// the place.
#[tokio::test]
async fn an_evicted_key_is_nowhere() {
    let bench = Bench::boot().await;
    let mut sidecar = Sidecar::claim(&bench).await;
    let row = sidecar.seal_with_new_dek("default").await;
    let parts = u64::try_from(SHARDS).unwrap();
    configure(&mut sidecar, |settings| (settings.keys, settings.warm_keys) = (parts, parts)).await;
    let scan = scan_for_key(&mut sidecar, &row).await;
    open_ten_thousand_times(&mut sidecar, &scan).await;
    warm(&mut sidecar).await;
    scan.expect("WARM, in the smallest cache, after 10,016 openings", 1, 1);
    let mut others = 0_u128;
    while scan.look() != (0, 1) {
        assert!(others < OTHERS_MAX, "{others} other keys, and the first one is still there");
        for _ in 0..64 {
            others += 1;
            activate_another(&mut sidecar, others).await;
        }
    }
    scan.expect("evicted by other keys, after 10,016 openings", 0, 1);
}

/// Makes and caches a key of this number.
async fn activate_another(sidecar: &mut Sidecar<'_>, number: u128) {
    let key_id = Bytes::copy_from_slice(&(number + (1 << 64)).to_be_bytes());
    let request = CreateRequest {
        keyspace: "default".into(),
        key_id: key_id.clone(),
        challenge: Bytes::new(),
        policy: Bytes::new(),
    };
    let created = sidecar.client.create(request).await.unwrap().into_inner();
    let request = ActivateRequest { keyspace: "default".into(), key_id, blob: created.blob };
    let reply = sidecar.client.activate(request).await.unwrap().into_inner();
    assert_eq!(reply.error(), ErrorCode::Ok);
}

#[tokio::test]
async fn what_expires_is_nowhere() {
    let bench = Bench::boot().await;
    let mut sidecar = Sidecar::claim(&bench).await;
    let row = sidecar.seal_with_new_dek("default").await;
    let scan = scan_for_key(&mut sidecar, &row).await;
    open_ten_thousand_times(&mut sidecar, &scan).await;
    // From here on, so that the openings may take their time.
    configure(&mut sidecar, |settings| {
        (settings.key_soft_ttl_ms, settings.key_hard_ttl_ms) = (1_000, 20_000);
        (settings.prefetch_window_ms, settings.dek_hard_ttl_ms) = (0, 60_000);
    })
    .await;
    warm(&mut sidecar).await;
    scan.expect("WARM after 10,016 openings, limits of 20 and 60 s", 1, 1);
    // What it says was counted in its last sweep, which may have been before the key was WARM.
    until(&mut sidecar, "WARM", |state| state.keys_warm == 1).await;
    until(&mut sidecar, "COOL", |state| state.keys_warm == 0).await;
    scan.expect("COOL: the key's hard limit is over", 0, 1);
    until(&mut sidecar, "without DEKs", |state| state.deks.is_empty()).await;
    scan.expect("INVALID: the DEK's hard limit is over", 0, 0);
}
