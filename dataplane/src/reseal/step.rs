//! One key: sealed again by the enclave, exchanged in the store by compare-and-swap, read back, opened
//! once more. At every moment the store holds one whole record that opens.

use bytes::Bytes;

use crate::failpoint;
use crate::store::{DekRecord, KeyRecord, Records, StoreError};

/// A blob of the enclave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sealed {
    /// The same key under the keyspace's sealing DEK.
    pub(super) blob: Bytes,
    /// As the enclave recomputed it.
    pub(super) public_key: Bytes,
    /// The DEK that it sealed under.
    pub(super) dek_id: Bytes,
}

/// Why the enclave does not seal a key again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The key's DEK was not born in this image: its keys stay where they are (decision 13).
    OtherImage,
    /// The key's DEK is not unlocked here now.
    Locked,
    /// The blob does not open.
    Invalid(&'static str),
    /// Nothing can be sealed now, whatever the key.
    Away(String),
}

/// What became of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is under the newest DEK now.
    Moved,
    /// Somebody else changed the record first; the blob made here is thrown away.
    Overtaken,
    /// It stays under its DEK, as do all keys of that DEK.
    Kept,
    /// Its DEK is locked.
    Locked,
    /// This key cannot be sealed again; why.
    Failed(String),
    /// No key can be now; why.
    Stopped(String),
}

/// The enclave, as far as this needs it.
pub(super) trait Sealer: Send {
    /// Opens the record's blob and seals the key under the sealing DEK. The enclave's cache stays as it
    /// is.
    fn seal(&mut self, record: &KeyRecord) -> impl Future<Output = Result<Sealed, Refusal>> + Send;

    /// Puts the record's blob in the place of an older one, if the enclave holds the key at all.
    fn renew(&mut self, record: &KeyRecord) -> impl Future<Output = Result<(), Refusal>> + Send;
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::OtherImage => Self::Kept,
            Refusal::Locked => Self::Locked,
            Refusal::Invalid(why) => Self::Failed(why.to_owned()),
            Refusal::Away(why) => Self::Stopped(why),
        }
    }
}

impl From<StoreError> for Outcome {
    fn from(error: StoreError) -> Self {
        match error {
            // Of this row; others may be whole.
            StoreError::Corrupt(_) => Self::Failed(error.to_string()),
            _ => Self::Stopped(error.to_string()),
        }
    }
}

/// Moves one key to `dek`. Everything else that the record says stays.
pub(super) async fn reseal(
    records: &Records,
    sealer: &mut impl Sealer,
    old: &KeyRecord,
    dek: &DekRecord,
) -> Outcome {
    match try_reseal(records, sealer, old, dek).await {
        Ok(outcome) | Err(outcome) => outcome,
    }
}

async fn try_reseal(
    records: &Records,
    sealer: &mut impl Sealer,
    old: &KeyRecord,
    dek: &DekRecord,
) -> Result<Outcome, Outcome> {
    let sealed = sealer.seal(old).await?;
    failpoint::hit("reseal.sealed");
    if sealed.dek_id[..] != dek.dek_id {
        // The enclave still seals under an older one; its next unlock installs the newest.
        return Err(Outcome::Stopped("the enclave does not seal under the newest DEK yet".into()));
    }
    let new = KeyRecord {
        blob: sealed.blob,
        dek_id: dek.dek_id,
        wrapped_dek: dek.wrapped_dek.clone(),
        kms_key_arn: dek.kms_key_arn.clone(),
        ..old.clone()
    };
    let same_key = match (old.public_key(), new.public_key()) {
        (Ok(before), Ok(after)) => before == after && sealed.public_key[..] == before,
        _ => false,
    };
    if !same_key {
        return Err(Outcome::Failed("the enclave sealed something else".to_owned()));
    }
    if !records.swap_key(old, &new).await? {
        return Ok(Outcome::Overtaken);
    }
    failpoint::hit("reseal.swapped");
    let back = records.key(old.key_id).await?;
    failpoint::hit("reseal.read-back");
    let Some(back) = back.filter(|back| *back == new) else {
        return Err(Outcome::Failed("the store gives back another record than it took".to_owned()));
    };
    match sealer.seal(&back).await {
        Ok(again) if again.public_key == sealed.public_key => {}
        Ok(_) => return put_back(records, old, &new, "it opens as another key").await,
        Err(Refusal::Invalid(why)) => return put_back(records, old, &new, why).await,
        // It was opened before it left the enclave; that the enclave is away now says nothing about it.
        Err(refusal) => return Err(Outcome::Stopped(format!("not opened again: {refusal:?}"))),
    }
    // What is cached signs on; at the worst until it leaves the cache.
    if let Err(refusal) = sealer.renew(&back).await {
        tracing::debug!(?refusal, "a key that was sealed again stays cached as it was");
    }
    Ok(Outcome::Moved)
}

/// What was read back does not open: the blob that does takes its place again.
async fn put_back(
    records: &Records,
    old: &KeyRecord,
    new: &KeyRecord,
    why: &str,
) -> Result<Outcome, Outcome> {
    let restored = records.swap_key(new, old).await?;
    Err(Outcome::Failed(format!("read back it does not open ({why}); put back: {restored}")))
}

#[cfg(test)]
mod tests;
