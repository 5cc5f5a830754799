//! What a thread leaves of a secret outside its own memory. The kernel saves a thread's vector
//! registers when it lets another one run. And on x86-64 an interrupt first puts the registers of
//! what it interrupts on a stack of the CPU's own (Linux, `arch/x86/entry/entry_64.S`:
//! `error_entry`), where they stay until the next interrupt of a program: in an idle enclave, long.
//! So a thread that goes idle overwrites both. See decision 15.
#![allow(unsafe_code, reason = "registers, and a page that is given back and touched")]

use std::io;
use std::ptr::{NonNull, null_mut};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
use tokio::runtime;

/// Any part of a page is as good as the whole: the kernel rounds up.
const PAGE_BYTES: usize = 4096;

/// A page to have a fault on. One thread's.
struct Page(NonNull<u8>);

// SAFETY: the mapping belongs to this value alone, is read only and is never unmapped.
unsafe impl Send for Page {}
// SAFETY: as above; nothing is ever written there.
unsafe impl Sync for Page {}

/// A runtime of the thread that makes it its own, which overwrites what is left when it goes idle.
///
/// # Errors
/// The kernel gives no memory.
pub(crate) fn runtime() -> io::Result<runtime::Builder> {
    let page = Page::new()?;
    let mut builder = runtime::Builder::new_current_thread();
    builder.enable_all().on_thread_park(move || page.overwrite());
    Ok(builder)
}

impl Page {
    fn new() -> io::Result<Self> {
        // SAFETY: a new private mapping.
        let page =
            unsafe { mmap_anonymous(null_mut(), PAGE_BYTES, ProtFlags::READ, MapFlags::PRIVATE)? };
        Ok(Self(NonNull::new(page.cast()).ok_or(io::ErrorKind::OutOfMemory)?))
    }

    fn overwrite(&self) {
        // SAFETY: the page is this value's, and nothing that is read there matters.
        unsafe {
            // What was read before is given back, so that to read is to fault.
            let _ = madvise(self.0.as_ptr().cast(), PAGE_BYTES, Advice::LinuxDontNeed);
            clear_registers();
            self.0.read_volatile();
        }
    }
}

/// True if [`clear_registers`] reaches all vector registers: the image's command line turns AVX off.
pub(crate) fn all_is_overwritten() -> bool {
    #[cfg(target_arch = "x86_64")]
    return !std::arch::is_x86_feature_detected!("avx");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The vector registers, and those general ones that neither the code around nor a system call
/// gives other values.
fn clear_registers() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every register that is written is declared.
    unsafe {
        std::arch::asm!(
            "xor r8d, r8d", "xor r9d, r9d", "xor r10d, r10d",
            "pxor xmm0, xmm0", "pxor xmm1, xmm1", "pxor xmm2, xmm2", "pxor xmm3, xmm3",
            "pxor xmm4, xmm4", "pxor xmm5, xmm5", "pxor xmm6, xmm6", "pxor xmm7, xmm7",
            "pxor xmm8, xmm8", "pxor xmm9, xmm9", "pxor xmm10, xmm10", "pxor xmm11, xmm11",
            "pxor xmm12, xmm12", "pxor xmm13, xmm13", "pxor xmm14, xmm14", "pxor xmm15, xmm15",
            out("r8") _, out("r9") _, out("r10") _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            options(nomem, nostack),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use rustix::thread::{Pid, gettid};

    use super::*;

    /// Page faults of a thread that needed no disk.
    fn faults(thread: Pid) -> u64 {
        let path = format!("/proc/self/task/{}/stat", thread.as_raw_nonzero());
        let stat = std::fs::read_to_string(path).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        fields.split(' ').nth(7).unwrap().parse().unwrap()
    }

    #[test]
    fn each_time_the_thread_faults() {
        let page = Page::new().unwrap();
        page.overwrite();
        let before = faults(gettid());
        for _ in 0..100 {
            page.overwrite();
        }
        assert!(faults(gettid()) - before >= 100);
    }

    #[test]
    fn a_runtime_does_so_each_time_it_is_idle() {
        let thread = gettid();
        let runtime = runtime().unwrap().build().unwrap();
        for _ in 0..20 {
            let (send, receive) = tokio::sync::oneshot::channel();
            let before = faults(thread);
            // Wakes the thread when it has had its fault.
            std::thread::spawn(move || {
                let deadline = Instant::now() + Duration::from_mins(1);
                while faults(thread) == before && Instant::now() < deadline {}
                send.send(faults(thread) > before).unwrap();
            });
            assert!(runtime.block_on(receive).unwrap(), "idle for a minute without a fault");
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn nothing_stays_in_the_registers() {
        let (left, first, general): (u64, u64, u64);
        // SAFETY: what is written is declared; the call keeps to the C convention.
        unsafe {
            std::arch::asm!(
                "movq xmm15, {secret}", "movq xmm7, {secret}", "mov r8, {secret}",
                "call {clear}", "movq rax, xmm15", "movq rdx, xmm7", "mov rcx, r8",
                secret = in(reg) 0x5ec2_e75e_c2e7_5ec2_u64, clear = sym clear_from_asm,
                lateout("rax") left, lateout("rdx") first, lateout("rcx") general, clobber_abi("C"),
            );
        }
        assert_eq!((left, first, general), (0, 0, 0));
    }

    #[cfg(target_arch = "x86_64")]
    extern "C" fn clear_from_asm() {
        clear_registers();
    }
}
