//! A test KMS inside the process of a test.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;

use sigil_verifier::{TrustRoot, TrustRootError};
use tokio::sync::oneshot;

use crate::blob;
use crate::counters::Counters;
use crate::fault::FaultMode;
use crate::keys::{Key, KeyError};
use crate::pki::{Pki, PkiError};
use crate::policy::{Policy, PolicyError};
use crate::server::Server;
use crate::store::{Credential, Store};
use crate::{BREAK_GLASS_ROLE, HOST, REGION};

/// What a [`TestKms`] needs.
#[derive(Clone, Debug, Default)]
pub struct TestKmsOptions {
    /// DER of the root of the attestation documents that are accepted.
    pub attestation_root_der: Vec<u8>,
    /// The first key's policy as JSON; nobody may use the key if there is none.
    pub policy: Option<String>,
}

/// A test KMS on loopback, with a thread and a runtime of its own, so that it works under any
/// runtime of the test, paused clocks included. It ends when it is dropped.
#[derive(Debug)]
pub struct TestKms {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Root of its TLS certificate, for pins.
    pub tls_root_der: Vec<u8>,
    /// ARN of its first key.
    pub key_arn: String,
    store: Arc<Store>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// It cannot be started or set up.
#[derive(Debug, thiserror::Error)]
pub enum TestKmsError {
    /// Certificates or sockets.
    #[error(transparent)]
    Server(#[from] PkiError),
    /// Threads, runtimes.
    #[error(transparent)]
    System(#[from] io::Error),
    /// No randomness.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The options' attestation root.
    #[error(transparent)]
    AttestationRoot(#[from] TrustRootError),
    /// A policy that AWS would refuse too.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// No key of this ARN.
    #[error("no key has this ARN")]
    NoKey,
    /// AES-256-GCM failed.
    #[error("the blob could not be made")]
    Blob,
}

impl TestKms {
    /// Starts one. It serves when this returns.
    ///
    /// # Errors
    /// See [`TestKmsError`].
    pub fn start(options: TestKmsOptions) -> Result<Self, TestKmsError> {
        let root = TrustRoot::from_der(options.attestation_root_der)?;
        let pki = Pki::generate()?;
        let tls_root_der = pki.root_der()?;
        let mut key = Key::generate()?;
        let key_arn = key.arn.clone();
        if let Some(policy) = options.policy {
            key.policy = Policy::parse(&policy, BREAK_GLASS_ROLE)?;
        }
        let store = Arc::new(Store::in_memory(vec![key]));
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let addr = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let server = {
            let _inside = runtime.enter();
            Server::bind(listener, &pki, Arc::clone(&store), root)?
        };
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = server.run() => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("devkms".to_owned()).spawn(run)?;
        Ok(Self { addr, tls_root_der, key_arn, store, stop: Some(stop), thread: Some(thread) })
    }

    /// The name that its certificate and signatures have.
    pub fn host(&self) -> &'static str {
        HOST
    }

    /// The region that signatures must name.
    pub fn region(&self) -> &'static str {
        REGION
    }

    /// The data plane's credentials, with a session token.
    pub fn credentials(&self) -> Credential {
        let [_, session, _] = Credential::known();
        session
    }

    /// The credentials of the role that may change the policy.
    pub fn break_glass_credentials(&self) -> Credential {
        let [_, _, break_glass] = Credential::known();
        break_glass
    }

    /// Requests so far.
    pub fn counters(&self) -> Counters {
        self.store.counters()
    }

    /// Makes it wrong, or honest again with [`FaultMode::Off`].
    ///
    /// # Errors
    /// None here, since its state is in memory.
    pub fn set_fault(&self, fault: FaultMode) -> Result<(), TestKmsError> {
        Ok(self.store.set_fault(fault)?)
    }

    /// Puts the first key's policy, JSON, as the break-glass role.
    ///
    /// # Errors
    /// AWS would refuse it too.
    pub fn put_policy(&self, policy: &str) -> Result<(), TestKmsError> {
        let mut key = self.key(&self.key_arn)?;
        key.policy = Policy::parse(policy, BREAK_GLASS_ROLE)?;
        Ok(self.store.put_key(key)?)
    }

    /// Makes another key, with the policy of the first one; gives its ARN.
    ///
    /// # Errors
    /// No randomness.
    pub fn add_key(&self) -> Result<String, TestKmsError> {
        let mut key = Key::generate()?;
        key.policy = self.key(&self.key_arn)?.policy;
        let arn = key.arn.clone();
        self.store.put_key(key)?;
        Ok(arn)
    }

    /// A `CiphertextBlob` of a DEK of the caller's choice: what somebody has who was once allowed
    /// `kms:Encrypt`. The policy is not asked.
    ///
    /// # Errors
    /// No key of this ARN.
    pub fn encrypt_as_attacker(
        &self,
        key_arn: &str,
        context: &BTreeMap<String, String>,
        plaintext: &[u8],
    ) -> Result<Vec<u8>, TestKmsError> {
        let key = self.key(key_arn)?;
        blob::wrap(key.id, &key.material, context, plaintext).map_err(|_| TestKmsError::Blob)
    }

    /// The plaintext of a `CiphertextBlob`, as the KMS itself knows it: for tests that look for it
    /// where it should not be.
    ///
    /// # Errors
    /// No key of this ARN, or the blob is not its under this context.
    pub fn plaintext_of(
        &self,
        key_arn: &str,
        context: &BTreeMap<String, String>,
        blob: &[u8],
    ) -> Result<Vec<u8>, TestKmsError> {
        blob::unwrap(&self.key(key_arn)?.material, context, blob).map_err(|_| TestKmsError::Blob)
    }

    fn key(&self, arn: &str) -> Result<Key, TestKmsError> {
        self.store.keys().into_iter().find(|key| key.arn == arn).ok_or(TestKmsError::NoKey)
    }
}

impl Drop for TestKms {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was printed by its thread; another one here would hide the test's own.
            let _ = thread.join();
        }
    }
}
