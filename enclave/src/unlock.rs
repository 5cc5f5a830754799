//! Unlocking: two calls of the sidecar around one KMS exchange. `begin` writes the exact request
//! with a fresh attestation document; `authorize` takes the signature headers, talks to KMS
//! through the tunnel that was opened for it, and installs or gives out what KMS answered.
//! Everything here runs on the control thread.

use std::sync::Arc;

use aws_lc_rs::digest::{Digest, SHA256, digest};
use sigil_attestation::{UserData, verify};
use sigil_enclave_image::pins::KeyspaceRule;
use sigil_enclave_protocol::v1::ErrorCode;
use subtle::ConstantTimeEq;
use tokio::sync::SetOnce;

use crate::clock::boot_ms;
use crate::dek::{Dek, DekId, InstallError, Installed, Provenance, key_check_value};
use crate::enclave::Enclave;
use crate::kms_exchange::{
    AnswerError, AskedDek, ExactRequest, ExchangeError, OpenedDek, Operation, RecipientError,
    RecipientKey, SignatureHeaders, TlsRoots, exchange,
};
use crate::names::Keyspace;
use crate::rng;
use crate::secret::Secret32;
use crate::stream::Stream;

mod open;

use open::OpenUnlocks;

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
    pub attestation_hash: Digest,
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
#[derive(Debug)]
pub enum UnlockError {
    /// No rule of the pins matches the keyspace, or the ARN is not among its keys.
    NotPinned,
    /// Too many are open.
    TooMany,
    /// The NSM refused.
    Attestation,
    /// No such unlock, expired, or used.
    Unknown,
    /// No tunnel came in time.
    TunnelMissing,
    /// KMS gave no answer.
    Exchange(ExchangeError),
    /// KMS said no, or its answer was refused.
    Answer(AnswerError),
    /// The random source went bad, or the enclave was drained, while KMS was asked.
    Gate(ErrorCode),
    /// The DEK is not what the row's birth document or the installed DEK says.
    Mismatch,
    /// The DEK table is full.
    Full,
    /// No randomness, or a name that a format does not allow.
    Internal,
}

/// Begun unlocks and what every exchange needs.
pub struct Unlocks {
    /// Made after the enclave listens: it takes longer than the rest of the boot.
    recipient: SetOnce<RecipientKey>,
    tls: TlsRoots,
    open: OpenUnlocks<Waiting, Stream>,
}

/// What `authorize` takes up.
struct Waiting {
    request: ExactRequest,
    operation: Operation,
    what: What,
    dek_id: DekId,
    /// Boot clock at the making of the document in the request: the DEK's time runs from here.
    document_ms: u64,
}

impl Unlocks {
    /// No unlock is open yet.
    pub fn new(tls: TlsRoots) -> Self {
        Self { recipient: SetOnce::new(), tls, open: OpenUnlocks::new() }
    }

    /// Draws the key to which KMS encrypts. Once a boot.
    ///
    /// # Errors
    /// The generator failed.
    pub fn draw_recipient(&self) -> Result<(), RecipientError> {
        // It is set by nobody else.
        let _ = self.recipient.set(RecipientKey::generate()?);
        Ok(())
    }

    /// Waits for that key.
    pub async fn ready(&self) {
        self.recipient.wait().await;
    }

    /// True if a tunnel for this unlock is awaited.
    pub fn expects(&self, id: &UnlockId) -> bool {
        self.open.expects(id)
    }

    /// Hands a tunnel over. It is dropped if nobody awaits it any more.
    pub fn attach(&self, id: &UnlockId, stream: Stream) {
        self.open.attach(id, stream);
    }

    /// Drops what nobody authorized in time.
    pub fn sweep(&self, now_ms: u64) {
        self.open.sweep(now_ms);
    }
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
        let (rule, key_arn) = self.pinned(&keyspace, key_arn)?;
        // Before the NSM is asked. Nothing else opens an unlock meanwhile: one thread runs this.
        if !self.unlocks.open.has_room(boot_ms()) {
            return Err(UnlockError::TooMany);
        }
        let user_data = UserData::Kms { boot_id: self.boot_id.0 };
        let recipient = self.unlocks.recipient.get().ok_or(UnlockError::Internal)?;
        let made = self
            .document(&user_data, Some(recipient.spki_der()))
            .map_err(|_| UnlockError::Attestation)?;
        let asked = AskedDek { rule, key_arn, app: &self.pins.app, keyspace: &keyspace, dek_id };
        let request = ExactRequest::new(&asked, &operation, &made.bytes);
        let attestation_hash = digest(&SHA256, &made.bytes);
        let waiting = Waiting {
            request: request.clone(),
            operation,
            what,
            dek_id,
            document_ms: made.asked_ms,
        };
        let unlock_id = rng::public_bytes().map_err(|_| UnlockError::Internal)?;
        if !self.unlocks.open.add(unlock_id, waiting, boot_ms()) {
            return Err(UnlockError::TooMany);
        }
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
        let mut taken = self.unlocks.open.take(&id, boot_ms()).ok_or(UnlockError::Unknown)?;
        let tunnel = taken.tunnel().await.ok_or(UnlockError::TunnelMissing)?;
        let now_unix_s = self.clock.wall_ms() / 1_000;
        let Waiting { request, operation, .. } = &taken.waiting;
        let tls = &self.unlocks.tls;
        let answer = exchange(tunnel, tls, now_unix_s, request, &headers).await;
        let recipient = self.unlocks.recipient.get().ok_or(UnlockError::Internal)?;
        let answer = answer.map_err(UnlockError::Exchange)?;
        let opened = answer.open(recipient, operation, &request.key_arn);
        self.take_in(&taken.waiting, opened.map_err(UnlockError::Answer)?)
    }

    fn take_in(&self, asked: &Waiting, opened: OpenedDek) -> Result<Done, UnlockError> {
        let OpenedDek { dek, wrapped } = opened;
        self.gate().map_err(UnlockError::Gate)?;
        match &asked.what {
            What::Row { row, current } => self.install(row, dek, *current, asked.document_ms),
            What::Generate { keyspace, .. } => {
                let wrapped = wrapped.ok_or(UnlockError::Internal)?;
                self.give_birth(asked, *keyspace, wrapped, &dek)
            }
        }
    }

    /// The rule of a keyspace, and the KMS key of it with this ARN, or its first.
    fn pinned(
        &self,
        keyspace: &Keyspace,
        key_arn: &str,
    ) -> Result<(&KeyspaceRule, &str), UnlockError> {
        let rule = self.pins.rule_for(keyspace.as_str()).ok_or(UnlockError::NotPinned)?;
        let pinned = rule.key_arns.iter().find(|arn| key_arn.is_empty() || *arn == key_arn);
        Ok((rule, pinned.ok_or(UnlockError::NotPinned)?))
    }

    /// Makes the birth document. The secret is erased by the caller: only Decrypt installs a DEK.
    fn give_birth(
        &self,
        asked: &Waiting,
        keyspace: Keyspace,
        wrapped: Vec<u8>,
        secret: &Secret32,
    ) -> Result<Done, UnlockError> {
        let dek_id = asked.dek_id;
        let user_data = UserData::DekBirth {
            dek_id,
            app: self.pins.app.clone(),
            keyspace: keyspace.as_str().to_owned(),
            kcv: key_check_value(secret),
        };
        let made = self.document(&user_data, None).map_err(|_| UnlockError::Attestation)?;
        Ok(Done::Generated(DekRow {
            dek_id,
            keyspace,
            wrapped,
            birth_document: made.bytes,
            key_arn: asked.request.key_arn.clone(),
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
        let until_ms = document_ms.saturating_add(self.cache.settings().dek_hard_ttl_ms);
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
        let Ok(document) = verify(&row.birth_document, &self.root) else {
            return Ok(Provenance::Unproven);
        };
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
            Some(pcr0) if pcr0 == self.pcr0() => Ok(Provenance::Born),
            Some(pcr0) => Ok(Provenance::Foreign(pcr0)),
            None => Ok(Provenance::Unproven),
        }
    }
}
