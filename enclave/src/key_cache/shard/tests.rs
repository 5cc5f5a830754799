use super::*;

impl Shard {
    /// Asserts that lists, bytes and plain keys agree with the entries and keep to the bounds.
    pub(in crate::key_cache) fn check(&self, settings: &Settings) -> usize {
        let mut blob_bytes = 0;
        for (name, entry) in &self.entries {
            let (warm, second) = entry.rank();
            assert_eq!(entry.plain.is_some(), warm, "a plain key in WARM and nowhere else");
            let (list, other) =
                if warm { (&self.warm, &self.cool) } else { (&self.cool, &self.warm) };
            assert!(list.contains(&(second, *name)) && !other.contains(&(second, *name)));
            blob_bytes += entry.blob.len();
        }
        assert_eq!(self.warm.len() + self.cool.len(), self.entries.len());
        assert_eq!(self.blob_bytes, blob_bytes);
        assert!(self.entries.len() as u64 <= settings.keys);
        assert!((blob_bytes + self.entries.len() * ENTRY_BYTES) as u64 <= settings.bytes);
        assert!(self.warm.len() as u64 <= settings.warm_keys);
        assert!(self.flights.is_empty(), "nothing is under way");
        self.warm.len()
    }
}
