//! The one module that calls libsecp256k1. Its Rust wrapper re-randomizes after every signature,
//! which costs more than the signature itself; here the owner of a context decides when.
#![allow(unsafe_code, reason = "foreign functions of libsecp256k1")]

use std::ffi::c_void;
use std::ptr::{NonNull, null};

use secp256k1_sys as sys;

use super::Signature;

type Compression = unsafe extern "C" fn(*mut u32, *const u8, usize);

unsafe extern "C" {
    // The crate does not bind this function of libsecp256k1 0.8. The name holds the crate's
    // version, so another version fails at link time and not at run time.
    #[link_name = "rustsecp256k1_v0_14_context_set_sha256_compression"]
    fn set_sha256_compression(context: *mut c_void, compression: Option<Compression>);
}

/// Which SHA-256 a context uses inside RFC 6979 and its own blinding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sha256 {
    /// The C code of libsecp256k1.
    Portable,
    /// The SHA instructions of the processor where it has them.
    Accelerated,
}

/// A libsecp256k1 context of one owner.
pub(super) struct Context(NonNull<sys::Context>);

// SAFETY: a context has no thread affinity. Everything that changes it takes `&mut self`.
unsafe impl Send for Context {}

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

impl Context {
    /// A context that can sign and verify, not yet randomized.
    pub(super) fn new(sha256: Sha256) -> Self {
        // SAFETY: the flag is a valid one; the result is owned and destroyed once, in `drop`.
        let raw = unsafe { sys::secp256k1_context_create(sys::SECP256K1_START_NONE) };
        if sha256 == Sha256::Accelerated {
            // SAFETY: an own, live context; the callback keeps to the contract of its type.
            unsafe { set_sha256_compression(raw.as_ptr().cast(), Some(compress)) };
        }
        Self(raw)
    }

    /// Draws new blinding. False if the library refuses.
    pub(super) fn randomize(&mut self, seed: &[u8; 32]) -> bool {
        // SAFETY: a live context that nobody else uses, and 32 readable bytes.
        unsafe { sys::secp256k1_context_randomize(self.0, seed.as_ptr()) == 1 }
    }

    /// True if the bytes are a scalar in 1..n.
    pub(super) fn is_scalar(&self, scalar: &[u8; 32]) -> bool {
        // SAFETY: a live context and 32 readable bytes.
        unsafe { sys::secp256k1_ec_seckey_verify(self.0.as_ptr(), scalar.as_ptr()) == 1 }
    }

    /// The compressed public key of a scalar in 1..n.
    pub(super) fn public_key(&self, scalar: &[u8; 32]) -> Option<[u8; 33]> {
        #[cfg(test)]
        if let Ok(faulty) = super::tests::faults::instead_of_key(self, scalar) {
            return faulty;
        }
        let mut out = [0; 33];
        let mut length = out.len();
        // SAFETY: a live context; every pointer has the length that the function documents.
        let done = unsafe {
            let mut point = sys::PublicKey::new();
            sys::secp256k1_ec_pubkey_create(self.0.as_ptr(), &raw mut point, scalar.as_ptr()) == 1
                && sys::secp256k1_ec_pubkey_serialize(
                    self.0.as_ptr(),
                    out.as_mut_ptr(),
                    &raw mut length,
                    &raw const point,
                    sys::SECP256K1_SER_COMPRESSED,
                ) == 1
        };
        (done && length == out.len()).then_some(out)
    }

    /// RFC 6979 signature with low S over 32 bytes that are not hashed again.
    pub(super) fn sign(&self, digest: &[u8; 32], scalar: &[u8; 32]) -> Option<Signature> {
        #[cfg(test)]
        if let Ok(faulty) = super::tests::faults::instead(self, digest, scalar) {
            return faulty;
        }
        // SAFETY: a nonce function of the library, which wants no data.
        let rfc_6979 = unsafe { sys::secp256k1_nonce_function_rfc6979 };
        self.sign_with(digest, scalar, rfc_6979, null())
    }

    /// The same with another nonce function and its data.
    pub(super) fn sign_with(
        &self,
        digest: &[u8; 32],
        scalar: &[u8; 32],
        nonce: sys::NonceFn,
        data: *const c_void,
    ) -> Option<Signature> {
        let mut compact = [0; 64];
        let mut recovery_id = 0;
        // SAFETY: a live context; every pointer has the length that the function documents.
        let done = unsafe {
            let mut raw = sys::recovery::RecoverableSignature::new();
            sys::recovery::secp256k1_ecdsa_sign_recoverable(
                self.0.as_ptr(),
                &raw mut raw,
                digest.as_ptr(),
                scalar.as_ptr(),
                nonce,
                data.cast(),
            ) == 1
                && sys::recovery::secp256k1_ecdsa_recoverable_signature_serialize_compact(
                    self.0.as_ptr(),
                    compact.as_mut_ptr(),
                    &raw mut recovery_id,
                    &raw const raw,
                ) == 1
        };
        let recovery_id = u8::try_from(recovery_id).ok().filter(|id| *id < 4)?;
        done.then_some(Signature { compact, recovery_id })
    }

    /// True if the signature is valid and its S is low.
    pub(super) fn verify(
        &self,
        public_key: &[u8; 33],
        digest: &[u8; 32],
        compact: &[u8; 64],
    ) -> bool {
        // SAFETY: a live context; every pointer has the length that the function documents.
        unsafe {
            let mut point = sys::PublicKey::new();
            let mut signature = sys::Signature::new();
            sys::secp256k1_ec_pubkey_parse(
                self.0.as_ptr(),
                &raw mut point,
                public_key.as_ptr(),
                public_key.len(),
            ) == 1
                && sys::secp256k1_ecdsa_signature_parse_compact(
                    self.0.as_ptr(),
                    &raw mut signature,
                    compact.as_ptr(),
                ) == 1
                && sys::secp256k1_ecdsa_verify(
                    self.0.as_ptr(),
                    &raw const signature,
                    digest.as_ptr(),
                    &raw const point,
                ) == 1
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: created by `secp256k1_context_create` and destroyed only here.
        unsafe { sys::secp256k1_context_destroy(self.0) };
    }
}

#[cfg(test)]
mod tests;
