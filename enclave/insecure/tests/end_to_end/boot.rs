//! What does not boot, and the process as a developer starts it.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sigil_enclave::boot::{BootError, Parts, Running, start};
use sigil_enclave::nsm::{DocumentRequest, Nsm, NsmError};
use sigil_enclave::rng::RngSource;
use sigil_enclave::secret::Secret32;
use sigil_enclave_client::connect::claim;
use sigil_enclave_image::Pins;
use sigil_enclave_image::pins::Ceilings;
use sigil_enclave_insecure::nsm::SoftwareNsm;
use sigil_enclave_protocol::v1::{AttestRequest, ErrorCode, HealthRequest};
use sigil_verifier::{TrustRoot, VerifyError, VerifyTime, verify};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::bench::{Bench, attestation_root, pins};
use crate::kms::Kms;
use crate::sidecar::{Sidecar, generate};

/// Far above the start of a process on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// This binary has the library and not its `main`, as one that links it by mistake would.
#[test]
fn the_marker_stands_in_every_binary_that_holds_the_software_nsm() {
    let marker = ["SIGIL-INSECURE", "DO-NOT-USE"].join("-");
    let binary = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    assert!(binary.windows(marker.len()).any(|bytes| bytes == marker.as_bytes()));
}

fn test_pins() -> Pins {
    pins(&Kms::start(), Ceilings::default())
}

/// Boots with changed parts; a boot that succeeds is stopped.
fn boot(pins: &Pins, change: impl FnOnce(&mut Parts)) -> Result<(), BootError> {
    let folder = tempfile::tempdir().unwrap();
    let pins = pins.encode().unwrap();
    let mut parts = Parts {
        nsm: Arc::new(SoftwareNsm::new(b"the executable", &pins).unwrap()),
        pins,
        listener: UnixListener::bind(folder.path().join("e.sock")).unwrap().into(),
        rng_source: || RngSource::Software,
        insecure: true,
        workers: Some(1),
        heartbeat: false,
    };
    change(&mut parts);
    start(parts).map(Running::stop)
}

#[test]
fn a_production_binary_refuses_insecure_pins_and_the_other_way_round() {
    let insecure = test_pins();
    boot(&insecure, |_| {}).unwrap();
    let production = boot(&insecure, |parts| parts.insecure = false);
    assert!(matches!(production, Err(BootError::WrongKind(true))), "{production:?}");
    let secure = Pins { insecure: false, ..insecure };
    let development = boot(&secure, |_| {});
    assert!(matches!(development, Err(BootError::WrongKind(false))), "{development:?}");
}

#[test]
fn another_random_source_than_the_nsm_refuses_to_boot() {
    let pins = Pins { insecure: false, ..test_pins() };
    for rng_source in [(|| RngSource::Other) as fn() -> _, || RngSource::Software] {
        let booted = boot(&pins, |parts| {
            parts.insecure = false;
            parts.rng_source = rng_source;
        });
        assert!(
            matches!(booted, Err(BootError::Unfit(what)) if what.contains("nsm-hwrng")),
            "{booted:?}"
        );
    }
}

#[tokio::test]
async fn an_image_pinned_to_another_root_says_so_and_unlocks_nothing() {
    let bench = Bench::start_parts(|parts| {
        let pins = Pins::decode(&parts.pins).unwrap();
        let other = Pins { attestation_root: pins.tls_roots[0].clone(), ..pins };
        parts.pins = other.encode().unwrap();
    });
    let mut sidecar = Sidecar::claim(&bench).await;
    let health = sidecar.client.health(HealthRequest {}).await.unwrap().into_inner();
    assert!(!health.documents_verify);
    let begun = sidecar.begin(generate("default")).await;
    assert_eq!(begun.error(), ErrorCode::AttestationFailed);
    assert!(begun.request.is_none(), "nothing that the sidecar could sign");
    assert_eq!(sidecar.create("default", 1).await.error(), ErrorCode::UnlockRequired);
    // Whoever verifies gets the document and sees for himself, here under the root that is right.
    let nonce = Bytes::from_static(&[3; 32]);
    let reply = sidecar.client.attest(AttestRequest { nonce }).await.unwrap().into_inner();
    verify(&reply.document, &attestation_root(), VerifyTime::AtDocument).unwrap();
    let other = TrustRoot::from_der(bench.kms.tls_root_der().to_vec()).unwrap();
    let refused = verify(&reply.document, &other, VerifyTime::AtDocument);
    assert_eq!(refused, Err(VerifyError::OtherRoot));
}

#[test]
fn an_nsm_that_refuses_stops_the_boot() {
    struct Refuses;
    impl Nsm for Refuses {
        fn document(&self, _: DocumentRequest<'_>) -> Result<Vec<u8>, NsmError> {
            Err(NsmError("no document".into()))
        }

        fn entropy(&self) -> Result<Secret32, NsmError> {
            Ok(Secret32::copy_from(&[1; 32]).unwrap())
        }
    }
    let booted = boot(&test_pins(), |parts| parts.nsm = Arc::new(Refuses));
    assert!(matches!(booted, Err(BootError::Nsm(_))), "{booted:?}");
}

#[test]
fn pins_that_are_not_pins_refuse_to_boot() {
    let booted = boot(&test_pins(), |parts| parts.pins.push(0));
    assert!(matches!(booted, Err(BootError::Pins(_))), "{booted:?}");
}

/// The executable as a developer starts it, or as the user of a pod.
fn serve(pins: &Pins, folder: &Path, user: Option<u32>) -> Child {
    let (file, executable) = (folder.join("pins.cbor"), folder.join("enclave"));
    std::fs::write(&file, pins.encode().unwrap()).unwrap();
    // Not by ourselves: a file that a fork of this process has open for writing cannot be started.
    let copy = ["-p", env!("CARGO_BIN_EXE_sigil-enclave-insecure")];
    let copied = std::process::Command::new("cp").args(copy).arg(&executable).status().unwrap();
    assert!(copied.success());
    std::fs::set_permissions(folder, Permissions::from_mode(0o777)).unwrap();
    let mut command = Command::new(executable);
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    command
        .args(["serve", "--workers", "1", "--pins"])
        .arg(file)
        .arg("--listen")
        .arg(format!("unix:{}", folder.join("e.sock").display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// The line by which the process says that it listens.
async fn listens(child: &mut Child) -> String {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap()
}

#[tokio::test]
async fn the_process_says_when_it_listens_and_can_be_claimed() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = serve(&test_pins(), folder.path(), None);
    let line = listens(&mut child).await;
    let mut stream = UnixStream::connect(folder.path().join("e.sock")).await.unwrap();
    let (accepted, _) = claim(&mut stream).await.unwrap();
    let boot = format!("boot {} listens on unix:", accepted.hello.boot_id);
    assert!(line.contains(&boot), "{line}");
    child.kill().await.unwrap();
}

/// It measures its own executable all the same. The kernel gives the files of `/proc` about a
/// process that must not be dumped to root.
#[tokio::test]
async fn the_process_leaves_no_core_file_and_its_user_cannot_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let we_are_root = std::fs::metadata(folder.path()).unwrap().uid() == 0;
    let mut child = serve(&test_pins(), folder.path(), we_are_root.then_some(65_532));
    assert!(listens(&mut child).await.contains("listens on unix:"));
    let limits = Path::new("/proc").join(child.id().unwrap().to_string()).join("limits");
    assert_eq!(std::fs::metadata(&limits).unwrap().uid(), 0);
    let limits = std::fs::read_to_string(limits).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let words: Vec<_> = core.split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "soft and hard limit");
    child.kill().await.unwrap();
}

#[tokio::test]
async fn the_process_refuses_production_pins_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let pins = Pins { insecure: false, ..test_pins() };
    let child = serve(&pins, folder.path(), None);
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("`insecure: false`"), "{stderr}");
}
