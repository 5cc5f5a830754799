//! An enclave in this process with its pins, socket and test KMS.

use std::sync::Arc;

use sigil_enclave::boot::{Parts, Running, start};
use sigil_enclave_client::EnclaveAddress;
use sigil_enclave_image::Pins;
use sigil_enclave_image::pins::{Ceilings, KeyspaceRule, VerifyMode};
use sigil_enclave_insecure::nsm::{SoftwareNsm, test_root_der};
use sigil_enclave_insecure::serve::process_parts;
use sigil_enclave_protocol::v1::Statement as WireStatement;
use sigil_image_authoring::measure::{ProcessPcrs, process};
use sigil_verifier::{
    Measurement, PcrAllowList, SignedStatement, Statement, TrustRoot, verify_statement,
};
use tempfile::TempDir;
use tokio::net::UnixStream;

use crate::kms::Kms;

/// What stands for the executable in the measurements.
pub(crate) const EXECUTABLE: &[u8] = b"the executable";

/// Ends the enclave when it is dropped.
pub(crate) struct Bench {
    pub(crate) kms: Arc<Kms>,
    pub(crate) pcrs: ProcessPcrs,
    ceilings: Ceilings,
    pub(crate) socket: std::path::PathBuf,
    running: Option<Running>,
    _folder: TempDir,
}

impl Bench {
    /// An enclave with keyspaces `default*` and a KMS of its own.
    pub(crate) fn start() -> Self {
        Self::start_with(Ceilings::default())
    }

    pub(crate) fn start_with(ceilings: Ceilings) -> Self {
        Self::start_enclave(EXECUTABLE, Arc::new(Kms::start()), ceilings, |_| {})
    }

    /// An enclave with a changed part.
    pub(crate) fn start_parts(change: impl FnOnce(&mut Parts)) -> Self {
        let kms = Arc::new(Kms::start());
        Self::start_enclave(EXECUTABLE, kms, Ceilings::default(), change)
    }

    /// An enclave of another image that uses the same KMS.
    pub(crate) fn start_image(executable: &[u8], kms: &Arc<Kms>) -> Self {
        Self::start_enclave(executable, Arc::clone(kms), Ceilings::default(), |_| {})
    }

    /// Another boot of the same image.
    pub(crate) fn start_like(other: &Self) -> Self {
        Self::start_enclave(EXECUTABLE, Arc::clone(&other.kms), other.ceilings, |_| {})
    }

    fn start_enclave(
        executable: &[u8],
        kms: Arc<Kms>,
        ceilings: Ceilings,
        change: impl FnOnce(&mut Parts),
    ) -> Self {
        let pins = pins(&kms, ceilings);
        let pins = pins.encode().unwrap();
        let nsm = Arc::new(SoftwareNsm::new(executable, &pins).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("enclave.sock");
        let pcrs = process(executable, &pins);
        kms.allow_also(&pcrs);
        let address = EnclaveAddress::UnixPath(socket.clone());
        let mut parts = process_parts(pins, nsm, &address, Some(2)).unwrap();
        change(&mut parts);
        let running = Some(start(parts).unwrap());
        Self { kms, pcrs, ceilings, socket, running, _folder: folder }
    }

    /// Waits while the queue of the listener is full.
    pub(crate) async fn connect(&self) -> UnixStream {
        let socket = self.socket.clone();
        let connect = move || std::os::unix::net::UnixStream::connect(socket).unwrap();
        let stream = tokio::task::spawn_blocking(connect).await.unwrap();
        stream.set_nonblocking(true).unwrap();
        UnixStream::from_std(stream).unwrap()
    }

    pub(crate) fn pcr0(&self) -> [u8; 48] {
        self.pcrs.pcr0
    }

    pub(crate) fn allow_list(&self) -> PcrAllowList {
        let ProcessPcrs { pcr0, pcr1, pcr2, .. } = self.pcrs;
        PcrAllowList::new(vec![Measurement { pcr0, pcr1, pcr2 }])
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }
}

/// The root of the software NSM's documents.
pub(crate) fn attestation_root() -> TrustRoot {
    TrustRoot::from_der(test_root_der().to_vec()).unwrap()
}

/// Pins for keyspaces `default*` under the first key of a KMS.
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
        parent_cid: 3,
        insecure: true,
    }
}

/// What a statement of this enclave says, once a verifier has accepted it.
pub(crate) fn verified(bench: &Bench, wire: WireStatement) -> Statement {
    let signed = SignedStatement {
        statement: wire.statement.into(),
        signature: wire.signature.as_ref().try_into().unwrap(),
        document: wire.document.into(),
    };
    verify_statement(&signed, &attestation_root(), &bench.allow_list()).unwrap().0
}
