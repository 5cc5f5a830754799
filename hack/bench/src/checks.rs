//! What each way to check a signature costs, as a ratio to one raw signature of the same round. The
//! engine's own two are measured; the others are sums of what was measured. Decision 14 reads it.

use anyhow::{Result, anyhow, ensure};
use clap::Args;
use sigil_enclave::secret::Secret32;
use sigil_enclave::signer::{Item, Signature, Signer, VerifyMode};

use crate::reference::{Reference, verifies};
use crate::stats::{median, quantile};
use crate::{clock, machine};

/// Items of the engine's batches.
const BATCHES: [usize; 3] = [1, 8, 32];

#[derive(Args)]
pub(crate) struct Arguments {
    /// Rounds; each measures one kind after the other.
    #[arg(long, default_value_t = 60)]
    rounds: usize,
    /// Signatures of each kind in a round.
    #[arg(long, default_value_t = 320)]
    signatures: u32,
}

/// The engine and a key of its own.
struct Engine {
    signer: Signer,
    scalar: Secret32,
    public_key: [u8; 33],
    digest: [u8; 32],
}

impl Engine {
    fn new(mode: VerifyMode) -> Result<Self> {
        let signer = Signer::new(mode, 0)?;
        let mut scalar = Secret32::copy_from(&[0x5a; 32])?;
        let public_key = signer.public_key(&scalar)?;
        scalar.bind_to(&public_key);
        Ok(Self { signer, scalar, public_key, digest: [0x42; 32] })
    }

    fn sign(&mut self, items: usize) -> Result<Signature> {
        let Self { signer, scalar, public_key, digest } = self;
        let item = Item { digest: *digest, scalar, public_key };
        let made = signer.sign_batch(&vec![item; items], 0)?;
        let last = *made.last().ok_or_else(|| anyhow!("an empty batch"))?;
        digest.copy_from_slice(&last.compact[..32]);
        Ok(last)
    }

    /// CPU of one signature in microseconds.
    fn sample_us(&mut self, items: usize, signatures: u32) -> Result<f64> {
        let batches = (signatures as usize).div_ceil(items);
        let started = clock::thread_cpu_us();
        for _ in 0..batches {
            self.sign(items)?;
        }
        Ok((clock::thread_cpu_us() - started) / (batches * items) as f64)
    }
}

fn verify_us(public_key: &[u8], digest: &[u8], signature: &Signature, count: u32) -> Result<f64> {
    let started = clock::thread_cpu_us();
    for _ in 0..count {
        ensure!(verifies(public_key, digest, &signature.compact), "a good signature");
    }
    Ok((clock::thread_cpu_us() - started) / f64::from(count))
}

/// Prints the table.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    machine::print()?;
    let count = arguments.signatures;
    let (mut plain, mut fast) = (Reference::library_defaults()?, Reference::accelerated()?);
    let (mut sampled, mut full) =
        (Engine::new(VerifyMode::BatchSample)?, Engine::new(VerifyMode::Full)?);
    let digest = sampled.digest;
    let signature = sampled.sign(1)?;
    let mut a1 = Vec::new();
    let mut rows: Vec<(String, Vec<f64>)> = Vec::new();
    for _ in 0..arguments.rounds {
        let one = plain.sample_us(count)?;
        let s = fast.sample_us(count)? / one;
        let v = verify_us(&sampled.public_key, &digest, &signature, count)? / one;
        let mut row = vec![
            ("sign once, no check".to_owned(), s),
            ("one verify".to_owned(), v),
            ("sign, verify each".to_owned(), s + v),
            ("sign twice, SHA instructions both times".to_owned(), 2.0 * s),
            ("sign twice, portable SHA-256 the second time".to_owned(), s + 1.0),
        ];
        for items in BATCHES {
            let cost = sampled.sample_us(items, count)? / one;
            row.push((format!("engine, one of batch verified, batch of {items}"), cost));
        }
        let cost = full.sample_us(32, count)? / one;
        row.push(("engine, each verified, batch of 32".to_owned(), cost));
        rows.resize_with(row.len(), Default::default);
        for ((name, costs), (label, cost)) in rows.iter_mut().zip(row) {
            *name = label;
            costs.push(cost);
        }
        a1.push(one);
    }
    println!("A1 (one raw signature, library defaults): {:.2} us CPU", median(&a1));
    for (name, costs) in &rows {
        let (low, high) = (quantile(costs, 0.1), quantile(costs, 0.9));
        println!("{name:48} {:.2} x A1 [{low:.2}-{high:.2}]", median(costs));
    }
    Ok(())
}
