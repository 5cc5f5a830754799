//! One unstored key a keyspace, made, opened, used and forgotten after its DEK is installed: that is
//! what `test signature` in the member's status means. Only then does the keyspace show as unlocked
//! (design section 8, rollout): a DEK that is installed and cannot be used must not let a rollout go on.

use std::sync::Arc;
use std::time::Duration;

use k256::ecdsa::signature::hazmat::PrehashVerifier;
use k256::ecdsa::{Signature, VerifyingKey};
use sigil_enclave_protocol::v1::{
    ActivateRequest, CreateRequest, ErrorCode, ForgetRequest, SignItem,
};

use tokio::time::{Instant, sleep, timeout};

use crate::pool::backoff::{Backoff, random};
use crate::pool::session::Client;
use crate::pool::{Boot, BootWatch, Pool};
use crate::status::StatusWriter;

/// Any 32 bytes do; the key exists for this one signature.
const DIGEST: [u8; 32] = *b"sigil/test-signature/v1/keyspace";

/// One test takes a few round trips.
const TEST_TIME_MAX: Duration = Duration::from_secs(5);
/// A full queue or a connection that comes back is over soon.
const RETRY_MIN: Duration = Duration::from_millis(50);
/// Anything else may last.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// The test of one keyspace on one boot.
pub(super) struct SelfTest {
    pub(super) pool: Pool,
    pub(super) boots: BootWatch,
    pub(super) status: StatusWriter,
    pub(super) keyspace: String,
    pub(super) boot: Arc<Boot>,
    /// When the sealing DEK that it is about ends.
    pub(super) until: Instant,
}

// === impl SelfTest ===

impl SelfTest {
    /// Tests until it works or is about nothing any more: boot or DEK are gone.
    pub(super) async fn run(self) {
        let boot_id = self.boot.boot_id.to_string();
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        let mut said = None;
        while self.is_about_something() {
            let test = timeout(TEST_TIME_MAX, run(&self.pool, &self.keyspace, &self.boot)).await;
            let Err(error) = test.unwrap_or_else(|_| Err("no answer in time".to_owned())) else {
                return self.status.tested(&boot_id, &self.keyspace, self.until);
            };
            // Each reason once: it may be tried for as long as a DEK lives.
            if said.as_ref() != Some(&error) {
                tracing::error!(keyspace = self.keyspace, error, "test signature failed");
                self.status.test_failed(&boot_id, &self.keyspace, error.clone());
                said = Some(error);
            }
            sleep(backoff.wait(random())).await;
        }
    }

    fn is_about_something(&self) -> bool {
        let boot_id = self.boots.borrow().as_ref().map(|boot| boot.boot_id);
        boot_id == Some(self.boot.boot_id) && Instant::now() < self.until
    }
}

/// Makes a key, signs with it, verifies with an independent implementation, forgets it.
async fn run(pool: &Pool, keyspace: &str, boot: &Boot) -> Result<(), String> {
    let (mut client, answers) = pool.client().map_err(|_| "no enclave answers")?;
    if answers.boot_id != boot.boot_id {
        return Err("another boot answers".to_owned());
    }
    let mut key_id = vec![0_u8; 16];
    aws_lc_rs::rand::fill(&mut key_id).map_err(|_| "no random bytes")?;
    let key_id = bytes::Bytes::from(key_id);
    let tested = sign_once(pool, &mut client, keyspace, &key_id).await;
    // Also after a failure: nothing of the test stays in the cache.
    let forget = ForgetRequest { keyspace: keyspace.to_owned(), key_id };
    let forgotten = client.forget(forget).await.map_err(|s| s.to_string())?.into_inner();
    tested?;
    ok("forget", forgotten.error)
}

async fn sign_once(
    pool: &Pool,
    client: &mut Client,
    keyspace: &str,
    key_id: &bytes::Bytes,
) -> Result<(), String> {
    let request = CreateRequest {
        keyspace: keyspace.to_owned(),
        key_id: key_id.clone(),
        ..CreateRequest::default()
    };
    let created = client.create(request).await.map_err(|s| s.to_string())?.into_inner();
    ok("create", created.error)?;
    let request = ActivateRequest {
        keyspace: keyspace.to_owned(),
        key_id: key_id.clone(),
        blob: created.blob,
    };
    let activated = client.activate(request).await.map_err(|s| s.to_string())?.into_inner();
    ok("activate", activated.error)?;
    let item = SignItem {
        keyspace: keyspace.to_owned(),
        key_id: key_id.clone(),
        digest: bytes::Bytes::from_static(&DIGEST),
        ..SignItem::default()
    };
    let signed = pool.sign(item).await.map_err(|error| format!("sign: {error:?}"))?;
    ok("sign", signed.error)?;
    verify(&created.public_key, &signed.signature)
}

fn verify(public_key: &[u8], signature: &[u8]) -> Result<(), String> {
    let key = VerifyingKey::from_sec1_bytes(public_key).map_err(|_| "not a public key")?;
    let signature = Signature::from_slice(signature).map_err(|_| "not a signature")?;
    key.verify_prehash(&DIGEST, &signature).map_err(|_| "the test signature is wrong".to_owned())
}

fn ok(step: &str, code: i32) -> Result<(), String> {
    match ErrorCode::try_from(code) {
        Ok(ErrorCode::Ok) => Ok(()),
        Ok(code) => Err(format!("{step}: {}", code.as_str_name())),
        Err(_) => Err(format!("{step}: error {code}")),
    }
}
