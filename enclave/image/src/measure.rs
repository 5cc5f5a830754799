//! How images are measured: the rule of `nitro-cli`, which is one TPM-like extension of a zeroed
//! register by everything at once. See `docs/formats.md`, "Measurements".

use aws_lc_rs::digest::{Context, SHA384};

/// A platform configuration register, SHA-384.
pub type Pcr = [u8; 48];

/// The parent's role in process mode, where there is no parent. Fixed, so that a key policy with a
/// condition on PCR3 means something in development too.
pub const TEST_ROLE_ARN: &str = "arn:aws:iam::000000000000:role/sigil-test-DO-NOT-USE";

/// The registers of an enclave that runs as a process (development).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessPcrs {
    /// Executable and pins.
    pub pcr0: Pcr,
    /// Executable.
    pub pcr1: Pcr,
    /// Pins.
    pub pcr2: Pcr,
    /// [`TEST_ROLE_ARN`].
    pub pcr3: Pcr,
}

/// `SHA-384(48 zero bytes | SHA-384(the parts, one after another))`.
pub fn extend(parts: &[&[u8]]) -> Pcr {
    let mut context = Context::new(&SHA384);
    for part in parts {
        context.update(part);
    }
    finish(context)
}

/// PCR3: the role of the parent instance.
pub fn role(arn: &str) -> Pcr {
    extend(&[arn.as_bytes()])
}

/// Measures a process by the bytes of its executable and of its `pins.cbor`.
pub fn process(executable: &[u8], pins: &[u8]) -> ProcessPcrs {
    // One pass over the executable, which may be large.
    let mut code = Context::new(&SHA384);
    code.update(executable);
    let mut all = code.clone();
    all.update(pins);
    ProcessPcrs {
        pcr0: finish(all),
        pcr1: finish(code),
        pcr2: extend(&[pins]),
        pcr3: role(TEST_ROLE_ARN),
    }
}

/// SHA-384.
pub fn sha384(bytes: &[u8]) -> Pcr {
    let mut context = Context::new(&SHA384);
    context.update(bytes);
    register(context)
}

fn finish(content: Context) -> Pcr {
    let mut outer = Context::new(&SHA384);
    outer.update(&[0; 48]);
    outer.update(&register(content));
    register(outer)
}

fn register(context: Context) -> Pcr {
    let mut out = [0; 48];
    out.copy_from_slice(context.finish().as_ref());
    out
}
