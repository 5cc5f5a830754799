//! What must be found, so that it is known that something would be.

use std::hint::black_box;

use crate::memcheck::make_secret;

/// A branch and an address, each of which depends on a secret.
pub(crate) fn run() {
    let mut secret = [0x5a];
    make_secret(&mut secret);
    branches(black_box(secret[0]));
    looks_up(black_box(secret[0]));
}

#[inline(never)]
fn branches(secret: u8) {
    for _ in 0..secret & 1 {
        black_box(());
    }
}

#[inline(never)]
fn looks_up(secret: u8) {
    black_box(black_box(&[7_u8; 16])[usize::from(secret & 15)]);
}
