//! Fixed-length frames before the first HTTP/2 byte: who the enclave is and who the caller is.
//! Pure: no input or output here. What only the caller reads, `sigil-enclave-client` reads. Format: `docs/formats.md`, "Connection to the enclave".
//!
//! vsock has no namespaces, so any process that may open it could sign. The first connection after
//! boot claims the enclave and receives a token, once; every later one proves it over a nonce that
//! the enclave chose.

use aws_lc_rs::hmac;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// First bytes of [`Hello`].
pub const MAGIC: &[u8; 4] = b"SGL1";
/// Version of the handshake and of what follows it.
pub const VERSION: u16 = 1;
const MAC_DOMAIN: &[u8] = b"sigil/hs/v1";

/// Length of [`Hello`] on the wire.
pub const HELLO_BYTES: usize = 54;
/// Length of [`Proof`] on the wire.
pub const PROOF_BYTES: usize = 52;
/// Length of [`Verdict`] on the wire.
pub const VERDICT_BYTES: usize = 38;
const PROOF_MAC_AT: usize = 20;

/// Random identity of one boot of an enclave.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BootId(pub [u8; 16]);

impl std::fmt::Display for BootId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for BootId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// What the claimant of an enclave holds and every later caller proves. Never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ClaimToken([u8; 32]);

impl ClaimToken {
    /// Takes the token's bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the one frame that carries them.
    pub fn expose_secret(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for ClaimToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClaimToken(redacted)")
    }
}

/// The enclave's first frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The boot that speaks.
    pub boot_id: BootId,
    /// Fresh for this connection.
    pub nonce: [u8; 32],
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Take the token. Granted once a boot.
    Claim,
    /// HTTP/2 calls.
    Rpc,
    /// Raw bytes to KMS for the unlock with this id.
    Tunnel([u8; 16]),
}

/// The caller's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// What the connection is for.
    pub purpose: Purpose,
    mac: [u8; 32],
}

/// Why the enclave closes a connection. Closed list; the number is the wire code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// The frame is not one of this protocol or version.
    Malformed = 1,
    /// The token was already given to somebody.
    AlreadyClaimed = 2,
    /// Nobody has claimed the enclave yet.
    NotClaimed = 3,
    /// The proof does not match the token.
    WrongProof = 4,
    /// No unlock waits for this tunnel.
    UnknownUnlock = 5,
    /// Too many connections are open.
    TooMany = 6,
    /// The enclave is shutting down.
    Draining = 7,
}

/// The enclave's answer.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The connection goes on, on this worker.
    Accepted {
        /// Worker that serves the connection, below `worker_count`.
        worker_index: u16,
        /// Signing workers of the enclave.
        worker_count: u16,
        /// The token, in the answer to the one claim.
        token: Option<ClaimToken>,
    },
    /// The enclave closes the connection.
    Refused(Refusal),
}

impl Hello {
    /// The wire form.
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut out = [0; HELLO_BYTES];
        out[..4].copy_from_slice(MAGIC);
        out[4..6].copy_from_slice(&VERSION.to_be_bytes());
        out[6..22].copy_from_slice(&self.boot_id.0);
        out[22..].copy_from_slice(&self.nonce);
        out
    }
}

impl Proof {
    /// The frame of a claim, which proves nothing.
    pub const CLAIM: Self = Self { purpose: Purpose::Claim, mac: [0; 32] };

    /// Proves the token for this connection.
    pub fn new(purpose: Purpose, hello: &Hello, token: &ClaimToken) -> Self {
        let mut proof = Self { purpose, mac: [0; 32] };
        let key = hmac::Key::new(hmac::HMAC_SHA256, token.expose_secret());
        let mut context = hmac::Context::with_key(&key);
        context.update(MAC_DOMAIN);
        context.update(&hello.encode());
        context.update(&proof.encode()[..PROOF_MAC_AT]);
        proof.mac.copy_from_slice(context.sign().as_ref());
        proof
    }

    /// True if the sender holds `token`. Constant time.
    pub fn proves(&self, hello: &Hello, token: &ClaimToken) -> bool {
        Self::new(self.purpose, hello, token).mac.ct_eq(&self.mac).into()
    }

    /// The wire form.
    pub fn encode(&self) -> [u8; PROOF_BYTES] {
        let mut out = [0; PROOF_BYTES];
        out[..2].copy_from_slice(&VERSION.to_be_bytes());
        out[2] = match self.purpose {
            Purpose::Claim => 1,
            Purpose::Rpc => 2,
            Purpose::Tunnel(unlock_id) => {
                out[4..PROOF_MAC_AT].copy_from_slice(&unlock_id);
                3
            }
        };
        out[PROOF_MAC_AT..].copy_from_slice(&self.mac);
        out
    }

    /// Reads the wire form. Nothing for another version, an unknown purpose, and a byte or field
    /// that should be zero and is not.
    pub fn decode(bytes: &[u8; PROOF_BYTES]) -> Option<Self> {
        let mut unlock_id = [0; 16];
        unlock_id.copy_from_slice(&bytes[4..PROOF_MAC_AT]);
        let mut mac = [0; 32];
        mac.copy_from_slice(&bytes[PROOF_MAC_AT..]);
        let purpose = match bytes[2] {
            1 => Purpose::Claim,
            2 => Purpose::Rpc,
            3 => Purpose::Tunnel(unlock_id),
            _ => return None,
        };
        let proof = Self { purpose, mac };
        let claims_and_proves = purpose == Purpose::Claim && proof != Self::CLAIM;
        (proof.encode() == *bytes && !claims_and_proves).then_some(proof)
    }
}

impl Verdict {
    /// The wire form, erased on drop: it may hold the token.
    pub fn encode(&self) -> Zeroizing<[u8; VERDICT_BYTES]> {
        let mut out = Zeroizing::new([0; VERDICT_BYTES]);
        match self {
            Self::Accepted { worker_index, worker_count, token } => {
                out[2..4].copy_from_slice(&worker_index.to_be_bytes());
                out[4..6].copy_from_slice(&worker_count.to_be_bytes());
                if let Some(token) = token {
                    out[6..].copy_from_slice(token.expose_secret());
                }
            }
            Self::Refused(refusal) => out[0] = *refusal as u8,
        }
        out
    }
}

#[cfg(test)]
mod tests;
