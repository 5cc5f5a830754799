//! What is done with keys: make, open, activate, prove, sign. Synchronous, on a worker, with keys by
//! reference only.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use sigil_attestation::{Provenance as DekProvenance, Statement, StatementKind};
use subtle::ConstantTimeEq;

use crate::clock::boot_ms;
use crate::dek::{Dek, DekId, DekTable, Lease, Provenance};
use crate::enclave::Enclave;
use crate::key_cache::Open;
use crate::key_cache::slot::Event;
use crate::names::Keyspace;
use crate::rng::Rng;
use crate::seal::{Header, SealError, parse};
use crate::secret::Secret32;
use crate::signer::{Fault, Item, SELF_TEST_DIGEST, Signer};
use crate::statements::SignedStatement;

/// Draws before a scalar is in range: one fails with a chance of 2^-128.
const SCALAR_DRAWS_MAX: u32 = 4;

/// SHA-256 of the empty policy, the only one there is.
const EMPTY_POLICY_HASH: [u8; 32] = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
    0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

/// What the cache knows a key by. The public key is the identity; this is the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyName {
    /// Keyspace of the key.
    pub keyspace: Keyspace,
    /// Identifier within the store.
    pub key_id: [u8; 16],
}

impl Hash for KeyName {
    /// The id alone: every signature hashes names, twice. One id in several keyspaces meets itself;
    /// for how often see decision 18.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.key_id);
    }
}

/// A plain key and what is said about it. Erased on drop.
#[derive(Debug)]
pub struct PlainKey {
    /// The private key, bound to the public key if it was opened from a blob.
    pub scalar: Secret32,
    /// Its compressed public key, recomputed when it was opened.
    pub public_key: [u8; 33],
    /// PCR0 of the image that made it.
    pub birth_pcr0: [u8; 48],
    /// The DEK that it is sealed under.
    pub dek_id: DekId,
    /// What is proved about that DEK.
    pub dek_provenance: Provenance,
}

/// An opened blob, for the cache.
#[derive(Debug)]
pub struct Opened {
    /// The key.
    pub plain: PlainKey,
    /// How long its DEK may be used.
    pub lease: Arc<Lease>,
}

/// Why a key operation does not happen. Closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// The key is not cached and no blob came along.
    BlobRequired,
    /// This DEK is not unlocked here, or expired.
    UnlockRequired(DekId),
    /// The keyspace has no unlocked DEK that may seal.
    NoSealingDek,
    /// The blob does not open, or is another key's.
    Invalid,
    /// The id is cached with another public key.
    Conflict,
    /// No keyspace rule of the pins matches.
    NotPinned,
    /// The statement key's document could not be renewed.
    StatementsStale,
    /// Too many secrets are in memory.
    NoRoom,
    /// Another worker opens the key, and the budget for waiting is used up.
    OutOfTime,
    /// What the blob says about its key's birth is not vouched for by its DEK.
    Unvouched,
    /// A computation was faulty.
    Internal,
}

impl From<SealError> for KeyError {
    fn from(error: SealError) -> Self {
        match error {
            SealError::NoRoom => Self::NoRoom,
            _ => Self::Invalid,
        }
    }
}

impl From<Fault> for KeyError {
    fn from(_: Fault) -> Self {
        Self::Internal
    }
}

/// A new key, to be stored by the caller. Nothing of it stays here.
#[derive(Debug)]
pub struct Created {
    /// The sealed key.
    pub blob: Vec<u8>,
    /// Its public key.
    pub public_key: [u8; 33],
    /// The DEK that seals it.
    pub dek_id: DekId,
    /// The birth statement.
    pub birth: SignedStatement,
}

/// Opens blobs with the DEKs that are unlocked here.
pub struct BlobOpener<'a> {
    /// Deployment whose keys may be opened.
    pub app: &'a str,
    /// Unlocked DEKs.
    pub deks: &'a DekTable,
    /// Recomputes public keys.
    pub signer: &'a Signer,
    /// Boot clock at the start of the batch.
    pub began_ms: u64,
}

impl Open for BlobOpener<'_> {
    fn open(&self, name: &KeyName, blob: &[u8]) -> Result<Opened, KeyError> {
        let sealed = parse(blob)?;
        let header = &sealed.header;
        if header.app != self.app
            || header.keyspace != name.keyspace
            || header.key_id != name.key_id
        {
            return Err(KeyError::Invalid);
        }
        let found = self.deks.find(&header.dek_id, self.began_ms);
        let (dek, lease) = found.ok_or(KeyError::UnlockRequired(header.dek_id))?;
        if dek.keyspace != name.keyspace {
            return Err(KeyError::Invalid);
        }
        let mut scalar = sealed.open(&dek.secret)?;
        // Before the comparison: what changes in between does not compare.
        scalar.bind_to(&header.public_key);
        match self.signer.public_key(&scalar) {
            Ok(public_key) if public_key == header.public_key => {}
            // It was computed in two ways that differ, which says nothing about the blob.
            Err(Fault) if self.signer.is_scalar(&scalar) => return Err(KeyError::Internal),
            _ => return Err(KeyError::Invalid),
        }
        let plain = PlainKey {
            scalar,
            public_key: header.public_key,
            birth_pcr0: header.birth_pcr0,
            dek_id: dek.id,
            dek_provenance: dek.provenance,
        };
        Ok(Opened { plain, lease })
    }

    fn lease(&self, dek_id: &DekId) -> Option<Arc<Lease>> {
        self.deks.find(dek_id, self.began_ms).map(|(_, lease)| lease)
    }

    fn began_ms(&self) -> u64 {
        self.began_ms
    }
}

impl Enclave {
    /// Makes a key and seals it under the keyspace's sealing DEK.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn create(
        &self,
        signer: &Signer,
        name: &KeyName,
        challenge: &[u8],
        now_ms: u64,
    ) -> Result<Created, KeyError> {
        if self.pins.rule_for(name.keyspace.as_str()).is_none() {
            return Err(KeyError::NotPinned);
        }
        let dek = self.deks.sealing(&name.keyspace, now_ms).ok_or(KeyError::NoSealingDek)?;
        let (scalar, public_key) = draw_key(&self.rng, signer)?;
        let created_ms = self.clock.wall_ms();
        let header = Header {
            app: self.pins.app.clone(),
            keyspace: name.keyspace,
            dek_id: dek.id,
            key_id: name.key_id,
            public_key,
            created_ms,
            birth_pcr0: self.pcr0(),
        };
        let blob = seal(&header, &dek, &scalar)?;
        let plain = PlainKey {
            scalar,
            public_key,
            birth_pcr0: self.pcr0(),
            dek_id: dek.id,
            dek_provenance: dek.provenance,
        };
        let birth = self.say(StatementKind::Birth, name, &plain, challenge)?;
        Ok(Created { blob, public_key, dek_id: dek.id, birth })
    }

    /// Opens a blob that was read back from the store, signs and verifies the self-test digest,
    /// and caches the key. Gives its public key and DEK.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn activate(
        &self,
        signer: &Signer,
        name: &KeyName,
        blob: &[u8],
        now_ms: u64,
    ) -> Result<([u8; 33], DekId), KeyError> {
        let opened = self.opener(signer, now_ms).open(name, blob)?;
        let PlainKey { scalar, public_key, dek_id, .. } = &opened.plain;
        let (public_key, dek_id) = (*public_key, *dek_id);
        signer.sign_one(&Item { digest: SELF_TEST_DIGEST, scalar, public_key: &public_key })?;
        self.cache.put(name, blob, opened, now_ms)?;
        Ok((public_key, dek_id))
    }

    /// Seals a key again, under the keyspace's sealing DEK: all else that the blob says stays. Gives
    /// the new blob, the public key and that DEK; what is cached does not change.
    ///
    /// A blob's word on its key's birth is worth what its DEK is worth, and a DEK born here vouches
    /// for what it seals. So only what a DEK of this very image sealed is sealed again: any other
    /// may be known to whoever made it, and the key with it.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn reseal(
        &self,
        signer: &Signer,
        name: &KeyName,
        blob: &[u8],
        now_ms: u64,
    ) -> Result<(Vec<u8>, [u8; 33], DekId), KeyError> {
        let PlainKey { scalar, public_key, dek_provenance, .. } =
            self.opener(signer, now_ms).open(name, blob)?.plain;
        if dek_provenance != Provenance::Born {
            return Err(KeyError::Unvouched);
        }
        let dek = self.deks.sealing(&name.keyspace, now_ms).ok_or(KeyError::NoSealingDek)?;
        let header = parse(blob)?.header;
        let blob = seal(&Header { dek_id: dek.id, ..header }, &dek, &scalar)?;
        // It will replace the only other copy: not one whose scalar was flipped on the way.
        self.opener(signer, now_ms).open(name, &blob)?;
        Ok((blob, public_key, dek.id))
    }

    /// Refreshes what was asked for, for ever: one key at a time between the batches of the worker
    /// that owns `signer`. A failure is counted, and shows when the plain key is over.
    pub async fn refresh_queued(self: Arc<Self>, signer: Arc<Mutex<Signer>>) {
        loop {
            let name = self.cache.refreshes.next().await;
            // What must not be opened now is opened when it is asked for.
            if self.gate().is_ok() {
                let signer = signer.lock().unwrap_or_else(PoisonError::into_inner);
                let by = self.opener(&signer, boot_ms());
                let _ = self.cache.ask(&name, None, Event::Refresh { forced: false }, &by);
            }
            tokio::task::yield_now().await;
        }
    }

    /// A possession statement over a cached key for a verifier's nonce.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn prove(
        &self,
        signer: &Signer,
        name: &KeyName,
        nonce: &[u8],
        now_ms: u64,
    ) -> Result<SignedStatement, KeyError> {
        let key = self.cache.ask(name, None, Event::Sign, &self.opener(signer, now_ms))?;
        self.say(StatementKind::Possession, name, &*key.ok_or(KeyError::Internal)?, nonce)
    }

    pub(crate) fn opener<'a>(&'a self, signer: &'a Signer, began_ms: u64) -> BlobOpener<'a> {
        BlobOpener { app: &self.pins.app, deks: &self.deks, signer, began_ms }
    }

    fn say(
        &self,
        kind: StatementKind,
        name: &KeyName,
        key: &PlainKey,
        challenge: &[u8],
    ) -> Result<SignedStatement, KeyError> {
        let (dek_provenance, dek_birth_pcr0) = match key.dek_provenance {
            Provenance::Born => (DekProvenance::Born, self.pcr0()),
            Provenance::Foreign(pcr0) => (DekProvenance::Foreign, pcr0),
            Provenance::Unproven => (DekProvenance::Unproven, [0; 48]),
        };
        let encode = |time_ms| {
            Statement {
                kind,
                app: self.pins.app.clone(),
                keyspace: name.keyspace.as_str().to_owned(),
                key_id: name.key_id,
                public_key: key.public_key,
                policy_hash: EMPTY_POLICY_HASH,
                challenge: challenge.to_vec(),
                dek_id: key.dek_id,
                dek_provenance,
                dek_birth_pcr0,
                key_birth_pcr0: key.birth_pcr0,
                time_ms,
            }
            .encode()
        };
        let signed = self.statements.sign(self.clock.wall_ms(), encode);
        signed.map_err(|_| KeyError::StatementsStale)
    }
}

/// Draws a private key, bound to nothing yet, with its public key.
///
/// # Errors
/// See [`KeyError`].
pub fn draw_key(rng: &Rng, signer: &Signer) -> Result<(Secret32, [u8; 33]), KeyError> {
    for _ in 0..SCALAR_DRAWS_MAX {
        let mut drawn = Secret32::zeroed().map_err(|_| KeyError::NoRoom)?;
        rng.key_material(b"secp256k1", &mut drawn).map_err(|_| KeyError::Internal)?;
        if signer.is_scalar(&drawn) {
            let public_key = signer.public_key(&drawn)?;
            return Ok((drawn, public_key));
        }
    }
    Err(KeyError::Internal)
}

/// Seals a key. A blob that does not open again would be a lost key.
///
/// # Errors
/// See [`KeyError`].
pub fn seal(header: &Header, dek: &Dek, scalar: &Secret32) -> Result<Vec<u8>, KeyError> {
    let blob = header.seal(&dek.secret, scalar).map_err(|_| KeyError::Internal)?;
    match parse(&blob).and_then(|sealed| sealed.open(&dek.secret)) {
        Ok(opened) if opened.expose_secret().ct_eq(scalar.expose_secret()).into() => Ok(blob),
        Err(SealError::NoRoom) => Err(KeyError::NoRoom),
        _ => Err(KeyError::Internal),
    }
}
