//! Where secrets live: one region of memory of fixed size, mapped at boot. It never grows or moves,
//! is left out of core files and of children, is locked into memory where that is allowed, and
//! stands between two ranges that nobody may touch. A slot is erased when it is given back.
#![allow(unsafe_code, reason = "a mapping of our own, and slots of it by their address")]

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::{NonNull, null_mut};
use std::sync::{LazyLock, Mutex, PoisonError};

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mlock, mmap_anonymous};
use zeroize::Zeroize;

use crate::dek::DEKS_MAX;

/// Plain keys in memory at once, over all keyspaces: 4 MiB of slots.
pub const WARM_KEYS_MAX: usize = 131_072;
/// Secrets that are neither: keys being made or opened, keys that left the cache within a batch.
const TEMPORARIES_MAX: usize = 4_096;
/// Slots of the process.
const SLOTS: usize = WARM_KEYS_MAX + DEKS_MAX + TEMPORARIES_MAX;
const SLOT_BYTES: usize = 32;
/// Before and after the slots: a whole page, however large the kernel's pages are.
const GUARD_BYTES: usize = 64 * 1024;

static SLAB: LazyLock<io::Result<Slab>> = LazyLock::new(|| Slab::new(SLOTS));

/// A region of slots of 32 bytes.
#[derive(Debug)]
pub struct Slab {
    first: NonNull<[u8; SLOT_BYTES]>,
    slots: usize,
    free: Mutex<Vec<u32>>,
    locked: bool,
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
    bytes: NonNull<[u8; SLOT_BYTES]>,
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
        let bytes = (slots * SLOT_BYTES).next_multiple_of(GUARD_BYTES);
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
        Ok(Self { first, slots, free: Mutex::new((0..count).rev().collect()), locked })
    }

    /// True if the kernel keeps it in memory.
    pub fn is_locked(&self) -> bool {
        self.locked
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
        Ok(Slot { bytes: unsafe { self.first.add(index) }, slab: self })
    }
}

impl Slot {
    /// Its place in the slab.
    pub(crate) fn index(&self) -> u32 {
        // SAFETY: both are slots of the same region, this one not before the first.
        let index = unsafe { self.bytes.offset_from_unsigned(self.slab.first) };
        // The region was made with a count that fits.
        u32::try_from(index).unwrap_or(u32::MAX)
    }
}

impl Deref for Slot {
    type Target = [u8; SLOT_BYTES];

    fn deref(&self) -> &Self::Target {
        // SAFETY: a slot of the region, initialized by the kernel, with this one owner.
        unsafe { self.bytes.as_ref() }
    }
}

impl DerefMut for Slot {
    fn deref_mut(&mut self) -> &mut Self::Target {
        // SAFETY: as above, borrowed exclusively.
        unsafe { self.bytes.as_mut() }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.zeroize();
        let index = self.index();
        self.slab.free.lock().unwrap_or_else(PoisonError::into_inner).push(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        }
        drop(slots.remove(1));
        // SAFETY: the three slots of this test's own region.
        let region = unsafe { std::slice::from_raw_parts(slab.first.as_ptr(), 3) };
        assert_eq!(region, [[7; 32], [0; 32], [7; 32]]);
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

    #[test]
    fn the_slab_of_the_process_has_room_for_all_that_is_bounded() {
        assert_eq!(slab().unwrap().slots, WARM_KEYS_MAX + DEKS_MAX + TEMPORARIES_MAX);
    }
}
