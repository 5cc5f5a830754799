//! Memory of this process: what the allocator has given out, and what the kernel has given.
#![allow(unsafe_code, reason = "the allocator's figures have no safe interface")]

use anyhow::{Context, Result};

/// Bytes given out at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// By the allocator, with what it adds to each allocation. Exact on a process's first thread.
    pub(crate) heap_bytes: f64,
    /// By the kernel: pages that are in memory.
    pub(crate) resident_bytes: f64,
}

/// Looks now.
pub(crate) fn now() -> Result<Memory> {
    // SAFETY: it takes nothing and returns numbers.
    let heap = unsafe { libc::mallinfo2() };
    let status = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|rest| rest.trim().strip_suffix(" kB")).context("VmRSS")?;
    let kib: u32 = kib.parse().context("VmRSS")?;
    Ok(Memory {
        heap_bytes: (heap.uordblks + heap.hblkhd) as f64,
        resident_bytes: f64::from(kib) * 1024.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other tests of this process take and give back memory meanwhile, but not half as much.
    #[test]
    fn a_large_allocation_shows() {
        let before = now().unwrap();
        let held = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = now().unwrap();
        let shown = held.len() as f64 / 2.0;
        assert!(after.heap_bytes - before.heap_bytes >= shown, "{before:?} {after:?}");
        assert!(after.resident_bytes - before.resident_bytes >= shown, "{before:?} {after:?}");
    }
}
