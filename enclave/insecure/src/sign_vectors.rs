//! `sign-vectors`: signs published vectors with the engine that signs in production.

use std::io::{BufRead, Read, Write};

use sigil_enclave::secret::Secret32;
use sigil_enclave::signer::{Fault, Item, Signature, Signer, VerifyMode};
use zeroize::Zeroizing;

/// Bytes of a line, its end counted; 64 + 1 + 64 digits fit several times.
const LINE_BYTES_MAX: u64 = 512;

/// Why signing stopped.
#[derive(Debug, thiserror::Error)]
pub enum VectorError {
    /// Standard input or output failed.
    #[error("line {line}: {source}")]
    Io {
        /// The line that was worked on, counted from 1.
        line: u64,
        /// What failed.
        source: std::io::Error,
    },
    /// The line is not what it should be.
    #[error("line {line}: {fault}")]
    Line {
        /// The line, counted from 1.
        line: u64,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// The engine does not start.
    #[error("the signing engine does not start: {0}")]
    Engine(Fault),
}

/// Reads lines `secret digest` in hex (32 bytes each) and writes `r s recid` (hex, hex, 0 to 3)
/// for each. What was written before a bad line stays written.
///
/// # Errors
/// The first line that is bad, by number.
pub fn run(mut input: impl BufRead, mut output: impl Write) -> Result<(), VectorError> {
    let signer = Signer::new(VerifyMode::Full, 0).map_err(VectorError::Engine)?;
    let mut bytes = Zeroizing::new(Vec::new());
    let mut line = 0;
    loop {
        line += 1;
        let io = |source| VectorError::Io { line, source };
        bytes.clear();
        if input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes).map_err(io)? == 0 {
            return output.flush().map_err(io);
        }
        let bad = |fault| VectorError::Line { line, fault };
        let (secret, digest) = parse(&bytes).map_err(bad)?;
        let Signature { compact, recovery_id } = sign(&signer, &secret, digest).map_err(bad)?;
        let (r, s) = compact.split_at(32);
        let (r, s) = (const_hex::encode(r), const_hex::encode(s));
        writeln!(output, "{r} {s} {recovery_id}").map_err(io)?;
    }
}

fn parse(line: &[u8]) -> Result<(Zeroizing<[u8; 32]>, [u8; 32]), &'static str> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut fields = line.strip_suffix(b"\r").unwrap_or(line).split(|byte| *byte == b' ');
    let (Some(secret), Some(digest), None) = (fields.next(), fields.next(), fields.next()) else {
        return Err("not `secret digest`: two fields and one space");
    };
    let mut scalar = Zeroizing::new([0; 32]);
    hex(secret, &mut scalar).ok_or("the secret is not 64 hex digits")?;
    let mut bytes = [0; 32];
    hex(digest, &mut bytes).ok_or("the digest is not 64 hex digits")?;
    Ok((scalar, bytes))
}

/// Hex without 0x, of either case.
fn hex(text: &[u8], out: &mut [u8; 32]) -> Option<()> {
    if text.len() != 64 {
        return None;
    }
    const_hex::decode_to_slice(text, out).ok()
}

/// The engine.
fn sign(signer: &Signer, secret: &[u8; 32], digest: [u8; 32]) -> Result<Signature, &'static str> {
    let mut scalar = Secret32::copy_from(secret).map_err(|_| "too many secrets are in memory")?;
    let public_key = signer.public_key(&scalar).map_err(|_| "the secret is not in 1..n")?;
    scalar.bind_to(&public_key);
    let item = Item { digest, scalar: &scalar, public_key: &public_key };
    signer.sign_one(&item).map_err(|_| "the engine found a fault in its own signature")
}
