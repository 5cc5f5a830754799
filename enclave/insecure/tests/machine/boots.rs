//! How long a boot takes. `make bench-boot` asks for ten of each image and prints the medians.

use std::sync::Arc;

use tokio::time::Instant;

use crate::bench::{Bench, number, production_image};
use crate::kms::Kms;
use crate::life::{activate, assert_signed};
use crate::sidecar::{Sidecar, item};

/// Boots of each image, if it is set: a whole number.
const BOOTS_VARIABLE: &str = "SIGIL_TEST_BOOTS";

/// What the enclave says when it listens: milliseconds of its own clock since the kernel's start.
async fn listening_ms(bench: &Bench) -> u64 {
    let line = bench.says("listening, ").await;
    let (_, rest) = line.split_once("listening, ").unwrap();
    rest.split(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn every_boot_of_the_development_image_signs() {
    for _ in 0..number(BOOTS_VARIABLE) {
        let started = Instant::now();
        let bench = Bench::boot().await;
        let mut sidecar = Sidecar::claim(&bench).await;
        let row = sidecar.seal_with_new_dek("default").await;
        let created = sidecar.create("default", 1).await;
        activate(&mut sidecar, 1, &created).await;
        let signed = sidecar.sign(item("default", 1, &[9; 32], b"")).await;
        // Two exchanges with the KMS, both through the tunnel, the recipient key among them.
        let signed_ms = started.elapsed().as_millis();
        assert_signed(&signed, &created.public_key, &[9; 32]);
        assert_eq!(row.keyspace, "default");
        println!("boot | development | {} | {signed_ms}", listening_ms(&bench).await);
    }
}

#[tokio::test]
async fn every_boot_of_the_production_image_listens() {
    for _ in 0..number(BOOTS_VARIABLE) {
        let kms = Arc::new(Kms::start());
        let bench = Bench::boot_image(&kms, &production_image(&kms), "").await;
        drop(bench.connect().await);
        println!("boot | production  | {} | -", listening_ms(&bench).await);
    }
}
