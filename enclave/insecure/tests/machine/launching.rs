//! The launcher program with machines: claimed, handed over, replaced when either of its processes
//! ends, and nothing left behind.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream as StdUnixStream};
use std::path::Path;
use std::sync::Arc;

use sigil_enclave_client::EnclaveAddress;
use sigil_enclave_client::connect::connect;
use sigil_enclave_client::handoff::Handoff;
use sigil_enclave_client::vhost::ask_for_port;
use sigil_enclave_image::pins::Ceilings;
use sigil_enclave_protocol::handshake::Purpose;
use sigil_enclave_protocol::v1::HealthRequest;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::bench::{PATIENCE, development_image, part};
use crate::kms::Kms;
use crate::sidecar::client_over;

/// The program, with an image in `folder`.
fn launcher(folder: &Path, more: &[&str]) -> Child {
    let kms = Arc::new(Kms::start());
    let image = folder.join("image.eif");
    std::fs::write(&image, development_image(&kms, Ceilings::default()).eif).unwrap();
    let mut command = Command::new(part("SIGIL_TEST_LAUNCHER"));
    command.arg("qemu").arg("--eif").arg(image);
    command.arg("--qemu").arg(part("SIGIL_TEST_QEMU"));
    command.arg("--firmware").arg(part("SIGIL_TEST_FIRMWARE"));
    command.arg("--vhost-device-vsock").arg(part("SIGIL_TEST_VHOST_DEVICE_VSOCK"));
    command.args(["--memory-mib", "128", "--dir"]).arg(folder.join("machine"));
    command.arg("--handoff").arg(folder.join("handoff.sock")).args(more);
    command.kill_on_drop(true).spawn().unwrap()
}

/// What the launcher hands over, as `serve` gets it.
async fn take(folder: &Path) -> (Handoff, UnixStream) {
    let work = async {
        loop {
            if let Ok(mut stream) = UnixStream::connect(folder.join("handoff.sock")).await {
                return (Handoff::read(&mut stream).await.unwrap(), stream);
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, work).await.expect("a claimed machine")
}

async fn dial(address: &EnclaveAddress) -> UnixStream {
    match address {
        EnclaveAddress::VhostVsock { path, port } => {
            let mut stream = UnixStream::connect(path).await.unwrap();
            ask_for_port(&mut stream, *port).await.unwrap();
            stream
        }
        EnclaveAddress::UnixAbstract(name) => {
            let address = SocketAddr::from_abstract_name(name).unwrap();
            let stream = StdUnixStream::connect_addr(&address).unwrap();
            stream.set_nonblocking(true).unwrap();
            UnixStream::from_std(stream).unwrap()
        }
        other => panic!("{other}"),
    }
}

/// The enclave at the handed address is the claimed one.
async fn answers(handoff: &Handoff) {
    let mut stream = dial(&handoff.address).await;
    connect(&mut stream, Purpose::Rpc, &handoff.token).await.unwrap();
    let mut client = client_over(stream).await;
    let health = client.health(HealthRequest {}).await.unwrap().into_inner();
    assert_eq!(health.boot_id, handoff.boot_id.0.as_slice());
}

/// Ids of the launcher's children that run `program`.
fn children(launcher: &Child, program: &Path) -> Vec<i32> {
    let pid = launcher.id().unwrap();
    let listed = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let runs = |pid: &&str| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.split(|byte| *byte == 0).next() == Some(program.as_os_str().as_encoded_bytes())
    };
    listed.split_whitespace().filter(runs).map(|pid| pid.parse().unwrap()).collect()
}

fn kill(pid: i32) {
    let status = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
    assert!(status.unwrap().success());
}

#[tokio::test]
async fn a_machine_is_replaced_when_either_of_its_processes_ends() {
    let folder = tempfile::tempdir().unwrap();
    let launcher = launcher(folder.path(), &[]);
    let (mut handoff, mut open) = take(folder.path()).await;
    let programs = [part("SIGIL_TEST_QEMU"), part("SIGIL_TEST_VHOST_DEVICE_VSOCK")];
    for killed in &programs {
        answers(&handoff).await;
        let before = programs.each_ref().map(|program| children(&launcher, program));
        assert!(before.iter().all(|pids| pids.len() == 1), "{before:?}");
        kill(children(&launcher, killed)[0]);
        assert_eq!(timeout(PATIENCE, open.read(&mut [0])).await.unwrap().unwrap(), 0);
        let (next, stays) = take(folder.path()).await;
        assert_ne!(next.boot_id, handoff.boot_id);
        let after = programs.each_ref().map(|program| children(&launcher, program));
        assert!(after.iter().all(|pids| pids.len() == 1), "{after:?}");
        assert!(before.iter().zip(&after).all(|(old, new)| old != new), "both are new");
        (handoff, open) = (next, stays);
    }
    answers(&handoff).await;
}

#[tokio::test]
async fn a_pod_without_a_shared_folder_reaches_it_by_an_abstract_name_and_a_stop_ends_both() {
    let folder = tempfile::tempdir().unwrap();
    let name = format!("sigil-test-bridge-{}", std::process::id());
    let mut launcher = launcher(folder.path(), &["--bridge", &format!("@{name}")]);
    let (handoff, _open) = take(folder.path()).await;
    assert_eq!(handoff.address, EnclaveAddress::UnixAbstract(name));
    answers(&handoff).await;
    let programs = [part("SIGIL_TEST_QEMU"), part("SIGIL_TEST_VHOST_DEVICE_VSOCK")];
    let pids: Vec<_> = programs.iter().flat_map(|program| children(&launcher, program)).collect();
    assert_eq!(pids.len(), 2);
    let stop = ["-TERM".to_owned(), launcher.id().unwrap().to_string()];
    assert!(std::process::Command::new("kill").args(stop).status().unwrap().success());
    assert!(timeout(PATIENCE, launcher.wait()).await.unwrap().unwrap().success());
    for pid in pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} runs on");
    }
}
