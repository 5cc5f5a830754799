//! The reference: one recoverable libsecp256k1 signature through its C interface, with a context
//! that lives as long as the run. `A1` has the library's own SHA-256; `S` the SHA instructions.
#![allow(unsafe_code, reason = "foreign functions of libsecp256k1, which are what is measured")]

use std::ffi::c_void;
use std::ptr::{NonNull, null};

use anyhow::{Result, ensure};
use clap::Args;
use secp256k1_sys as sys;

use crate::stats::{median, quantile};
use crate::{clock, machine};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Rounds; each measures one kind after the other.
    #[arg(long, default_value_t = 100)]
    rounds: usize,
    /// Signatures of each kind in a round.
    #[arg(long, default_value_t = 400)]
    signatures: u32,
}

type Compression = unsafe extern "C" fn(*mut u32, *const u8, usize);

unsafe extern "C" {
    // The crate does not bind it; see enclave/src/signer/ffi.rs.
    #[link_name = "rustsecp256k1_v0_14_context_set_sha256_compression"]
    fn set_sha256_compression(context: *mut c_void, compression: Option<Compression>);
}

unsafe extern "C" fn compress(state: *mut u32, blocks: *const u8, count: usize) {
    // SAFETY: libsecp256k1 passes 8 state words and `count` blocks of 64 bytes, not overlapping.
    let (state, blocks) = unsafe {
        (
            &mut *state.cast::<[u32; 8]>(),
            std::slice::from_raw_parts(blocks.cast::<[u8; 64]>(), count),
        )
    };
    sha2::block_api::compress256(state, blocks);
}

/// A context and what it signs with.
pub(crate) struct Reference {
    context: NonNull<sys::Context>,
    digest: [u8; 32],
}

impl Reference {
    /// `A1`: as the library is built by default.
    pub(crate) fn library_defaults() -> Result<Self> {
        // SAFETY: the flag is a valid one; the result is owned and destroyed once, in `drop`.
        let context = unsafe { sys::secp256k1_context_create(sys::SECP256K1_START_NONE) };
        let made = Self { context, digest: [0x42; 32] };
        // SAFETY: a live context that nobody else uses, and 32 readable bytes.
        let randomized = unsafe { sys::secp256k1_context_randomize(context, [7; 32].as_ptr()) };
        ensure!(randomized == 1, "libsecp256k1 refuses to randomize a context");
        Ok(made)
    }

    /// `S`: with the SHA instructions of the processor, if it has them.
    pub(crate) fn accelerated() -> Result<Self> {
        let made = Self::library_defaults()?;
        // SAFETY: an own, live context; the callback keeps to the contract of its type.
        unsafe { set_sha256_compression(made.context.as_ptr().cast(), Some(compress)) };
        Ok(made)
    }

    /// CPU of one signature in microseconds, averaged over `count`, on the calling thread.
    pub(crate) fn sample_us(&mut self, count: u32) -> Result<f64> {
        let started = clock::thread_cpu_us();
        for _ in 0..count {
            ensure!(self.sign(), "libsecp256k1 refuses to sign");
        }
        Ok((clock::thread_cpu_us() - started) / f64::from(count))
    }

    /// Signs, and takes the signature as the next digest, so that none can be left out.
    fn sign(&mut self) -> bool {
        let mut compact = [0; 64];
        let mut recovery_id = 0;
        // SAFETY: a live context; every pointer has the length that the function documents.
        let done = unsafe {
            let mut raw = sys::recovery::RecoverableSignature::new();
            sys::recovery::secp256k1_ecdsa_sign_recoverable(
                self.context.as_ptr(),
                &raw mut raw,
                self.digest.as_ptr(),
                [0x5a; 32].as_ptr(),
                sys::secp256k1_nonce_function_rfc6979,
                null(),
            ) == 1
                && sys::recovery::secp256k1_ecdsa_recoverable_signature_serialize_compact(
                    self.context.as_ptr(),
                    compact.as_mut_ptr(),
                    &raw mut recovery_id,
                    &raw const raw,
                ) == 1
        };
        self.digest.copy_from_slice(&compact[..32]);
        done
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // SAFETY: created by `secp256k1_context_create` and destroyed only here.
        unsafe { sys::secp256k1_context_destroy(self.context) };
    }
}

/// True if a compact signature over 32 bytes is valid and its S low. False for wrong lengths.
pub(crate) fn verifies(public_key: &[u8], digest: &[u8], compact: &[u8]) -> bool {
    if public_key.len() != 33 || digest.len() != 32 || compact.len() != 64 {
        return false;
    }
    // SAFETY: the static context serves everything but signing; the lengths are as documented.
    unsafe {
        let context = sys::secp256k1_context_static;
        let (mut point, mut signature) = (sys::PublicKey::new(), sys::Signature::new());
        sys::secp256k1_ec_pubkey_parse(
            context,
            &raw mut point,
            public_key.as_ptr(),
            public_key.len(),
        ) == 1
            && sys::secp256k1_ecdsa_signature_parse_compact(
                context,
                &raw mut signature,
                compact.as_ptr(),
            ) == 1
            && sys::secp256k1_ecdsa_verify(
                context,
                &raw const signature,
                digest.as_ptr(),
                &raw const point,
            ) == 1
    }
}

/// Prints both kinds.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    machine::print()?;
    let (mut plain, mut fast) = (Reference::library_defaults()?, Reference::accelerated()?);
    let (mut a1, mut ratio) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        let one = plain.sample_us(arguments.signatures)?;
        ratio.push(fast.sample_us(arguments.signatures)? / one);
        a1.push(one);
    }
    println!("A1 (library defaults): {:.2} us CPU", median(&a1));
    println!(
        "S (SHA instructions):  {:.3} x A1 [{:.3}-{:.3}]",
        median(&ratio),
        quantile(&ratio, 0.1),
        quantile(&ratio, 0.9),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_make_the_same_signatures() {
        let (mut plain, mut fast) =
            (Reference::library_defaults().unwrap(), Reference::accelerated().unwrap());
        assert!(plain.sample_us(8).unwrap() > 0.0);
        fast.sample_us(8).unwrap();
        assert_eq!(plain.digest, fast.digest);
        assert_ne!(plain.digest, [0x42; 32]);
    }
}
