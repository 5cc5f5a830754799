//! Unlocking: two calls of the sidecar around one KMS exchange. `begin` writes the exact request
//! with a fresh attestation document; `authorize` takes the signature headers, talks to KMS
//! through the tunnel that was opened for it, and installs or gives out what KMS answered.
//! Everything here runs on the control thread.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use sigil_attestation::{UserData, VerifyTime, verify};
use sigil_enclave_image::pins::KeyspaceRule;
use sigil_enclave_protocol::bounds::{UNLOCK_BEGIN_LIFE, UNLOCKS_OPEN_MAX};
use subtle::ConstantTimeEq;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::clock::boot_ms;
use crate::dek::{Dek, DekId, InstallError, Installed, Provenance, key_check_value};
use crate::enclave::Enclave;
use crate::kms_exchange::{
    AnswerError, EncryptionContext, ExactRequest, ExchangeError, OpenedDek, Operation,
    RecipientKey, SignatureHeaders, Target, TlsRoots, exchange,
};
use crate::names::Keyspace;
use crate::rng;
use crate::secret::Secret32;
use crate::stream::Stream;

/// Identifier of a begun unlock.
pub type UnlockId = [u8; 16];

/// A `dek` row as read from the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DekRow {
    /// Its identifier.
    pub dek_id: DekId,
    /// Its keyspace.
    pub keyspace: Keyspace,
    /// What KMS wrapped.
    pub wrapped: Vec<u8>,
    /// The birth document, or empty.
    pub birth_document: Vec<u8>,
    /// The KMS key that wrapped it.
    pub key_arn: String,
}

/// What is asked of KMS.
#[derive(Clone, Debug)]
pub enum What {
    /// Unlock this row.
    Row {
        /// As read from the store.
        row: DekRow,
        /// The store's `current` names it for this image.
        current: bool,
    },
    /// Make a DEK for this keyspace under this KMS key, or the first pinned one.
    Generate {
        /// Keyspace of the new DEK.
        keyspace: Keyspace,
        /// A pinned ARN; empty for the first one.
        key_arn: String,
    },
}

/// A begun unlock.
#[derive(Debug)]
pub struct Begun {
    /// Names it in `authorize` and in the tunnel's handshake.
    pub unlock_id: UnlockId,
    /// What the sidecar signs.
    pub request: ExactRequest,
    /// The DEK it is about.
    pub dek_id: DekId,
    /// SHA-256 of the attestation document in the request.
    pub attestation_hash: [u8; 32],
}

/// What came of an exchange.
#[derive(Debug)]
pub enum Done {
    /// The new DEK's row, to be stored. Its plaintext is erased already.
    Generated(DekRow),
    /// The row's DEK is unlocked.
    Unlocked {
        /// What the unlock came to.
        installed: Installed,
        /// Until its hard limit.
        valid_for_ms: u64,
    },
}

/// Why an unlock does not happen.
#[derive(Debug, thiserror::Error)]
pub enum UnlockError {
    /// No rule of the pins matches the keyspace, or the ARN is not among its keys.
    #[error("the keyspace or the KMS key is not pinned")]
    NotPinned,
    /// [`UNLOCKS_OPEN_MAX`] are open.
    #[error("too many unlocks are open")]
    TooMany,
    /// The NSM refused.
    #[error("no attestation document")]
    Attestation,
    /// No such unlock, expired, or used.
    #[error("no such unlock")]
    Unknown,
    /// No tunnel came in time.
    #[error("no tunnel")]
    TunnelMissing,
    /// KMS gave no answer.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// KMS said no, or its answer was refused.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// The DEK is not what the row's birth document or the installed DEK says.
    #[error("the DEK is another one")]
    Mismatch,
    /// The DEK table is full.
    #[error("too many DEKs")]
    Full,
    /// No randomness, or a name that a format does not allow.
    #[error("internal fault")]
    Internal,
}

/// Begun unlocks and what every exchange needs.
pub struct Unlocks {
    recipient: RecipientKey,
    tls: TlsRoots,
    open: Mutex<HashMap<UnlockId, Open>>,
}

/// One begun unlock. It counts as open until it is done or expires.
struct Open {
    begun_ms: u64,
    tunnel: Option<oneshot::Sender<Stream>>,
    waiting: Option<Waiting>,
}

/// What `authorize` takes up.
struct Waiting {
    tunnel: oneshot::Receiver<Stream>,
    request: ExactRequest,
    operation: Operation,
    what: What,
    dek_id: DekId,
    key_arn: String,
    document_ms: u64,
    begun_ms: u64,
}

impl Unlocks {
    /// No unlock is open yet.
    pub fn new(recipient: RecipientKey, tls: TlsRoots) -> Self {
        Self { recipient, tls, open: Mutex::default() }
    }

    /// True if a tunnel for this unlock is awaited.
    pub fn expects(&self, id: &UnlockId) -> bool {
        self.open().get(id).is_some_and(|open| open.tunnel.is_some())
    }

    /// Hands a tunnel over. It is dropped if nobody awaits it any more.
    pub fn attach(&self, id: &UnlockId, stream: Stream) {
        if let Some(tunnel) = self.open().get_mut(id).and_then(|open| open.tunnel.take()) {
            let _ = tunnel.send(stream);
        }
    }

    /// Drops what nobody authorized in time.
    pub fn sweep(&self, now_ms: u64) {
        self.open().retain(|_, open| open.waiting.is_none() || !expired(open.begun_ms, now_ms));
    }

    fn open(&self) -> MutexGuard<'_, HashMap<UnlockId, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(
        &self,
        waiting: Waiting,
        tunnel: oneshot::Sender<Stream>,
    ) -> Result<UnlockId, UnlockError> {
        let id = rng::public_bytes().map_err(|_| UnlockError::Internal)?;
        self.sweep(waiting.begun_ms);
        let mut open = self.open();
        if open.len() >= UNLOCKS_OPEN_MAX {
            return Err(UnlockError::TooMany);
        }
        let begun_ms = waiting.begun_ms;
        open.insert(id, Open { begun_ms, tunnel: Some(tunnel), waiting: Some(waiting) });
        Ok(id)
    }

    fn take(&self, id: &UnlockId, now_ms: u64) -> Result<Waiting, UnlockError> {
        let mut open = self.open();
        if open.get(id).is_some_and(|open| expired(open.begun_ms, now_ms)) {
            open.remove(id);
        }
        open.get_mut(id).and_then(|open| open.waiting.take()).ok_or(UnlockError::Unknown)
    }
}

/// Takes an unlock out of the open ones however its exchange ends.
struct Finish<'a>(&'a Unlocks, UnlockId);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.open().remove(&self.1);
    }
}

fn expired(begun_ms: u64, now_ms: u64) -> bool {
    Duration::from_millis(now_ms.saturating_sub(begun_ms)) >= UNLOCK_BEGIN_LIFE
}

impl Enclave {
    /// First half: writes the request.
    ///
    /// # Errors
    /// See [`UnlockError`].
    pub fn unlock_begin(&self, what: What) -> Result<Begun, UnlockError> {
        let (dek_id, keyspace, key_arn, operation) = match &what {
            What::Row { row, .. } => {
                let operation = Operation::Decrypt { wrapped: row.wrapped.clone() };
                (row.dek_id, row.keyspace, row.key_arn.as_str(), operation)
            }
            What::Generate { keyspace, key_arn } => {
                let dek_id = rng::public_bytes().map_err(|_| UnlockError::Internal)?;
                (dek_id, *keyspace, key_arn.as_str(), Operation::GenerateDataKey)
            }
        };
        let target = self.target(&keyspace, key_arn)?;
        let context = EncryptionContext {
            app: self.pins.app.clone(),
            keyspace: keyspace.as_str().to_owned(),
            dek_id,
        };
        let begun_ms = boot_ms();
        let user_data = UserData::Kms { boot_id: self.boot_id.0 };
        let public_key = self.unlocks.recipient.spki_der();
        let made = self
            .document(&user_data, None, Some(public_key))
            .map_err(|_| UnlockError::Attestation)?;
        let request = ExactRequest::new(&target, &context, &operation, &made.bytes);
        let mut attestation_hash = [0; 32];
        attestation_hash.copy_from_slice(digest::digest(&digest::SHA256, &made.bytes).as_ref());
        let (tunnel_in, tunnel) = oneshot::channel();
        let waiting = Waiting {
            tunnel,
            request: request.clone(),
            operation,
            what,
            dek_id,
            key_arn: target.key_arn,
            document_ms: made.asked_ms,
            begun_ms,
        };
        let unlock_id = self.unlocks.add(waiting, tunnel_in)?;
        Ok(Begun { unlock_id, request, dek_id, attestation_hash })
    }

    /// Second half: the exchange.
    ///
    /// # Errors
    /// See [`UnlockError`].
    pub async fn unlock_authorize(
        self: Arc<Self>,
        id: UnlockId,
        headers: SignatureHeaders,
    ) -> Result<Done, UnlockError> {
        let waiting = self.unlocks.take(&id, boot_ms())?;
        let _finish = Finish(&self.unlocks, id);
        let life = UNLOCK_BEGIN_LIFE
            .saturating_sub(Duration::from_millis(boot_ms().saturating_sub(waiting.begun_ms)));
        let Waiting { tunnel, request, operation, what, dek_id, key_arn, document_ms, .. } =
            waiting;
        let tunnel = timeout(life, tunnel).await.map_err(|_| UnlockError::TunnelMissing)?;
        let tunnel = tunnel.map_err(|_| UnlockError::TunnelMissing)?;
        let now_unix_s = self.clock.wall_ms() / 1_000;
        let tls = &self.unlocks.tls;
        let answer = exchange(tunnel, tls, now_unix_s, &request, &headers).await?;
        let OpenedDek { dek, wrapped } =
            answer.open(&self.unlocks.recipient, &operation, &key_arn)?;
        match what {
            What::Row { row, current } => self.install(&row, dek, current, document_ms),
            What::Generate { keyspace, .. } => {
                let wrapped = wrapped.ok_or(UnlockError::Internal)?;
                self.give_birth(dek_id, keyspace, wrapped, key_arn, &dek)
            }
        }
    }

    fn target(&self, keyspace: &Keyspace, key_arn: &str) -> Result<Target, UnlockError> {
        let rule: &KeyspaceRule =
            self.pins.rule_for(keyspace.as_str()).ok_or(UnlockError::NotPinned)?;
        let pinned = rule.key_arns.iter().find(|arn| key_arn.is_empty() || *arn == key_arn);
        let key_arn = pinned.ok_or(UnlockError::NotPinned)?.clone();
        Ok(Target { host: rule.host.clone(), region: rule.region.clone(), key_arn })
    }

    /// Makes the birth document. The secret is erased by the caller: only Decrypt installs a DEK.
    fn give_birth(
        &self,
        dek_id: DekId,
        keyspace: Keyspace,
        wrapped: Vec<u8>,
        key_arn: String,
        secret: &Secret32,
    ) -> Result<Done, UnlockError> {
        let user_data = UserData::DekBirth {
            dek_id,
            app: self.pins.app.clone(),
            keyspace: keyspace.as_str().to_owned(),
            kcv: key_check_value(secret),
        };
        let made = self.document(&user_data, None, None).map_err(|_| UnlockError::Attestation)?;
        Ok(Done::Generated(DekRow {
            dek_id,
            keyspace,
            wrapped,
            birth_document: made.bytes,
            key_arn,
        }))
    }

    fn install(
        &self,
        row: &DekRow,
        secret: Secret32,
        current: bool,
        document_ms: u64,
    ) -> Result<Done, UnlockError> {
        let provenance = self.provenance(row, &secret)?;
        let dek = Dek { id: row.dek_id, keyspace: row.keyspace, provenance, secret };
        let until_ms = document_ms.saturating_add(self.dek_hard_ms);
        let installed = self.deks.install(dek, until_ms, current).map_err(|error| match error {
            InstallError::Mismatch => UnlockError::Mismatch,
            InstallError::Full => UnlockError::Full,
        })?;
        let valid_for_ms = installed.until_ms.saturating_sub(boot_ms());
        Ok(Done::Unlocked { installed, valid_for_ms })
    }

    /// What the row's birth document proves about the DEK that KMS decrypted. A document that
    /// verifies but speaks of another DEK is a mix-up or an attack, and refused.
    fn provenance(&self, row: &DekRow, secret: &Secret32) -> Result<Provenance, UnlockError> {
        let verified = verify(&row.birth_document, &self.root, VerifyTime::AtDocument);
        let Ok(document) = verified else { return Ok(Provenance::Unproven) };
        let Ok(UserData::DekBirth { dek_id, app, keyspace, kcv }) = document.user_data() else {
            return Ok(Provenance::Unproven);
        };
        let same_dek = dek_id == row.dek_id
            && app == self.pins.app
            && keyspace == row.keyspace.as_str()
            && bool::from(kcv.ct_eq(&key_check_value(secret)));
        if !same_dek {
            return Err(UnlockError::Mismatch);
        }
        match document.pcr(0) {
            Some(pcr0) if pcr0 == self.pcr0 => Ok(Provenance::Born),
            Some(pcr0) => Ok(Provenance::Foreign(pcr0)),
            None => Ok(Provenance::Unproven),
        }
    }
}
