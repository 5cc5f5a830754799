//! The launcher against a real child process that speaks the enclave's side of the handshake.
//! The child is this very test binary, started again with `serve` arguments.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sigil_enclave_client::handoff::Handoff;
use sigil_enclave_protocol::handshake::{
    BootId, ClaimToken, Hello, PROOF_BYTES, Proof, Purpose, Refusal, Verdict,
};
use sigil_launcher::process::Settings;
use sigil_launcher::socket::connect;
use sigil_launcher::supervisor::run;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(30);

/// The enclave's side, thin: claims are granted once unless the pins file says `taken`; `busy` has
/// no room for the first connection; a file named `die` beside the pins ends the process at the
/// next connection. Every boot adds a byte to `boots`.
async fn enclave(pins: &Path, listen: &str) {
    let listener = UnixListener::bind(listen.trim_start_matches("unix:")).unwrap();
    let mut seed = [0; 16];
    seed[..4].copy_from_slice(&std::process::id().to_be_bytes());
    let hello = Hello { boot_id: BootId(seed), nonce: [1; 32] };
    // Only the first boot is taken: the launcher must replace it.
    let said = std::fs::read(pins).unwrap();
    let taken = said == b"taken";
    let boots = pins.with_file_name("boots");
    let boots = std::fs::OpenOptions::new().append(true).create(true).open(boots);
    boots.unwrap().write_all(b".").unwrap();
    if said == b"busy" {
        drop(listener.accept().await.unwrap());
    }
    std::fs::write(pins, b"free").unwrap();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        if pins.with_file_name("die").exists() {
            std::fs::remove_file(pins.with_file_name("die")).unwrap();
            std::process::exit(3);
        }
        // Whoever only looks whether somebody answers is gone by now.
        if stream.write_all(&hello.encode()).await.is_err() {
            continue;
        }
        let mut proof = [0; PROOF_BYTES];
        if stream.read_exact(&mut proof).await.is_err() {
            continue;
        }
        let purpose = Proof::decode(&proof).unwrap().purpose;
        let verdict = match purpose {
            Purpose::Claim if taken => Verdict::Refused(Refusal::AlreadyClaimed),
            _ => Verdict::Accepted {
                worker_index: 0,
                worker_count: 1,
                token: Some(ClaimToken::new([5; 32])),
            },
        };
        let _ = stream.write_all(&*verdict.encode()).await;
    }
}

/// Entry of the child: the harness passes unknown arguments to no test, so a wrapper script does.
#[test]
fn child_process_entry() {
    let Some(arguments) = std::env::var_os("SIGIL_LAUNCHER_TEST_CHILD") else { return };
    let arguments = arguments.into_string().unwrap();
    let words: Vec<_> = arguments.split(' ').collect();
    let after = |flag| words[words.iter().position(|word| *word == flag).unwrap() + 1];
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(enclave(Path::new(after("--pins")), after("--listen")));
}

struct Bench {
    folder: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl Bench {
    fn start(pins: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("pins.cbor"), pins).unwrap();
        let me = std::env::current_exe().unwrap();
        let script = format!(
            "#!/bin/sh\nrm -f {0}\nSIGIL_LAUNCHER_TEST_CHILD=\"$*\" exec {1} --exact child_process_entry\n",
            at("enclave.sock").display(),
            me.display()
        );
        std::fs::write(at("enclave"), script).unwrap();
        let mode = Permissions::from_mode(0o755);
        std::fs::set_permissions(at("enclave"), mode).unwrap();
        let settings = Settings {
            enclave: at("enclave"),
            pins: at("pins.cbor"),
            listen: format!("unix:{}", at("enclave.sock").display()).parse().unwrap(),
            handoff: at("handoff.sock").display().to_string().parse().unwrap(),
            workers: 1,
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            run(&settings, async { drop(stopped.await) }).await.unwrap();
        });
        Self { folder, stop: Some(stop), task }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn take(&self) -> (Handoff, UnixStream) {
        take(self.folder.path()).await
    }

    async fn stop(mut self) {
        drop(self.stop.take());
        timeout(DEADLINE, &mut self.task).await.expect("stops in time").unwrap();
    }
}

/// Connects as `serve` does, again until the socket is there.
async fn take(folder: &Path) -> (Handoff, UnixStream) {
    let work = async {
        loop {
            if let Ok(mut stream) = UnixStream::connect(folder.join("handoff.sock")).await {
                return (Handoff::read(&mut stream).await.unwrap(), stream);
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, work).await.expect("a hand-off")
}

async fn closes(stream: &mut UnixStream) {
    let mut byte = [0];
    assert_eq!(timeout(DEADLINE, stream.read(&mut byte)).await.expect("closes").unwrap(), 0);
}

#[tokio::test]
async fn a_claimed_enclave_is_handed_over_to_every_peer_of_the_same_user() {
    let bench = Bench::start(b"free");
    let (first, _open) = bench.take().await;
    let (second, _open_too) = bench.take().await;
    assert_eq!(first.boot_id, second.boot_id);
    assert_eq!(first.token.expose_secret(), &[5; 32]);
    bench.stop().await;
}

#[tokio::test]
async fn an_enclave_that_ends_closes_hand_offs_and_is_replaced() {
    let bench = Bench::start(b"free");
    let (before, mut open) = bench.take().await;
    std::fs::write(bench.path("die"), b"").unwrap();
    drop(connect(&before.address).unwrap());
    closes(&mut open).await;
    let (after, _open) = bench.take().await;
    assert_ne!(before.boot_id, after.boot_id);
    bench.stop().await;
}

#[tokio::test]
async fn an_enclave_that_somebody_else_claimed_is_replaced() {
    let bench = Bench::start(b"taken");
    let (handoff, _open) = bench.take().await;
    assert_eq!(std::fs::read(bench.path("pins.cbor")).unwrap(), b"free");
    assert_eq!(handoff.token.expose_secret(), &[5; 32]);
    bench.stop().await;
}

#[tokio::test]
async fn an_enclave_without_room_is_asked_again_and_not_replaced() {
    let bench = Bench::start(b"busy");
    let (_, _open) = bench.take().await;
    assert_eq!(std::fs::read(bench.path("boots")).unwrap(), b".");
    bench.stop().await;
}

#[tokio::test]
async fn another_process_at_the_address_is_not_claimed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("enclave.sock");
    let squatter = UnixListener::bind(&path).unwrap();
    let address = format!("unix:{}", path.display()).parse().unwrap();
    let settings = Settings {
        // It ignores its arguments and waits for ever.
        enclave: sleeper(folder.path()),
        pins: folder.path().join("pins.cbor"),
        listen: address,
        handoff: folder.path().join("handoff.sock").display().to_string().parse().unwrap(),
        workers: 1,
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        run(&settings, async { drop(stopped.await) }).await.unwrap();
    });
    // Two boots come and go without a byte of a claim.
    for _ in 0..2 {
        let (mut stream, _) = timeout(DEADLINE, squatter.accept()).await.unwrap().unwrap();
        closes(&mut stream).await;
    }
    drop(stop);
    timeout(DEADLINE, task).await.expect("stops in time").unwrap();
}

fn sleeper(folder: &Path) -> PathBuf {
    let path = folder.join("sleeper");
    std::fs::write(&path, "#!/bin/sh\n: >\"${0%/*}/started\"\nexec tail -f /dev/null\n").unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    path
}

#[tokio::test]
async fn an_enclave_of_somebody_else_is_claimed_handed_over_and_seen_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("pins.cbor"), b"free").unwrap();
    let listen = format!("unix:{}", at("enclave.sock").display());
    let arguments = format!("--pins {} --listen {listen}", at("pins.cbor").display());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_process_entry"]).env("SIGIL_LAUNCHER_TEST_CHILD", arguments);
    let mut enclave = command.kill_on_drop(true).spawn().unwrap();
    let settings = sigil_launcher::attach::Settings {
        address: listen.parse().unwrap(),
        handoff: at("handoff.sock").display().to_string().parse().unwrap(),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        run(&settings, async { drop(stopped.await) }).await.unwrap();
    });
    let (handoff, mut open) = take(folder.path()).await;
    assert_eq!(handoff.address.to_string(), listen);
    enclave.kill().await.unwrap();
    closes(&mut open).await;
    drop(stop);
    timeout(DEADLINE, task).await.expect("stops in time").unwrap();
}

#[tokio::test]
async fn stopping_ends_the_enclave() {
    let bench = Bench::start(b"free");
    let (handoff, mut open) = bench.take().await;
    let pid = u32::from_be_bytes(handoff.boot_id.0[..4].try_into().unwrap());
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    bench.stop().await;
    closes(&mut open).await;
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

/// The kernel gives the files of `/proc` about a process that must not be dumped to root. It lists
/// the launcher's enclave there all the same.
#[tokio::test]
async fn the_launcher_leaves_no_core_file_and_its_user_cannot_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    // Not by ourselves: a file that a fork of this process has open for writing cannot be started.
    let copy = ["-p", env!("CARGO_BIN_EXE_sigil-launcher")];
    let copied = Command::new("cp").args(copy).arg(at("launcher")).status().await.unwrap();
    assert!(copied.success());
    let mut command = Command::new(at("launcher"));
    if std::fs::metadata(folder.path()).unwrap().uid() == 0 {
        command.uid(65_532).gid(65_532);
    }
    command.arg("process").arg("--enclave").arg(sleeper(folder.path()));
    command.arg("--pins").arg(at("pins.cbor")).arg("--handoff").arg(at("handoff.sock"));
    command.arg("--listen").arg(format!("unix:{}", at("enclave.sock").display()));
    let mut launcher = command.kill_on_drop(true).spawn().unwrap();
    let proc = Path::new("/proc").join(launcher.id().unwrap().to_string());
    let started = async {
        while !at("started").exists() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, started).await.expect("an enclave");
    let children = proc.join(format!("task/{}/children", launcher.id().unwrap()));
    assert!(!std::fs::read_to_string(children).unwrap().is_empty());
    assert_eq!(std::fs::metadata(proc.join("limits")).unwrap().uid(), 0);
    let limits = std::fs::read_to_string(proc.join("limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let words: Vec<_> = core.split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "soft and hard limit");
    launcher.kill().await.unwrap();
}
