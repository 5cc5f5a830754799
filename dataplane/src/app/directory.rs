//! Which keyspace a key belongs to: a bounded memory of what the store said. A key's keyspace never
//! changes, so nothing here goes stale.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use sigil_enclave_client::KeyId;

/// Keys of one generation; two generations are kept, 5 MiB in all.
const GENERATION_KEYS_MAX: usize = 32_768;

/// Two generations: when the young one is full it becomes the old one, and what is used returns.
#[derive(Default)]
pub(super) struct Directory {
    generations: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    young: Keyspaces,
    old: Keyspaces,
}

type Keyspaces = HashMap<KeyId, Arc<str>, BuildHasherDefault<OfId>>;

/// Ids are random and made by us, none that a caller has thought of gets in: eight of their bytes are
/// as good as a hash of all.
#[derive(Default)]
struct OfId(u64);

impl Hasher for OfId {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last_chunk() {
            self.0 = u64::from_ne_bytes(*last);
        }
    }

    // The length, which is always the same.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Directory {
    pub(super) fn get(&self, key_id: KeyId) -> Option<Arc<str>> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keyspace) = generations.young.get(&key_id) {
            return Some(Arc::clone(keyspace));
        }
        let keyspace = generations.old.remove(&key_id)?;
        generations.insert(key_id, Arc::clone(&keyspace));
        Some(keyspace)
    }

    pub(super) fn insert(&self, key_id: KeyId, keyspace: Arc<str>) {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner).insert(key_id, keyspace);
    }
}

impl Generations {
    fn insert(&mut self, key_id: KeyId, keyspace: Arc<str>) {
        if self.young.len() >= GENERATION_KEYS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key_id, keyspace);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let directory = Directory::default();
        let id = |n: usize| KeyId((n as u128).to_be_bytes());
        let keyspace: Arc<str> = "default".into();
        for n in 0..5 * GENERATION_KEYS_MAX {
            directory.insert(id(n), Arc::clone(&keyspace));
            assert_eq!(directory.get(id(0)).as_deref(), Some("default"), "{n}");
        }
        let generations = directory.generations.lock().unwrap();
        assert!(generations.young.len() + generations.old.len() <= 2 * GENERATION_KEYS_MAX);
        drop(generations);
        assert!(directory.get(id(1)).is_none());
    }
}
