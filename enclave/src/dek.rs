//! Data encryption keys unlocked here. Only a KMS Decrypt of a row read back from the store puts
//! one in; generation keeps nothing. A DEK seals new keys only if this very image made it and the
//! store's `current` names it; all others only open.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use subtle::ConstantTimeEq;

use crate::kdf;
use crate::names::Keyspace;
use crate::secret::Secret32;

/// DEKs held at once. Each image version has one a keyspace; this is far above both in use.
pub const DEKS_MAX: usize = 1_024;

const SALT: &[u8] = b"sigil/dek/v1";

/// Random identifier of a DEK.
pub type DekId = [u8; 16];

/// Who made a DEK, as far as its birth document proves. Ordered by strength.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Provenance {
    /// No birth document, or one that does not verify.
    Unproven,
    /// An enclave of another image, with this PCR0.
    Foreign([u8; 48]),
    /// An enclave of this image.
    Born,
}

/// An unlocked DEK.
#[derive(Debug)]
pub struct Dek {
    /// Its identifier.
    pub id: DekId,
    /// The keyspace it belongs to.
    pub keyspace: Keyspace,
    /// What its birth document proves here.
    pub provenance: Provenance,
    /// The key.
    pub secret: Secret32,
}

/// Until when a DEK may be used; shared with the keys opened under it, extended by each unlock.
#[derive(Debug)]
pub struct Lease(AtomicU64);

impl Lease {
    /// The hard limit in ms of the boot clock, if it is in the future.
    pub fn until_ms(&self, now_ms: u64) -> Option<u64> {
        Some(self.0.load(Ordering::Acquire)).filter(|until_ms| now_ms < *until_ms)
    }
}

/// What an unlock came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Installed {
    /// What the birth document proves here.
    pub provenance: Provenance,
    /// New keys of the keyspace are sealed under it.
    pub sealing: bool,
    /// Hard limit in ms of the boot clock.
    pub until_ms: u64,
}

/// Why a DEK is not installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstallError {
    /// An unlocked DEK of this id has other bytes or another keyspace.
    #[error("another DEK of this id is unlocked")]
    Mismatch,
    /// [`DEKS_MAX`] are unlocked.
    #[error("too many DEKs are unlocked")]
    Full,
}

/// One unlocked DEK, as `State` reports it.
#[derive(Clone, Copy, Debug)]
pub struct Unlocked {
    /// Its identifier.
    pub id: DekId,
    /// Its keyspace.
    pub keyspace: Keyspace,
    /// What the unlock came to.
    pub installed: Installed,
}

/// All unlocked DEKs.
#[derive(Debug, Default)]
pub struct DekTable {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    rows: HashMap<DekId, Row>,
    sealing: HashMap<Keyspace, DekId>,
}

#[derive(Debug)]
struct Row {
    dek: Arc<Dek>,
    lease: Arc<Lease>,
}

/// The key check value that a birth document commits to, see `docs/formats.md`.
pub fn key_check_value(dek: &Secret32) -> [u8; 32] {
    let mut out = [0; 32];
    let expanded = kdf::expand(&kdf::extract(SALT, dek.expose_secret()), &[b"kcv"], &mut out);
    // Expanding 32 bytes cannot fail; zeros would match no document.
    expanded.map_or([0; 32], |()| out)
}

impl DekTable {
    /// Puts a DEK in until `until_ms`, or extends one that is there. `current`: the store names it
    /// as the keyspace's sealing DEK.
    ///
    /// # Errors
    /// See [`InstallError`].
    pub fn install(
        &self,
        dek: Dek,
        until_ms: u64,
        current: bool,
    ) -> Result<Installed, InstallError> {
        let mut inner = self.write();
        let (id, keyspace) = (dek.id, dek.keyspace);
        let mut provenance = dek.provenance;
        let full = inner.rows.len() >= DEKS_MAX;
        let until_ms = match inner.rows.get_mut(&id) {
            Some(row) => {
                let same = row.dek.secret.expose_secret().ct_eq(dek.secret.expose_secret());
                if row.dek.keyspace != keyspace || !bool::from(same) {
                    return Err(InstallError::Mismatch);
                }
                // The bytes are the same, so what was proved once stays proved.
                if provenance > row.dek.provenance {
                    row.dek = Arc::new(dek);
                }
                provenance = row.dek.provenance;
                row.lease.0.fetch_max(until_ms, Ordering::AcqRel).max(until_ms)
            }
            None if full => return Err(InstallError::Full),
            None => {
                let lease = Arc::new(Lease(AtomicU64::new(until_ms)));
                inner.rows.insert(id, Row { dek: Arc::new(dek), lease });
                until_ms
            }
        };
        let sealing = current && provenance == Provenance::Born;
        if sealing {
            inner.sealing.insert(keyspace, id);
        } else if inner.sealing.get(&keyspace) == Some(&id) {
            inner.sealing.remove(&keyspace);
        }
        Ok(Installed { provenance, sealing, until_ms })
    }

    /// A DEK that may be used now.
    pub fn find(&self, id: &DekId, now_ms: u64) -> Option<(Arc<Dek>, Arc<Lease>)> {
        let inner = self.read();
        let row = inner.rows.get(id)?;
        row.lease.until_ms(now_ms)?;
        Some((Arc::clone(&row.dek), Arc::clone(&row.lease)))
    }

    /// The DEK under which new keys of a keyspace are sealed.
    pub fn sealing(&self, keyspace: &Keyspace, now_ms: u64) -> Option<Arc<Dek>> {
        let id = *self.read().sealing.get(keyspace)?;
        self.find(&id, now_ms).map(|(dek, _)| dek)
    }

    /// Erases what has expired.
    pub fn sweep(&self, now_ms: u64) {
        let mut inner = self.write();
        inner.rows.retain(|_, row| row.lease.until_ms(now_ms).is_some());
        let Inner { rows, sealing } = &mut *inner;
        sealing.retain(|_, id| rows.contains_key(id));
    }

    /// What may be used now.
    pub fn list(&self, now_ms: u64) -> Vec<Unlocked> {
        let inner = self.read();
        let listed = inner.rows.values().filter_map(|row| {
            let Dek { id, keyspace, provenance, .. } = *row.dek;
            let sealing = inner.sealing.get(&keyspace) == Some(&id);
            let until_ms = row.lease.until_ms(now_ms)?;
            Some(Unlocked { id, keyspace, installed: Installed { provenance, sealing, until_ms } })
        });
        listed.collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyspace(name: &str) -> Keyspace {
        Keyspace::parse(name).unwrap()
    }

    fn dek(id: u8, secret: u8, provenance: Provenance) -> Dek {
        Dek {
            id: [id; 16],
            keyspace: keyspace("default"),
            provenance,
            secret: Secret32::copy_from(&[secret; 32]),
        }
    }

    #[test]
    fn only_a_current_dek_of_this_image_seals() {
        let table = DekTable::default();
        for (id, provenance, current, seals) in [
            (1, Provenance::Unproven, true, false),
            (2, Provenance::Foreign([9; 48]), true, false),
            (3, Provenance::Born, false, false),
            (4, Provenance::Born, true, true),
        ] {
            let installed = table.install(dek(id, id, provenance), 100, current).unwrap();
            assert_eq!(installed.sealing, seals, "{provenance:?}");
            assert!(table.find(&[id; 16], 0).is_some(), "all of them open");
            assert_eq!(table.sealing(&keyspace("default"), 0).is_some(), seals);
        }
        assert!(table.sealing(&keyspace("other"), 0).is_none());
        table.install(dek(4, 4, Provenance::Born), 100, false).unwrap();
        assert!(table.sealing(&keyspace("default"), 0).is_none(), "no longer current");
    }

    #[test]
    fn another_dek_under_a_known_id_is_refused() {
        let table = DekTable::default();
        table.install(dek(1, 1, Provenance::Born), 100, true).unwrap();
        let other = table.install(dek(1, 2, Provenance::Born), 100, true);
        assert_eq!(other, Err(InstallError::Mismatch));
        let moved = Dek { keyspace: keyspace("other"), ..dek(1, 1, Provenance::Born) };
        assert_eq!(table.install(moved, 100, true), Err(InstallError::Mismatch));
    }

    #[test]
    fn an_unlock_extends_and_never_shortens_or_forgets_a_proof() {
        let table = DekTable::default();
        table.install(dek(1, 1, Provenance::Unproven), 100, true).unwrap();
        let (_, lease) = table.find(&[1; 16], 0).unwrap();
        let proved = table.install(dek(1, 1, Provenance::Born), 200, true).unwrap();
        assert!(proved.sealing);
        let again = table.install(dek(1, 1, Provenance::Unproven), 150, true).unwrap();
        assert_eq!(again, proved);
        assert_eq!(lease.until_ms(199), Some(200), "shared with the keys opened before");
    }

    #[test]
    fn an_expired_dek_neither_opens_nor_seals_and_is_erased() {
        let table = DekTable::default();
        table.install(dek(1, 1, Provenance::Born), 100, true).unwrap();
        assert!(table.find(&[1; 16], 99).is_some());
        assert!(table.find(&[1; 16], 100).is_none());
        assert!(table.sealing(&keyspace("default"), 100).is_none());
        table.sweep(99);
        assert_eq!(table.list(99).len(), 1);
        table.sweep(100);
        assert!(table.read().rows.is_empty() && table.read().sealing.is_empty());
    }

    #[test]
    fn the_table_is_bounded() {
        let table = DekTable::default();
        for id in 0..DEKS_MAX {
            let id = u128::try_from(id).unwrap().to_be_bytes();
            table.install(Dek { id, ..dek(0, 0, Provenance::Born) }, 100, false).unwrap();
        }
        let one_more = Dek { id: [0xff; 16], ..dek(0, 0, Provenance::Born) };
        assert_eq!(table.install(one_more, 100, false), Err(InstallError::Full));
    }

    /// HMAC-SHA-512 computed with Python's standard library.
    #[test]
    fn the_key_check_value_is_fixed() {
        let kcv = key_check_value(&Secret32::copy_from(&[0xde; 32]));
        assert_eq!(const_hex::encode(kcv), KCV);
    }

    const KCV: &str = "01cef5b7eec690db0c6663ce43535189aaaec514f39a46e9817e2a79c90b1baa";
}
