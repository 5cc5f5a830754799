//! Between the enclave and libsecp256k1. What its functions give is as secret to memcheck as the
//! key that it depends on; here it is told what of it everybody may know. The library's own
//! `src/ctime_tests.c` says the same of the same results. The linker puts this in: `build.rs`.
#![allow(unsafe_code, reason = "stands in for foreign functions")]

use std::ffi::{c_int, c_uchar, c_void};

use secp256k1_sys::recovery::RecoverableSignature;
use secp256k1_sys::{Context, NonceFn, PublicKey};

use crate::memcheck::{make_public, make_secret_at};

/// Bytes of a seed of the blinding.
const SEED_BYTES: usize = 32;

unsafe extern "C" {
    #[link_name = "__real_rustsecp256k1_v0_14_context_randomize"]
    fn context_randomize(context: *mut Context, seed: *const c_uchar) -> c_int;
    #[link_name = "__real_rustsecp256k1_v0_14_ec_seckey_verify"]
    fn ec_seckey_verify(context: *const Context, scalar: *const c_uchar) -> c_int;
    #[link_name = "__real_rustsecp256k1_v0_14_ec_pubkey_create"]
    fn ec_pubkey_create(
        context: *const Context,
        point: *mut PublicKey,
        scalar: *const c_uchar,
    ) -> c_int;
    #[link_name = "__real_rustsecp256k1_v0_14_ecdsa_sign_recoverable"]
    fn ecdsa_sign_recoverable(
        context: *const Context,
        signature: *mut RecoverableSignature,
        digest: *const c_uchar,
        scalar: *const c_uchar,
        nonce: NonceFn,
        data: *const c_void,
    ) -> c_int;
}

/// The blinding is secret, from the kernel's random bytes on.
#[unsafe(export_name = "__wrap_rustsecp256k1_v0_14_context_randomize")]
unsafe extern "C" fn randomize(context: *mut Context, seed: *const c_uchar) -> c_int {
    // SAFETY: as the caller promised: a seed of 32 bytes.
    let done = unsafe {
        make_secret_at(seed, SEED_BYTES);
        context_randomize(context, seed)
    };
    make_public(&done);
    done
}

/// Whether bytes are a scalar: an enclave that draws others draws again.
#[unsafe(export_name = "__wrap_rustsecp256k1_v0_14_ec_seckey_verify")]
unsafe extern "C" fn is_scalar(context: *const Context, scalar: *const c_uchar) -> c_int {
    // SAFETY: as the caller promised.
    let done = unsafe { ec_seckey_verify(context, scalar) };
    make_public(&done);
    done
}

/// Public keys.
#[unsafe(export_name = "__wrap_rustsecp256k1_v0_14_ec_pubkey_create")]
unsafe extern "C" fn public_key(
    context: *const Context,
    point: *mut PublicKey,
    scalar: *const c_uchar,
) -> c_int {
    // SAFETY: as the caller promised; the point is written by the call.
    let done = unsafe {
        let done = ec_pubkey_create(context, point, scalar);
        make_public(&*point);
        done
    };
    make_public(&done);
    done
}

/// Signatures.
#[unsafe(export_name = "__wrap_rustsecp256k1_v0_14_ecdsa_sign_recoverable")]
unsafe extern "C" fn sign(
    context: *const Context,
    signature: *mut RecoverableSignature,
    digest: *const c_uchar,
    scalar: *const c_uchar,
    nonce: NonceFn,
    data: *const c_void,
) -> c_int {
    // SAFETY: as the caller promised; the signature is written by the call.
    let done = unsafe {
        let done = ecdsa_sign_recoverable(context, signature, digest, scalar, nonce, data);
        make_public(&*signature);
        done
    };
    make_public(&done);
    done
}
