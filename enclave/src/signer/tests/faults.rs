//! Faults put into a signature at each step of each of its two computations.
#![allow(unsafe_code, reason = "a nonce function of our own, to spoil the nonce itself")]

use std::cell::RefCell;
use std::ffi::{c_int, c_uchar, c_void};
use std::ptr::null_mut;

use secp256k1_sys as sys;

use super::*;
use crate::dek::{Dek, DekTable, Provenance};
use crate::key_cache::Open;
use crate::keys::{BlobOpener, KeyError, KeyName};
use crate::names::Keyspace;
use crate::seal::Header;
use crate::signer::ffi::Context;

/// Where a computation goes wrong, and in which bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Digest(usize),
    Scalar(usize),
    Nonce(usize),
    Compact(usize),
    RecoveryId(usize),
    /// The library says that it cannot.
    Refused,
    /// Of the public key.
    PublicKey(usize),
}

thread_local! {
    /// Computations to go on this thread until the fault, and the fault.
    static PLAN: RefCell<Option<(usize, Step)>> = const { RefCell::new(None) };
}

/// No fault is due.
pub(in crate::signer) struct NotNow;

fn flip(bytes: &mut [u8], bit: usize) {
    bytes[bit / 8] ^= 1 << (bit % 8);
}

/// The fault, if the plan says that now is the time.
fn due() -> Option<Step> {
    let due = PLAN.with_borrow_mut(|plan| match plan {
        Some((0, step)) => Some(*step),
        Some((computations, _)) => {
            *computations -= 1;
            None
        }
        None => None,
    });
    if due.is_some() {
        PLAN.set(None);
    }
    due
}

/// What a computation of a public key gives in place of its own result.
pub(in crate::signer) fn instead_of_key(
    context: &Context,
    scalar: &[u8; 32],
) -> Result<Option<[u8; 33]>, NotNow> {
    match due().ok_or(NotNow)? {
        Step::PublicKey(bit) => {
            let mut made = context.public_key(scalar).unwrap();
            flip(&mut made, bit);
            Ok(Some(made))
        }
        _ => Ok(None),
    }
}

/// What a computation gives in place of its own result, if the plan says that now is the time.
pub(in crate::signer) fn instead(
    context: &Context,
    digest: &[u8; 32],
    scalar: &[u8; 32],
) -> Result<Option<Signature>, NotNow> {
    let step = due().ok_or(NotNow)?;
    let (mut digest, mut scalar) = (*digest, *scalar);
    match step {
        Step::Digest(bit) => flip(&mut digest, bit),
        Step::Scalar(bit) => flip(&mut scalar, bit),
        Step::Nonce(bit) => return Ok(sign_with_wrong_nonce(context, &digest, &scalar, bit)),
        Step::Refused => return Ok(None),
        Step::Compact(_) | Step::RecoveryId(_) | Step::PublicKey(_) => {}
    }
    let mut made = context.sign(&digest, &scalar).unwrap();
    match step {
        Step::Compact(bit) => flip(&mut made.compact, bit),
        Step::RecoveryId(bit) => made.recovery_id ^= 1 << bit,
        _ => {}
    }
    Ok(Some(made))
}

/// RFC 6979 with one bit of the nonce flipped: which one is in `data`.
unsafe extern "C" fn wrong_nonce(
    nonce: *mut c_uchar,
    message: *const c_uchar,
    key: *const c_uchar,
    algorithm: *const c_uchar,
    data: *mut c_void,
    attempt: u32,
) -> c_int {
    // SAFETY: what libsecp256k1 gave is passed on; `nonce` is 32 writable bytes, `data` a bit index.
    unsafe {
        let rfc_6979 = sys::secp256k1_nonce_function_rfc6979.unwrap();
        let done = rfc_6979(nonce, message, key, algorithm, null_mut(), attempt);
        flip(std::slice::from_raw_parts_mut(nonce, 32), *data.cast::<usize>());
        done
    }
}

fn sign_with_wrong_nonce(
    context: &Context,
    digest: &[u8; 32],
    scalar: &[u8; 32],
    bit: usize,
) -> Option<Signature> {
    context.sign_with(digest, scalar, Some(wrong_nonce), (&raw const bit).cast())
}

fn steps() -> impl Iterator<Item = Step> {
    let by_bit = |step: fn(usize) -> Step, bits| (0..bits).map(step);
    by_bit(Step::Digest, 256)
        .chain(by_bit(Step::Scalar, 256))
        .chain(by_bit(Step::Nonce, 256))
        .chain(by_bit(Step::Compact, 512))
        .chain(by_bit(Step::RecoveryId, 2))
        .chain([Step::Refused])
}

#[test]
fn a_fault_in_any_bit_of_any_step_of_either_computation_stops_the_signature() {
    let mut signer = Signer::new(VerifyMode::BatchSample, 0).unwrap();
    let (scalar, public_key) = key(&signer, &[7; 32]);
    let item = Item { digest: [9; 32], scalar: &scalar, public_key: &public_key };
    let sound = signer.sign_batch(&[item], 0).unwrap();
    for step in steps() {
        for computation in [0, 1] {
            PLAN.set(Some((computation, step)));
            let made = signer.sign_batch(&[item], 0);
            assert_eq!(PLAN.take(), None, "the fault was put in");
            assert_eq!(made, Err(Fault), "{step:?} in computation {computation}");
        }
    }
    assert_eq!(signer.sign_batch(&[item], 0).unwrap(), sound, "and nothing sticks");
}

#[test]
fn a_fault_in_any_item_stops_the_whole_batch() {
    let mut signer = Signer::new(VerifyMode::BatchSample, 0).unwrap();
    let (scalar, public_key) = key(&signer, &[7; 32]);
    let item = Item { digest: [9; 32], scalar: &scalar, public_key: &public_key };
    for computation in 0..64 {
        PLAN.set(Some((computation, Step::Nonce(computation))));
        assert_eq!(signer.sign_batch(&[item; 32], 0), Err(Fault), "computation {computation}");
        assert_eq!(PLAN.take(), None);
    }
}

#[test]
fn a_flipped_bit_of_the_key_in_memory_stops_the_signature() {
    let mut signer = Signer::new(VerifyMode::BatchSample, 0).unwrap();
    let (mut scalar, public_key) = key(&signer, &[7; 32]);
    for bit in 0..256 {
        flip(scalar.expose_secret_mut(), bit);
        let item = Item { digest: [9; 32], scalar: &scalar, public_key: &public_key };
        assert_eq!(signer.sign_batch(&[item], 0), Err(Fault), "bit {bit} of the scalar");
        flip(scalar.expose_secret_mut(), bit);
    }
    for bit in 0..264 {
        let mut public_key = public_key;
        flip(&mut public_key, bit);
        let item = Item { digest: [9; 32], scalar: &scalar, public_key: &public_key };
        assert_eq!(signer.sign_batch(&[item], 0), Err(Fault), "bit {bit} of the public key");
    }
}

/// What the caller does about a bad blob, drop it or restore it, would be wrong after a fault.
#[test]
fn a_fault_while_a_blob_is_opened_does_not_read_as_a_bad_blob() {
    let signer = Signer::new(VerifyMode::BatchSample, 0).unwrap();
    let (scalar, public_key) = key(&signer, &[7; 32]);
    let keyspace = Keyspace::parse("default").unwrap();
    let (deks, dek_secret) = (DekTable::default(), || Secret32::copy_from(&[1; 32]).unwrap());
    let dek = Dek { id: [1; 16], keyspace, provenance: Provenance::Born, secret: dek_secret() };
    deks.install(dek, 100, true).unwrap();
    let header = Header {
        app: "app".into(),
        keyspace,
        dek_id: [1; 16],
        key_id: [1; 16],
        public_key,
        created_ms: 0,
        birth_pcr0: [0; 48],
    };
    let opener = BlobOpener { app: "app", deks: &deks, signer: &signer, began_ms: 0 };
    let name = KeyName { keyspace, key_id: [1; 16] };
    let open = |blob: &[u8]| opener.open(&name, blob).map(|opened| opened.plain.public_key);
    let blob = header.seal(&dek_secret(), &scalar).unwrap();
    assert_eq!(open(&blob), Ok(public_key));
    for step in (0..264).map(Step::PublicKey).chain([Step::Refused]) {
        for computation in [0, 1] {
            PLAN.set(Some((computation, step)));
            let opened = open(&blob);
            assert_eq!(PLAN.take(), None, "the fault was put in");
            assert_eq!(opened, Err(KeyError::Internal), "{step:?} in computation {computation}");
        }
    }
    assert_eq!(open(&blob), Ok(public_key), "and nothing sticks");
    for sealed in [[0; 32], [0xff; 32], [8; 32]] {
        let sealed = Secret32::copy_from(&sealed).unwrap();
        let blob = header.seal(&dek_secret(), &sealed).unwrap();
        assert_eq!(open(&blob), Err(KeyError::Invalid), "no scalar, or another key's");
    }
}
