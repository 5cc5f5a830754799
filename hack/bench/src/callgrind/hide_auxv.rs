//! Runs a program that cannot ask the kernel for its auxiliary vector by `prctl`. Valgrind unmaps
//! the vDSO and takes it out of the vector that the program sees, but (3.19) lets this newer call
//! through to the kernel, which names the vDSO that is gone. Refused, callers read
//! `/proc/self/auxv`, which Valgrind answers rightly.
#![allow(unsafe_code, reason = "a seccomp filter has no safe interface")]

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use libc::{
    BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, EINVAL, PR_SET_NO_NEW_PRIVS,
    PR_SET_SECCOMP, SECCOMP_MODE_FILTER, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SYS_prctl,
    sock_filter, sock_fprog,
};

/// From `linux/prctl.h`, since Linux 6.4.
const PR_GET_AUXV: u32 = 0x4155_5856;
/// Offsets in `struct seccomp_data`: the number of the call, the low half of its first argument.
const NUMBER_AT: u32 = 0;
const ARGUMENT_AT: u32 = 16;

#[derive(Args)]
pub(crate) struct Arguments {
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

/// Becomes the program.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    refuse_get_auxv().context("install a seccomp filter")?;
    let (program, words) = arguments.words.split_first().context("no program")?;
    let error = Command::new(program).args(words).exec();
    Err(error).with_context(|| format!("start {}", program.display()))
}

fn refuse_get_auxv() -> Result<()> {
    let (prctl, einval) = (u32::try_from(SYS_prctl)?, u32::try_from(EINVAL)?);
    let mut program = [
        step(BPF_LD | BPF_W | BPF_ABS, 0, NUMBER_AT),
        step(BPF_JMP | BPF_JEQ | BPF_K, 3, prctl),
        step(BPF_LD | BPF_W | BPF_ABS, 0, ARGUMENT_AT),
        step(BPF_JMP | BPF_JEQ | BPF_K, 1, PR_GET_AUXV),
        step(BPF_RET | BPF_K, 0, SECCOMP_RET_ERRNO | einval),
        step(BPF_RET | BPF_K, 0, SECCOMP_RET_ALLOW),
    ];
    let length = u16::try_from(program.len())?;
    let filter = sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SAFETY: both calls read their arguments only, which live until they return.
    let done = unsafe {
        libc::prctl(PR_SET_NO_NEW_PRIVS, 1_u64, 0_u64, 0_u64, 0_u64) == 0
            && libc::prctl(PR_SET_SECCOMP, u64::from(SECCOMP_MODE_FILTER), &raw const filter) == 0
    };
    if !done {
        bail!(std::io::Error::last_os_error());
    }
    Ok(())
}

/// One instruction; a comparison that fails jumps over `otherwise` more.
fn step(code: u32, otherwise: u8, operand: u32) -> sock_filter {
    sock_filter { code: u16::try_from(code).unwrap_or_default(), jt: 0, jf: otherwise, k: operand }
}
