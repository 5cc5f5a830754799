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

/// Who made a DEK, as far as its birth document proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// No birth document, or one that does not verify.
    Unproven,
    /// An enclave of another image, with this PCR0, knew it. Anybody's can, and write so.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstallError {
    /// An unlocked DEK of this id has other bytes or another keyspace, and this one proves no more.
    Mismatch,
    /// [`DEKS_MAX`] are unlocked and all seal.
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

impl Row {
    // Not inlined: what branches on its answer then does so in a place of its own (hack/ctime).
    #[inline(never)]
    fn holds(&self, dek: &Dek) -> bool {
        let same = self.dek.secret.expose_secret().ct_eq(dek.secret.expose_secret());
        self.dek.keyspace == dek.keyspace && bool::from(same)
    }
}

impl Inner {
    /// Ends the DEK that would end first among those that do not seal, until one more fits, and the
    /// keys opened under it: no lifetime that is lowered later would reach them. It can be unlocked
    /// again.
    fn make_room(&mut self) -> Result<(), InstallError> {
        while self.rows.len() >= DEKS_MAX {
            let open_only = self.rows.iter().filter(|(id, row)| {
                self.sealing.get(&row.dek.keyspace).is_none_or(|sealing| sealing != *id)
            });
            let first = open_only.min_by_key(|(_, row)| row.lease.0.load(Ordering::Acquire));
            let id = *first.ok_or(InstallError::Full)?.0;
            if let Some(ended) = self.rows.remove(&id) {
                ended.lease.0.store(0, Ordering::Release);
            }
        }
        Ok(())
    }
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
    /// as the keyspace's sealing DEK. A DEK of this image takes the place of any other of its id, and
    /// one of another image that of an unproven one: whoever may call `kms:Encrypt` can make a fake,
    /// with a document of an enclave of their own, and must not keep this one out.
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
        let rank = |of| (of == Provenance::Born, of != Provenance::Unproven);
        if let Some(row) = inner.rows.get(&id)
            && !row.holds(&dek)
        {
            if rank(provenance) <= rank(row.dek.provenance) {
                return Err(InstallError::Mismatch);
            }
            // Ends its keys too.
            row.lease.0.store(0, Ordering::Release);
            inner.rows.remove(&id);
        }
        let until_ms = if let Some(row) = inner.rows.get_mut(&id) {
            // The bytes are the same, so what was proved once stays proved.
            if rank(provenance) > rank(row.dek.provenance) {
                row.dek = Arc::new(dek);
            }
            provenance = row.dek.provenance;
            row.lease.0.fetch_max(until_ms, Ordering::AcqRel).max(until_ms)
        } else {
            inner.make_room()?;
            let lease = Arc::new(Lease(AtomicU64::new(until_ms)));
            inner.rows.insert(id, Row { dek: Arc::new(dek), lease });
            until_ms
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

    /// Lets no DEK be used from `until_ms` on: the lifetime was lowered.
    pub fn limit(&self, until_ms: u64) {
        for row in self.read().rows.values() {
            row.lease.0.fetch_min(until_ms, Ordering::AcqRel);
        }
    }

    /// Erases what has expired. Gives the number of cached keys whose DEK has not: each holds its
    /// lease, as do for a moment those that are being opened.
    pub fn sweep(&self, now_ms: u64) -> u64 {
        let mut inner = self.write();
        inner.rows.retain(|_, row| row.lease.until_ms(now_ms).is_some());
        let Inner { rows, sealing } = &mut *inner;
        sealing.retain(|_, id| rows.contains_key(id));
        rows.values().map(|row| Arc::strong_count(&row.lease) as u64 - 1).sum()
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
            secret: Secret32::copy_from(&[secret; 32]).unwrap(),
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
    fn a_lower_lifetime_holds_for_what_is_unlocked_and_a_higher_one_changes_nothing() {
        let table = DekTable::default();
        table.install(dek(1, 1, Provenance::Born), 100, true).unwrap();
        table.install(dek(2, 2, Provenance::Born), 200, false).unwrap();
        let (_, lease) = table.find(&[2; 16], 0).unwrap();
        let until_ms = || [1, 2].map(|id| table.find(&[id; 16], 0).unwrap().1.until_ms(0).unwrap());
        table.limit(300);
        assert_eq!(until_ms(), [100, 200]);
        table.limit(150);
        assert_eq!(until_ms(), [100, 150]);
        assert_eq!(lease.until_ms(150), None, "shared with the keys opened before");
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
    fn a_better_proved_dek_takes_the_place_of_a_fake_and_never_the_other_way_round() {
        let (born, foreign) = (Provenance::Born, Provenance::Foreign([9; 48]));
        for (fake, honest) in [
            (Provenance::Unproven, foreign),
            (Provenance::Unproven, born),
            // Its maker's enclave wrote a document for it.
            (foreign, born),
        ] {
            let table = DekTable::default();
            table.install(dek(1, 66, fake), 100, true).unwrap();
            let (_, fake_lease) = table.find(&[1; 16], 0).unwrap();
            let installed = table.install(dek(1, 1, honest), 90, true).unwrap();
            assert_eq!((installed.provenance, installed.until_ms), (honest, 90));
            assert_eq!(fake_lease.until_ms(0), None, "keys opened under the fake are not used");
            for again in [
                dek(1, 66, fake),
                Dek { keyspace: keyspace("other"), ..dek(1, 1, fake) },
                dek(1, 66, honest),
            ] {
                assert_eq!(table.install(again, 200, true), Err(InstallError::Mismatch));
            }
            let (found, lease) = table.find(&[1; 16], 0).unwrap();
            assert_eq!((found.secret.expose_secret(), lease.until_ms(0)), (&[1; 32], Some(90)));
        }
    }

    #[test]
    fn of_deks_that_prove_as_much_the_first_stays() {
        for first in [Provenance::Unproven, Provenance::Foreign([5; 48])] {
            for then in [first, Provenance::Unproven, Provenance::Foreign([9; 48])] {
                if first == Provenance::Unproven && then != first {
                    continue;
                }
                let table = DekTable::default();
                table.install(dek(1, 1, first), 100, true).unwrap();
                let other = table.install(dek(1, 66, then), 100, true);
                assert_eq!(other, Err(InstallError::Mismatch));
                let same = table.install(dek(1, 1, then), 100, true).unwrap();
                assert_eq!(same.provenance, first, "another's word changes no proof");
            }
        }
    }

    fn numbered(id: usize, name: &str) -> Dek {
        let id = u128::try_from(id).unwrap().to_be_bytes();
        Dek { id, keyspace: keyspace(name), ..dek(0, 0, Provenance::Born) }
    }

    #[test]
    fn a_full_table_drops_what_ends_first_and_does_not_seal() {
        let table = DekTable::default();
        table.install(numbered(0, "default"), 10, true).unwrap();
        for id in 1..DEKS_MAX {
            let until_ms = if id == DEKS_MAX - 1 { 20 } else { 1_000 };
            table.install(numbered(id, "default"), until_ms, false).unwrap();
        }
        let last = numbered(DEKS_MAX - 1, "default").id;
        let (_, lease) = table.find(&last, 0).unwrap();
        table.install(numbered(DEKS_MAX, "default"), 2_000, false).unwrap();
        assert_eq!(table.list(0).len(), DEKS_MAX);
        assert!(table.find(&last, 0).is_none(), "it ended first");
        assert_eq!(lease.until_ms(0), None, "and with it the keys opened under it");
        assert!(table.find(&numbered(DEKS_MAX, "default").id, 0).is_some());
        assert!(table.sealing(&keyspace("default"), 0).is_some(), "it seals");
    }

    #[test]
    fn a_table_in_which_all_deks_seal_is_full() {
        let table = DekTable::default();
        for id in 0..DEKS_MAX {
            table.install(numbered(id, &format!("k{id}")), 100, true).unwrap();
        }
        let one_more = table.install(numbered(DEKS_MAX, "other"), 100, true);
        assert_eq!(one_more, Err(InstallError::Full));
        table.install(numbered(7, "k7"), 200, true).unwrap();
    }

    /// HMAC-SHA-512 computed with Python's standard library.
    #[test]
    fn the_key_check_value_is_fixed() {
        let kcv = key_check_value(&Secret32::copy_from(&[0xde; 32]).unwrap());
        assert_eq!(const_hex::encode(kcv), KCV);
    }

    const KCV: &str = "01cef5b7eec690db0c6663ce43535189aaaec514f39a46e9817e2a79c90b1baa";
}
