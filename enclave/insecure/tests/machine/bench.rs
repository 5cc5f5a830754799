//! A machine that was booted from a base image and pins, with its test KMS.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sigil_enclave_client::EnclaveAddress;
use sigil_enclave_client::vhost::ask_for_port;
use sigil_enclave_image::Pins;
use sigil_enclave_image::pins::{Ceilings, KeyspaceRule, VerifyMode};
use sigil_enclave_insecure::nsm::test_root_der;
use sigil_enclave_protocol::v1::Statement as WireStatement;
use sigil_image_authoring::image::{Pinned, pin};
use sigil_image_authoring::measure::{ProcessPcrs, TEST_ROLE_ARN, parent_role};
use sigil_launcher::qemu::{Machine, Settings};
use sigil_launcher::supervisor::{Boot, Launch};
use sigil_verifier::{
    Measurement, PcrAllowList, SignedStatement, Statement, TrustRoot, verify_statement,
};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

use crate::kms::Kms;

/// Far above a boot on a busy machine; KMS, keys and signatures are far quicker.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// A part of the test that `hack/test-enclave` builds.
pub(crate) fn part(variable: &str) -> PathBuf {
    let Some(path) = std::env::var_os(variable).map(PathBuf::from) else {
        panic!("{variable} is not set: these tests need a machine; run `make test-enclave`");
    };
    assert!(path.exists(), "{variable}: there is no {}; run `make test-enclave`", path.display());
    path
}

/// Ends its processes when it is dropped.
pub(crate) struct Bench {
    pub(crate) kms: Arc<Kms>,
    pub(crate) pcrs: ProcessPcrs,
    pub(crate) settings: Settings,
    pub(crate) machine: Machine,
    _folder: TempDir,
}

/// What differs between the machines of these tests.
#[derive(Clone, Default)]
pub(crate) struct Setup {
    pub(crate) ceilings: Ceilings,
    pub(crate) append: &'static str,
}

impl Bench {
    /// A machine with the development image, keyspaces `default*`, and a KMS that admits it.
    pub(crate) async fn boot() -> Self {
        Self::boot_with(&Setup::default()).await
    }

    pub(crate) async fn boot_with(setup: &Setup) -> Self {
        let kms = Arc::new(Kms::start());
        let pinned = development_image(&kms, setup.ceilings);
        let bench = Self::boot_image(&kms, &pinned, setup.append).await;
        bench.kms.allow_also(&bench.pcrs);
        bench
    }

    /// A machine with any image. The KMS does not know it yet.
    pub(crate) async fn boot_image(kms: &Arc<Kms>, pinned: &Pinned, append: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path(), &pinned.eif, append);
        let machine = settings.start().await.unwrap();
        let (kms, pcrs) = (Arc::clone(kms), registers(pinned));
        Self { kms, pcrs, settings, machine, _folder: folder }
    }

    /// Ends the machine and boots the same image again.
    pub(crate) async fn reboot(self) -> Self {
        self.machine.stop().await;
        let machine = self.settings.start().await.unwrap();
        Self { machine, ..self }
    }

    /// Waits until the enclave listens, which its heartbeat says.
    pub(crate) async fn connect(&self) -> UnixStream {
        let listens = timeout(PATIENCE, self.machine.listens()).await;
        assert!(listens.is_ok(), "no heartbeat; console: {}", self.console());
        let EnclaveAddress::VhostVsock { path, port } = self.settings.address() else {
            panic!("another address than of a machine")
        };
        let mut stream = UnixStream::connect(path).await.unwrap();
        let asked = ask_for_port(&mut stream, port).await;
        assert!(asked.is_ok(), "{asked:?}; console: {}", self.console());
        stream
    }

    /// Waits until the machine has ended by itself.
    pub(crate) async fn ended(&mut self) {
        let ended = timeout(PATIENCE, self.machine.ended()).await;
        assert!(ended.is_ok(), "it runs on; console: {}", self.console());
    }

    /// What the guest has said so far.
    pub(crate) fn console(&self) -> String {
        let bytes = std::fs::read(self.settings.console()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits for a line of the guest that contains this.
    pub(crate) async fn says(&self, wanted: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let console = self.console();
            let mut lines = console.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            if let Some(line) = lines.find(|line| line.contains(wanted)) {
                return line.trim().to_owned();
            }
            assert!(Instant::now() < deadline, "no `{wanted}` on the console: {console}");
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn allow_list(&self) -> PcrAllowList {
        let ProcessPcrs { pcr0, pcr1, pcr2, .. } = self.pcrs;
        PcrAllowList::new(vec![Measurement { pcr0, pcr1, pcr2 }])
    }
}

/// Virtual CPUs of each machine, and so workers of its enclave, if it is set: a whole number.
pub(crate) const CPUS_VARIABLE: &str = "SIGIL_TEST_CPUS";

/// A number of the environment's, or one.
pub(crate) fn number(variable: &str) -> u16 {
    let Ok(text) = std::env::var(variable) else { return 1 };
    text.parse().unwrap_or_else(|error| panic!("{variable}: {text}: {error}"))
}

/// The settings of a machine whose files are in this folder.
pub(crate) fn settings(folder: &Path, eif: &[u8], append: &str) -> Settings {
    let at = |name: &str| folder.join(name);
    std::fs::write(at("image.eif"), eif).unwrap();
    Settings {
        eif: at("image.eif"),
        qemu: part("SIGIL_TEST_QEMU"),
        firmware: part("SIGIL_TEST_FIRMWARE"),
        vhost_device_vsock: part("SIGIL_TEST_VHOST_DEVICE_VSOCK"),
        cid: 4,
        memory_mib: 128,
        cpus: number(CPUS_VARIABLE),
        dir: folder.to_owned(),
        handoff: at("handoff.sock").display().to_string().parse().unwrap(),
        parent_role: TEST_ROLE_ARN.to_owned(),
        parent_id: "i-00000000000000000".to_owned(),
        bridge: None,
        append: append.to_owned(),
    }
}

/// The development image, pinned for a KMS.
pub(crate) fn development_image(kms: &Kms, ceilings: Ceilings) -> Pinned {
    let base = std::fs::read(part("SIGIL_TEST_EIF_INSECURE")).unwrap();
    pin(&base, &pins(kms, ceilings)).unwrap()
}

/// The production image, pinned for a machine of QEMU's.
pub(crate) fn production_image(kms: &Kms) -> Pinned {
    let base = std::fs::read(part("SIGIL_TEST_EIF_PRODUCTION")).unwrap();
    let pins = Pins {
        insecure: false,
        attestation_root: TrustRoot::aws().der().to_vec(),
        ..pins(kms, Ceilings::default())
    };
    pin(&base, &pins).unwrap()
}

/// The root of what this development enclave signs.
pub(crate) fn attestation_root() -> TrustRoot {
    TrustRoot::from_der(test_root_der().to_vec()).unwrap()
}

/// Pins for keyspaces `default*` under the first key of a KMS, in QEMU.
pub(crate) fn pins(kms: &Kms, ceilings: Ceilings) -> Pins {
    let rule = KeyspaceRule {
        prefix: "default".into(),
        key_arns: vec![kms.key_arn().to_owned()],
        region: devkms::REGION.into(),
        host: devkms::HOST.into(),
    };
    Pins {
        app: "sigil-test".into(),
        rules: vec![rule],
        tls_roots: vec![kms.tls_root_der().to_vec()],
        attestation_root: test_root_der().to_vec(),
        verify_mode: VerifyMode::BatchSample,
        ceilings,
        parent_cid: 2,
        insecure: true,
    }
}

/// What measurements.json says, and the register of the parent's role.
fn registers(pinned: &Pinned) -> ProcessPcrs {
    let measurements = &pinned.measurements;
    let pcr3 = parent_role(TEST_ROLE_ARN);
    ProcessPcrs { pcr0: measurements.pcr0, pcr1: measurements.pcr1, pcr2: measurements.pcr2, pcr3 }
}

/// What a statement of this machine says, once a verifier has accepted it.
pub(crate) fn verified(bench: &Bench, wire: WireStatement) -> Statement {
    let signed = SignedStatement {
        statement: wire.statement.into(),
        signature: wire.signature.as_ref().try_into().unwrap(),
        document: wire.document.into(),
    };
    verify_statement(&signed, &attestation_root(), &bench.allow_list()).unwrap().0
}
