//! The test KMS with the key policy of the enclaves of a test.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use devkms::policy::{Measured, attested_use};
use devkms::{BREAK_GLASS_ROLE, DATAPLANE_ROLE, FaultMode, TestKms, TestKmsOptions};
use sigil_enclave_insecure::nsm::test_root_der;
use sigil_image_authoring::measure::ProcessPcrs;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

pub(crate) struct Kms {
    inner: TestKms,
    allowed: Mutex<Vec<Measured>>,
}

impl Kms {
    pub(crate) fn start() -> Self {
        let attestation_root_der = test_root_der().to_vec();
        let options = TestKmsOptions { attestation_root_der, policy: None };
        Self { inner: TestKms::start(options).unwrap(), allowed: Mutex::default() }
    }

    pub(crate) fn key_arn(&self) -> &str {
        &self.inner.key_arn
    }

    pub(crate) fn tls_root_der(&self) -> &[u8] {
        &self.inner.tls_root_der
    }

    /// Another KMS key under the same policy, which no pins name.
    pub(crate) fn other_key(&self) -> String {
        self.inner.add_key().unwrap()
    }

    /// Access key, secret, session token.
    pub(crate) fn credential(&self) -> (String, String, Option<String>) {
        let credential = self.inner.credentials();
        (credential.access_key, credential.secret, Some(credential.session_token))
    }

    /// Answers so far, of every kind.
    pub(crate) fn requests(&self) -> u64 {
        self.inner.counters().total()
    }

    pub(crate) fn set(&self, fault: FaultMode) {
        self.inner.set_fault(fault).unwrap();
    }

    /// Puts the production policy, for one image more than before.
    pub(crate) fn allow_also(&self, pcrs: &ProcessPcrs) {
        let measured = serde_json::json!({
            "formatVersion": 1,
            "app": "sigil-test",
            "pcr0": const_hex::encode(pcrs.pcr0),
            "pcr3": const_hex::encode(pcrs.pcr3),
            "kms": [{ "keyArns": [self.key_arn()] }],
        });
        let mut allowed = self.allowed.lock().unwrap_or_else(PoisonError::into_inner);
        allowed.push(serde_json::from_value(measured).unwrap());
        let policy =
            attested_use(&allowed, None, self.key_arn(), DATAPLANE_ROLE, BREAK_GLASS_ROLE).unwrap();
        self.inner.put_policy(&serde_json::to_string(&policy).unwrap()).unwrap();
    }

    /// Forgets which images it allowed.
    pub(crate) fn allow_only(&self, pcrs: &ProcessPcrs) {
        self.allowed.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.allow_also(pcrs);
    }

    /// What somebody has who once held `kms:Encrypt`: a DEK of their choice, rightly wrapped.
    pub(crate) fn wrap_known_dek(&self, dek_id: &[u8], keyspace: &str, dek: &[u8; 32]) -> Vec<u8> {
        let context = context(dek_id, keyspace);
        self.inner.encrypt_as_attacker(self.key_arn(), &context, dek).unwrap()
    }

    /// A wrapped DEK's plaintext, as the KMS knows it.
    #[allow(dead_code, reason = "only the tests of a machine look for a DEK in its memory")]
    pub(crate) fn unwrap_dek(&self, dek_id: &[u8], keyspace: &str, wrapped: &[u8]) -> Vec<u8> {
        self.inner.plaintext_of(self.key_arn(), &context(dek_id, keyspace), wrapped).unwrap()
    }

    /// A connection to the server.
    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.inner.addr).await.unwrap()
    }

    /// Copies bytes between a tunnel and the server until both ends are done.
    pub(crate) async fn pipe(&self, mut tunnel: UnixStream) -> JoinHandle<()> {
        let address: SocketAddr = self.inner.addr;
        let mut kms = TcpStream::connect(address).await.unwrap();
        tokio::spawn(async move {
            // Faults cut the connection on purpose.
            let _ = tokio::io::copy_bidirectional(&mut tunnel, &mut kms).await;
        })
    }
}

fn context(dek_id: &[u8], keyspace: &str) -> BTreeMap<String, String> {
    let context = [
        ("app", "sigil-test".to_owned()),
        ("dek_id", const_hex::encode(dek_id)),
        ("keyspace", keyspace.to_owned()),
    ];
    context.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
