//! Sealed keys without number, and what opens them: the enclave's own parts, without KMS. The DEK is
//! put into the table as an unlock would put it.

use anyhow::{Error, Result, anyhow};
use sigil_enclave::dek::{Dek, DekTable, Provenance};
use sigil_enclave::keys::{BlobOpener, KeyName};
use sigil_enclave::names::Keyspace;
use sigil_enclave::seal::Header;
use sigil_enclave::secret::Secret32;
use sigil_enclave::signer::{Signer, VerifyMode};

const APP: &str = "bench";
const DEK_ID: [u8; 16] = [0xde; 16];

/// One DEK and one private key, which every blob holds under another id.
pub(super) struct Keys {
    deks: DekTable,
    signer: Signer,
    dek_secret: Secret32,
    scalar: Secret32,
    public_key: [u8; 33],
    keyspace: Keyspace,
}

impl Keys {
    pub(super) fn new() -> Result<Self> {
        let signer = Signer::new(VerifyMode::BatchSample, 0)?;
        let keyspace = Keyspace::parse("default").map_err(failed)?;
        let (dek_secret, scalar) =
            (Secret32::copy_from(&[0xd7; 32])?, Secret32::copy_from(&[0x5a; 32])?);
        let deks = DekTable::default();
        let dek = Dek {
            id: DEK_ID,
            keyspace,
            provenance: Provenance::Born,
            secret: Secret32::copy_from(dek_secret.expose_secret())?,
        };
        deks.install(dek, u64::MAX, true).map_err(failed)?;
        let public_key = signer.public_key(&scalar)?;
        Ok(Self { deks, signer, dek_secret, scalar, public_key, keyspace })
    }

    pub(super) fn opener(&self, began_ms: u64) -> BlobOpener<'_> {
        BlobOpener { app: APP, deks: &self.deks, signer: &self.signer, began_ms }
    }

    /// Keys that are cached under the DEK.
    pub(super) fn leased(&self, now_ms: u64) -> u64 {
        self.deks.sweep(now_ms)
    }

    /// The name of key `number`.
    pub(super) fn name(&self, number: usize) -> KeyName {
        KeyName { keyspace: self.keyspace, key_id: key_id(number) }
    }

    /// The sealed key `number`.
    pub(super) fn blob(&self, number: usize) -> Result<Vec<u8>> {
        let header = Header {
            app: APP.into(),
            keyspace: self.keyspace,
            dek_id: DEK_ID,
            key_id: key_id(number),
            public_key: self.public_key,
            created_ms: 0,
            birth_pcr0: [7; 48],
        };
        header.seal(&self.dek_secret, &self.scalar).map_err(failed)
    }
}

/// Errors of the enclave have no text: nobody reads one there.
fn failed(error: impl std::fmt::Debug) -> Error {
    anyhow!("{error:?}")
}

/// Spread over the whole range, as random ids are.
fn key_id(number: usize) -> [u8; 16] {
    let odd = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835_u128;
    (number as u128).wrapping_mul(odd).to_be_bytes()
}

/// Every number below `count` once, in an order without a pattern.
pub(super) fn shuffled(count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_unstable_by_key(|number| key_id(number.wrapping_add(1)));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_without_a_pattern_has_each_number_once() {
        let mut order = shuffled(1_000);
        assert_ne!(order, (0..1_000).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..1_000).collect::<Vec<_>>());
    }

    #[test]
    fn ids_differ() {
        let ids: std::collections::BTreeSet<_> = (0..10_000).map(key_id).collect();
        assert_eq!(ids.len(), 10_000);
    }
}
