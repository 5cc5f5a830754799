//! What memcheck is told and asked: which bytes are secret ("undefined" in its words). It follows
//! them through every instruction, and reports each branch and each address that depends on one.
#![allow(unsafe_code, reason = "requests to valgrind are a sequence of instructions")]

#[cfg(target_arch = "x86_64")]
use std::arch::asm;
use std::sync::atomic::{AtomicUsize, Ordering};

/// `VG_USERREQ_TOOL_BASE('M', 'C')` of `valgrind.h`; the requests are those of `memcheck.h`.
const MEMCHECK: usize = (b'M' as usize) << 24 | (b'C' as usize) << 16;
const MAKE_MEM_UNDEFINED: usize = MEMCHECK + 1;
const MAKE_MEM_DEFINED: usize = MEMCHECK + 2;
const GET_VBITS: usize = MEMCHECK + 8;
/// The answer to [`GET_VBITS`] if it was done.
const DONE: usize = 1;

static MADE_SECRET_BYTES: AtomicUsize = AtomicUsize::new(0);
static FOUND_SECRET_BYTES: AtomicUsize = AtomicUsize::new(0);

/// True if this process runs under memcheck.
pub(crate) fn is_running() -> bool {
    request(MAKE_MEM_DEFINED, [0; 3]) != 0
}

/// From here on the bytes are secret.
pub(crate) fn make_secret(bytes: &mut [u8]) {
    // SAFETY: only a request, and the bytes are ours.
    unsafe { make_secret_at(bytes.as_ptr(), bytes.len()) };
}

/// The same for bytes behind a pointer.
///
/// # Safety
/// They are there.
pub(crate) unsafe fn make_secret_at(bytes: *const u8, length: usize) {
    MADE_SECRET_BYTES.fetch_add(length, Ordering::Relaxed);
    request(MAKE_MEM_UNDEFINED, [bytes.expose_provenance(), length, 0]);
}

/// Bytes made secret so far.
pub(crate) fn made_secret_bytes() -> usize {
    MADE_SECRET_BYTES.load(Ordering::Relaxed)
}

/// Bytes asked about so far that depended on a secret.
pub(crate) fn found_secret_bytes() -> usize {
    FOUND_SECRET_BYTES.load(Ordering::Relaxed)
}

/// From here on everybody may know the value.
pub(crate) fn make_public<T: ?Sized>(value: &T) {
    request(MAKE_MEM_DEFINED, [(&raw const *value).expose_provenance(), size_of_val(value), 0]);
}

/// How many of the bytes depend on a secret.
///
/// # Panics
/// Not under memcheck.
pub(crate) fn secret_bytes(bytes: &[u8]) -> usize {
    let mut undefined_bits = vec![0_u8; bytes.len()];
    let to = undefined_bits.as_mut_ptr().expose_provenance();
    let answer = request(GET_VBITS, [bytes.as_ptr().expose_provenance(), to, bytes.len()]);
    assert_eq!(answer, DONE, "memcheck does not answer");
    let found = undefined_bits.iter().filter(|bits| **bits != 0).count();
    FOUND_SECRET_BYTES.fetch_add(found, Ordering::Relaxed);
    found
}

/// Valgrind is asked in instructions of x86_64 only.
#[cfg(not(target_arch = "x86_64"))]
fn request(_: usize, _: [usize; 3]) -> usize {
    0
}

/// Asks valgrind; 0 if it is not there.
#[cfg(target_arch = "x86_64")]
fn request(what: usize, arguments: [usize; 3]) -> usize {
    let [first, second, third] = arguments;
    let words = [what, first, second, third, 0, 0];
    let mut answer = 0_usize;
    // SAFETY: the sequence of `valgrind.h` for amd64: rotations by 128 bits in all, and an exchange
    // of a register with itself. Without valgrind it does nothing; with it, the requests above
    // change what memcheck knows of memory, and `GET_VBITS` writes into a buffer of the caller.
    unsafe {
        asm!(
            "rol rdi, 3", "rol rdi, 13", "rol rdi, 61", "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") words.as_ptr(),
            inout("rdx") answer,
        );
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_memcheck_a_request_does_nothing() {
        assert!(!is_running());
        let mut bytes = [1, 2, 3];
        make_secret(&mut bytes);
        make_public(&bytes);
        assert_eq!(bytes, [1, 2, 3]);
    }
}
