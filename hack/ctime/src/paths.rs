//! The production code that touches secrets, run over secrets that memcheck follows. Where one is
//! expected to have gone, it is asked whether it has: a path over no secret would show nothing.

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::Args;
use sigil_enclave::dek::{Dek, DekTable, InstallError, Provenance, key_check_value};
use sigil_enclave::key_cache::KeyCache;
use sigil_enclave::key_cache::settings::{baseline, ceilings};
use sigil_enclave::key_cache::slot::Event;
use sigil_enclave::keys::{BlobOpener, KeyError, KeyName, PlainKey, draw_key, seal};
use sigil_enclave::names::Keyspace;
use sigil_enclave::nsm::{DocumentRequest, Nsm, NsmError};
use sigil_enclave::rng::Rng;
use sigil_enclave::seal::{Header, SealError, parse};
use sigil_enclave::secret::Secret32;
use sigil_enclave::signer::{Item, RANDOMIZE_AFTER_SIGNATURES, Signer};
use sigil_enclave::statements::Statements;
use sigil_enclave_image::pins::{Ceilings, VerifyMode};
use sigil_enclave_insecure::open_envelope::open;
use sigil_enclave_protocol::handshake::{BootId, ClaimToken, Hello, Proof, Purpose};

use crate::leak;
use crate::memcheck::{
    found_secret_bytes, is_running, made_secret_bytes, make_public, make_secret, secret_bytes,
};

const APP: &str = "ctime";
const KEY_ID: [u8; 16] = [0x1d; 16];
const DEK_ID: [u8; 16] = [0xde; 16];
const BATCH_ITEMS: usize = 8;
/// From KMS for a published key: `enclave/testdata/cms/PROVENANCE.md`.
const ENVELOPE: &[u8] = include_bytes!("../../../enclave/testdata/cms/03-edgebit-enclaver-go.ber");
const ENVELOPE_KEY: &[u8] = include_bytes!("../../../enclave/testdata/cms/03.testkey.pkcs1.der");
/// Where the encrypted DEK with its padding stands.
const ENVELOPE_CONTENT: Range<usize> = 435..483;
/// What is xored into the last byte of the padding.
const ENVELOPE_PADDING: usize = 466;
/// More than one blinding lasts.
const BATCHES: usize = RANDOMIZE_AFTER_SIGNATURES as usize / BATCH_ITEMS + 2;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Then does what must be reported: a branch and an address that depend on a secret.
    #[arg(long)]
    leak: bool,
}

/// Runs every path; prints each with the secret bytes that went into it.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(is_running(), "not under memcheck: `make ctime` runs this");
    println!("  marked  derived  (secret bytes)");
    let mut before = (0, 0);
    let mut print = |path: &str| {
        let now = (made_secret_bytes(), found_secret_bytes());
        println!("{:>8} {:>8}  {path}", now.0 - before.0, now.1 - before.1);
        before = now;
    };
    let mut parts = Parts::new()?;
    print("boot: random generator, contexts with their blinding and self-test");
    envelope()?;
    print("KMS: an envelope of its making, opened with its recipient's key; a wrong padding");
    parts.unlock()?;
    print("DEKs: key check value; the same one again; another one of the same id");
    let blob = parts.create()?;
    print("create: drawn, in range, public key, sealed, opened again and compared");
    let key = parts.open(&blob)?;
    print("key cache: opened and checked, found, opened again, forgotten; another DEK");
    parts.sign(&key)?;
    print("sign: batches in each mode, one alone, new blinding between them");
    statement(&parts.rng)?;
    print("statement key: drawn, public key, signature");
    claim_token()?;
    print("claim token: proved and checked");
    if arguments.leak {
        leak::run();
        print("leaks that must be found");
    }
    println!("{:>8} {:>8}  in all", before.0, before.1);
    Ok(())
}

/// A module whose random bytes are secret, and with them all key material.
struct Module;

impl Nsm for Module {
    fn document(&self, _: DocumentRequest<'_>) -> Result<Vec<u8>, NsmError> {
        Err(NsmError("no documents here".into()))
    }

    fn entropy(&self) -> Result<Secret32, NsmError> {
        let entropy = Secret32::copy_from(&[0x3c; 32]);
        let mut entropy = entropy.map_err(|_| NsmError("no room".into()))?;
        make_secret(entropy.expose_secret_mut());
        Ok(entropy)
    }
}

/// The parts of one enclave.
struct Parts {
    rng: Rng,
    signers: [Signer; 2],
    deks: DekTable,
    name: KeyName,
}

impl Parts {
    fn new() -> Result<Self> {
        let keyspace = Keyspace::parse("default").ok().context("a keyspace")?;
        Ok(Self {
            rng: Rng::new(&Module)?,
            signers: [Signer::new(VerifyMode::BatchSample, 0)?, Signer::new(VerifyMode::Full, 0)?],
            deks: DekTable::default(),
            name: KeyName { keyspace, key_id: KEY_ID },
        })
    }

    fn dek(&self, byte: u8) -> Result<Dek> {
        let mut secret = Secret32::copy_from(&[byte; 32])?;
        make_secret(secret.expose_secret_mut());
        let keyspace = self.name.keyspace;
        Ok(Dek { id: DEK_ID, keyspace, provenance: Provenance::Born, secret })
    }

    fn unlock(&self) -> Result<()> {
        let dek = self.dek(0xd7)?;
        expect_secret("a key check value", &key_check_value(&dek.secret))?;
        self.deks.install(dek, u64::MAX, true).ok().context("a DEK")?;
        self.deks.install(self.dek(0xd7)?, u64::MAX, true).ok().context("the DEK again")?;
        let other = self.deks.install(self.dek(0xd8)?, u64::MAX, true);
        ensure!(matches!(other, Err(InstallError::Mismatch)), "two DEKs have one id");
        Ok(())
    }

    fn create(&self) -> Result<Vec<u8>> {
        let dek = self.deks.sealing(&self.name.keyspace, 0).context("a sealing DEK")?;
        let (scalar, public_key) =
            draw_key(&self.rng, &self.signers[0]).ok().context("a key is drawn")?;
        expect_secret("a drawn scalar", scalar.expose_secret())?;
        let header = Header {
            app: APP.into(),
            keyspace: self.name.keyspace,
            dek_id: DEK_ID,
            key_id: KEY_ID,
            public_key,
            created_ms: 0,
            birth_pcr0: [7; 48],
        };
        let blob = seal(&header, &dek, &scalar).ok().context("the key is sealed")?;
        // It goes to the store.
        make_public(&*blob);
        Ok(blob)
    }

    fn open(&self, blob: &[u8]) -> Result<Arc<PlainKey>> {
        let ceilings = ceilings(&Ceilings::default());
        let cache = KeyCache::new(baseline(&ceilings), ceilings);
        let by = |began_ms| BlobOpener {
            app: APP,
            deks: &self.deks,
            signer: &self.signers[0],
            began_ms,
        };
        let sign = |blob, now_ms| cache.ask(&self.name, blob, Event::Sign, &by(now_ms));
        let key = sign(Some(blob), 0).ok().flatten().context("the key is opened")?;
        expect_secret("an opened scalar", key.scalar.expose_secret())?;
        let found = sign(None, 1).ok().flatten().context("the key is found")?;
        ensure!(Arc::ptr_eq(&key, &found), "another key was found");
        let refreshed = cache.ask(&self.name, None, Event::Refresh { forced: true }, &by(2));
        ensure!(refreshed.is_ok(), "the key is not opened again");
        cache.sweep(ceilings.key_hard_ttl_ms * 2, 1);
        ensure!(cache.forget(&self.name), "nothing to forget");
        let forgotten = sign(None, 3);
        ensure!(matches!(forgotten, Err(KeyError::BlobRequired)), "a forgotten key is found");
        let sealed = parse(blob).ok().context("a blob")?;
        let other = sealed.open(&self.dek(0xd9)?.secret);
        ensure!(matches!(other, Err(SealError::NotOpened)), "another DEK opens the blob");
        Ok(key)
    }

    fn sign(&mut self, key: &Arc<PlainKey>) -> Result<()> {
        let (scalar, public_key) = (&key.scalar, &key.public_key);
        for signer in &mut self.signers {
            for batch in 0..BATCHES {
                let digest = |item| [u8::try_from(batch * BATCH_ITEMS + item).unwrap_or(0); 32];
                let items: Vec<_> = (0..BATCH_ITEMS)
                    .map(|item| Item { digest: digest(item), scalar, public_key })
                    .collect();
                let signed = signer.sign_batch(&items, 0)?;
                ensure!(signed.len() == BATCH_ITEMS, "a batch that is not whole");
            }
            signer.sign_one(&Item { digest: [9; 32], scalar, public_key })?;
            let other = signer.sign_one(&Item { digest: [9; 32], scalar, public_key: &[2; 33] });
            ensure!(other.is_err(), "a signature for another public key");
        }
        Ok(())
    }
}

/// The published envelope. What it encrypts is a secret, and is so from where it is still encrypted.
fn envelope() -> Result<()> {
    let mut envelope = ENVELOPE.to_vec();
    make_secret(envelope.get_mut(ENVELOPE_CONTENT).context("the content of the envelope")?);
    let dek = open(ENVELOPE_KEY, &envelope).ok().context("the envelope is opened")?;
    expect_secret("a DEK from KMS", &*dek)?;
    *envelope.get_mut(ENVELOPE_PADDING).context("the padding of the envelope")? ^= 1;
    ensure!(open(ENVELOPE_KEY, &envelope).is_err(), "a wrong padding is taken");
    Ok(())
}

fn statement(rng: &Rng) -> Result<()> {
    let statements = Statements::new(rng)?;
    statements.bind(Vec::new(), 0);
    let signed = statements.sign(0, |_| vec![1; 200]).ok().context("a statement")?;
    expect_secret("a statement's signature", &signed.signature)
}

fn claim_token() -> Result<()> {
    let (mut token, mut other) = ([0x70; 32], [0x71; 32]);
    make_secret(&mut token);
    make_secret(&mut other);
    let hello = Hello { boot_id: BootId([1; 16]), nonce: [2; 32] };
    let proof = Proof::new(Purpose::Rpc, &hello, &ClaimToken::new(token));
    for (token, expected) in [(token, true), (other, false)] {
        let proved = proof.proves(&hello, &ClaimToken::new(token));
        // The peer sees whether it is admitted.
        make_public(&proved);
        ensure!(proved == expected, "a proof was judged wrongly");
    }
    Ok(())
}

/// Fails if a secret did not come through.
fn expect_secret(what: &str, bytes: &[u8]) -> Result<()> {
    let secret = secret_bytes(bytes);
    ensure!(secret == bytes.len(), "{what}: {secret} of {} bytes are secret", bytes.len());
    Ok(())
}
