//! Where secrets live: one region of memory of fixed size, mapped at boot. It never grows or moves,
//! is left out of core files and of children, is locked into memory where that is allowed, and
//! stands between two ranges that nobody may touch. A slot is erased when it is given back.
//!
//! A slot that holds a private key carries a tag over the key, its public key and the slot's place,
//! so that a flipped bit or a mix-up shows before a signature leaves. See decision 15.
#![allow(unsafe_code, reason = "a mapping of our own, and slots of it by their address")]

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::{NonNull, null_mut};
use std::sync::{LazyLock, Mutex, PoisonError};

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mlock, mmap_anonymous};
use zeroize::Zeroize;

use crate::dek::DEKS_MAX;
use crate::rng;

/// Plain keys in memory at once, over all keyspaces: 4 MiB of slots.
pub const WARM_KEYS_MAX: usize = 131_072;
/// Secrets that are neither: keys being made or opened, keys that left the cache within a batch.
const TEMPORARIES_MAX: usize = 4_096;
/// Slots of the process.
const SLOTS: usize = WARM_KEYS_MAX + DEKS_MAX + TEMPORARIES_MAX;
/// Before and after the slots: a whole page, however large the kernel's pages are.
const GUARD_BYTES: usize = 64 * 1024;

static SLAB: LazyLock<io::Result<Slab>> = LazyLock::new(|| Slab::new(SLOTS));

/// Words that a tag covers: 4 of the secret, 5 of the public key, the slot's index.
const TAG_WORDS: usize = 10;

/// A region of slots.
pub struct Slab {
    first: NonNull<Cell>,
    slots: usize,
    free: Mutex<Vec<u32>>,
    locked: bool,
    /// Random and odd; the last one is added.
    tag_keys: [u128; TAG_WORDS + 1],
}

#[repr(C)]
struct Cell {
    secret: [u8; 32],
    tag: u128,
}

// SAFETY: the region belongs to this value alone and is never unmapped; a slot has one owner.
unsafe impl Send for Slab {}
// SAFETY: what is shared is behind the mutex; each slot is reached through its one owner.
unsafe impl Sync for Slab {}

/// No slot is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many secrets are in memory")]
pub struct SlabFull;

/// One slot, zero when it is taken, erased when it is given back.
pub(crate) struct Slot {
    cell: NonNull<Cell>,
    slab: &'static Slab,
}

// SAFETY: the slot's one owner moves with it; the region outlives it.
unsafe impl Send for Slot {}
// SAFETY: it is changed through `&mut` alone.
unsafe impl Sync for Slot {}

/// The slab of this process; made by the first call.
///
/// # Errors
/// The kernel gave no memory.
pub fn slab() -> Result<&'static Slab, &'static io::Error> {
    SLAB.as_ref()
}

impl Slab {
    /// A region of its own, which stays until the process ends.
    ///
    /// # Errors
    /// The kernel gives no memory or does not know an advice.
    pub fn new(slots: usize) -> io::Result<Self> {
        let mut tag_keys = [0; TAG_WORDS + 1];
        for key in &mut tag_keys {
            let drawn = rng::public_bytes().map_err(io::Error::other)?;
            *key = u128::from_ne_bytes(drawn) | 1;
        }
        let bytes = (slots * size_of::<Cell>()).next_multiple_of(GUARD_BYTES);
        let whole = bytes + 2 * GUARD_BYTES;
        // SAFETY: a new private mapping; what is changed and advised on lies within it.
        let (first, locked) = unsafe {
            let start = mmap_anonymous(null_mut(), whole, ProtFlags::empty(), MapFlags::PRIVATE)?;
            let first = start.byte_add(GUARD_BYTES);
            rustix::mm::mprotect(first, bytes, MprotectFlags::READ | MprotectFlags::WRITE)?;
            madvise(first, bytes, Advice::LinuxDontDump)?;
            madvise(first, bytes, Advice::LinuxDontFork)?;
            (first, mlock(first, bytes).is_ok())
        };
        let first = NonNull::new(first.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let count = u32::try_from(slots).map_err(io::Error::other)?;
        let free = Mutex::new((0..count).rev().collect());
        Ok(Self { first, slots, free, locked, tag_keys })
    }

    /// True if the kernel keeps it in memory.
    pub fn is_locked(&self) -> bool {
        self.locked
    }

    /// All slots.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Slots taken.
    pub fn in_use(&self) -> usize {
        self.slots - self.free.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Takes a slot.
    pub(crate) fn take(&'static self) -> Result<Slot, SlabFull> {
        let index = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let index = index.and_then(|index| usize::try_from(index).ok()).ok_or(SlabFull)?;
        // SAFETY: only indexes below `slots` are ever free, so it is in the region.
        Ok(Slot { cell: unsafe { self.first.add(index) }, slab: self })
    }
}

impl Slot {
    /// Tags the secret as the private key of `public_key`.
    pub(crate) fn bind_to(&mut self, public_key: &[u8; 33]) {
        self.cell_mut().tag = self.tag(public_key);
    }

    /// True if no bit of the secret, the public key and the tag has changed since, and all three
    /// belong together.
    pub(crate) fn is_bound_to(&self, public_key: &[u8; 33]) -> bool {
        self.cell().tag == self.tag(public_key)
    }

    /// Multilinear hashing modulo 2^128 of words of 64 bits. A change within one word is always
    /// seen, since an odd factor keeps it; any other one but for a chance of 2^-64. No branch and no
    /// address depends on the words.
    fn tag(&self, public_key: &[u8; 33]) -> u128 {
        let (secret, _) = self.cell().secret.as_chunks::<8>();
        let (point, parity) = public_key.as_chunks::<8>();
        let words = secret.iter().chain(point).map(|word| u64::from_le_bytes(*word));
        let rest = [parity.first().copied().unwrap_or(0).into(), self.index().into()];
        let (added, keys) = self.slab.tag_keys.split_last().unwrap_or((&0, &[]));
        words
            .chain(rest)
            .zip(keys)
            .fold(*added, |sum, (word, key)| sum.wrapping_add(key.wrapping_mul(word.into())))
    }

    /// Its place in the slab.
    fn index(&self) -> u32 {
        // SAFETY: both are slots of the same region, this one not before the first.
        let index = unsafe { self.cell.offset_from_unsigned(self.slab.first) };
        // The region was made with a count that fits.
        u32::try_from(index).unwrap_or(u32::MAX)
    }

    fn cell(&self) -> &Cell {
        // SAFETY: a slot of the region, initialized by the kernel, with this one owner.
        unsafe { self.cell.as_ref() }
    }

    fn cell_mut(&mut self) -> &mut Cell {
        // SAFETY: as above, borrowed exclusively.
        unsafe { self.cell.as_mut() }
    }
}

impl Deref for Slot {
    type Target = [u8; 32];

    fn deref(&self) -> &Self::Target {
        &self.cell().secret
    }
}

impl DerefMut for Slot {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.cell_mut().secret
    }
}

impl std::fmt::Debug for Slab {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slab").field("slots", &self.slots).finish_non_exhaustive()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Cell { secret, tag } = self.cell_mut();
        secret.zeroize();
        tag.zeroize();
        let index = self.index();
        self.slab.free.lock().unwrap_or_else(PoisonError::into_inner).push(index);
    }
}

#[cfg(test)]
mod tests {
    use sigil_enclave_image::pins::Ceilings;
    use sigil_enclave_protocol::bounds::{BATCH_ITEMS_MAX, UNLOCKS_OPEN_MAX};

    use super::*;
    use crate::dek::{Dek, DekTable, InstallError, Provenance};
    use crate::key_cache::settings;
    use crate::names::Keyspace;
    use crate::secret::Secret32;

    fn small() -> &'static Slab {
        Box::leak(Box::new(Slab::new(3).unwrap()))
    }

    #[test]
    fn a_full_slab_says_so_and_a_slot_given_back_is_taken_again() {
        let slab = small();
        let mut slots: Vec<_> = (0..3).map(|_| slab.take().unwrap()).collect();
        assert_eq!(slots.iter().map(Slot::index).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!((slab.take().err(), slab.in_use()), (Some(SlabFull), 3));
        drop(slots.remove(1));
        assert_eq!(slab.in_use(), 2);
        assert_eq!(slab.take().unwrap().index(), 1);
    }

    #[test]
    fn a_slot_is_erased_and_its_neighbours_are_not() {
        let slab = small();
        let mut slots: Vec<_> = (0..3).map(|_| slab.take().unwrap()).collect();
        for slot in &mut slots {
            slot.fill(7);
            slot.bind_to(&POINT);
        }
        drop(slots.remove(1));
        // SAFETY: the three slots of this test's own region.
        let region = unsafe { std::slice::from_raw_parts(slab.first.as_ptr(), 3) };
        let bytes: Vec<_> = region.iter().map(|cell| (cell.secret, cell.tag != 0)).collect();
        assert_eq!(bytes, [([7; 32], true), ([0; 32], false), ([7; 32], true)]);
    }

    const POINT: [u8; 33] = [5; 33];

    #[test]
    fn a_tag_sees_every_bit_and_every_pair_of_bits() {
        let mut slot = small().take().unwrap();
        slot.fill(0x5a);
        slot.bind_to(&POINT);
        assert!(slot.is_bound_to(&POINT));
        let flip = |slot: &mut Slot, point: &mut [u8; 33], bit: usize| match bit {
            0..256 => slot[bit / 8] ^= 1 << (bit % 8),
            256..520 => point[bit / 8 - 32] ^= 1 << (bit % 8),
            _ => slot.cell_mut().tag ^= 1 << (bit - 520),
        };
        for first in 0..648 {
            for second in first..648 {
                let mut point = POINT;
                flip(&mut slot, &mut point, first);
                let caught_one = !slot.is_bound_to(&point);
                flip(&mut slot, &mut point, second);
                let caught = !slot.is_bound_to(&point);
                assert!(caught_one && caught == (first != second), "bits {first} and {second}");
                flip(&mut slot, &mut point, second);
                flip(&mut slot, &mut point, first);
            }
        }
        assert!(slot.is_bound_to(&POINT));
    }

    #[test]
    fn a_key_in_another_slot_or_of_another_public_key_is_seen() {
        let slab = small();
        let mut slots: Vec<_> = (0..2).map(|_| slab.take().unwrap()).collect();
        for slot in &mut slots {
            slot.fill(7);
            slot.bind_to(&POINT);
        }
        assert!(!slots[0].is_bound_to(&[6; 33]));
        // The same key and public key: only the place differs.
        let (left, right) = slots.split_at_mut(1);
        std::mem::swap(left[0].cell_mut(), right[0].cell_mut());
        assert!(slots.iter().all(|slot| !slot.is_bound_to(&POINT)));
        assert!(!slab.take().unwrap().is_bound_to(&POINT), "never bound");
    }

    #[test]
    fn the_region_is_guarded_left_out_of_core_files_and_not_inherited() {
        let slab = small();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let region = |address: usize| {
            let mut found = maps.lines().skip_while(move |line| {
                let range = line.split(' ').next().and_then(|range| range.split_once('-'));
                let Some((from, to)) = range else { return true };
                let number = |text| usize::from_str_radix(text, 16);
                let (Ok(from), Ok(to)) = (number(from), number(to)) else { return true };
                !(from..to).contains(&address)
            });
            let head = found.next().unwrap().to_owned();
            (head, found.find(|line| line.starts_with("VmFlags:")).unwrap().to_owned())
        };
        let first = slab.first.as_ptr().addr();
        let (head, flags) = region(first);
        assert!(head.contains(" rw-p "), "{head}");
        assert!(flags.contains(" dd") && flags.contains(" dc"), "{flags}");
        assert_eq!(flags.contains(" lo"), slab.is_locked(), "{flags}");
        for guard in [first - 1, first + GUARD_BYTES] {
            assert!(region(guard).0.contains(" ---p "), "{}", region(guard).0);
        }
    }

    /// Counted where each bound holds, so that none can be raised alone.
    #[test]
    fn the_slab_of_the_process_has_room_for_all_that_is_bounded() {
        // An enclave with more cores may answer that there is no room.
        const WORKERS: usize = 96;
        let warm_keys = settings::ceilings(&Ceilings::default()).warm_keys;
        let deks = DekTable::default();
        let is_full = |number: &usize| {
            let keyspace = Keyspace::parse(&format!("k{number}")).unwrap();
            let id = (*number as u128).to_be_bytes();
            let secret = Secret32::copy_from(&[1; 32]).unwrap();
            let dek = Dek { id, keyspace, provenance: Provenance::Born, secret };
            deks.install(dek, 1, true) == Err(InstallError::Full)
        };
        let deks_held = (0..WARM_KEYS_MAX).find(is_full).unwrap();
        // The keys of a batch may all have left the cache, and one more is opened.
        let temporaries = WORKERS * (BATCH_ITEMS_MAX + 1) + UNLOCKS_OPEN_MAX;
        let most = usize::try_from(warm_keys).unwrap() + deks_held + temporaries;
        assert!(slab().unwrap().slots() >= most, "{most} secrets");
    }
}
