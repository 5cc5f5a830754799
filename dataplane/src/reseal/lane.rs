//! The enclave's calls, over a connection that is there for one walk: requests have theirs.

use std::time::Duration;

use bytes::Bytes;
use sigil_enclave_protocol::v1::{ActivateRequest, ErrorCode, ForgetRequest, ResealRequest};
use tokio::time::timeout;

use super::step::{Refusal, Sealed, Sealer};
use crate::pool::Boot;
use crate::pool::session::{Keepalive, Session};
use crate::store::KeyRecord;

/// One call takes well under a millisecond, and longer behind batches of signatures.
const CALL_TIME_MAX: Duration = Duration::from_secs(5);

/// A connection; dropping it closes it.
pub(super) struct Lane(Session);

// === impl Lane ===

impl Lane {
    /// Connects to `boot`.
    pub(super) async fn open(boot: &Boot) -> Result<Self, String> {
        let opening = Session::open(&boot.address, boot.boot_id, &boot.token, Keepalive::NONE);
        match timeout(CALL_TIME_MAX, opening).await {
            Ok(Ok(session)) => Ok(Self(session)),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no connection to the enclave in time".to_owned()),
        }
    }
}

impl Sealer for Lane {
    async fn seal(&mut self, record: &KeyRecord) -> Result<Sealed, Refusal> {
        let request = ResealRequest {
            keyspace: record.keyspace.clone(),
            key_id: Bytes::copy_from_slice(&record.key_id),
            blob: record.blob.clone(),
        };
        let reply = answer(self.0.client.reseal(request)).await?;
        refused(reply.error, &reply.dek_id)?;
        Ok(Sealed { blob: reply.blob, public_key: reply.public_key, dek_id: reply.dek_id })
    }

    /// Forgets first: what that says is the only way to know whether the key is cached, and activating
    /// one that is not would drop another from a full cache. A request in between brings its blob along.
    async fn renew(&mut self, record: &KeyRecord) -> Result<(), Refusal> {
        let key_id = Bytes::copy_from_slice(&record.key_id);
        let keyspace = record.keyspace.clone();
        let forget = ForgetRequest { keyspace: keyspace.clone(), key_id: key_id.clone() };
        let forgotten = answer(self.0.client.forget(forget)).await?;
        refused(forgotten.error, &[])?;
        if forgotten.was_cached {
            let request = ActivateRequest { keyspace, key_id, blob: record.blob.clone() };
            let reply = answer(self.0.client.activate(request)).await?;
            refused(reply.error, &reply.dek_id)?;
        }
        Ok(())
    }
}

async fn answer<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, Refusal> {
    match timeout(CALL_TIME_MAX, call).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(Refusal::Away(format!("enclave: {}", status.message()))),
        Err(_) => Err(Refusal::Away("the enclave did not answer in time".to_owned())),
    }
}

/// `dek_id` is the locked one; without it the keyspace has no DEK that seals.
fn refused(code: i32, dek_id: &[u8]) -> Result<(), Refusal> {
    let Ok(code) = ErrorCode::try_from(code) else {
        return Err(Refusal::Away(format!("enclave: error {code}")));
    };
    Err(match code {
        ErrorCode::Ok => return Ok(()),
        ErrorCode::DekMismatch => Refusal::OtherImage,
        ErrorCode::UnlockRequired if !dek_id.is_empty() => Refusal::Locked,
        ErrorCode::InvalidKey | ErrorCode::InvalidArgument => Refusal::Invalid(code.as_str_name()),
        _ => Refusal::Away(format!("enclave: {}", code.as_str_name())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_about_the_key_its_dek_or_the_enclave() {
        let of = |code: ErrorCode, dek_id: &[u8]| refused(code.into(), dek_id);
        assert_eq!(of(ErrorCode::Ok, &[1; 16]), Ok(()));
        assert_eq!(of(ErrorCode::DekMismatch, &[]), Err(Refusal::OtherImage));
        assert_eq!(of(ErrorCode::UnlockRequired, &[1; 16]), Err(Refusal::Locked));
        assert_eq!(of(ErrorCode::InvalidKey, &[]), Err(Refusal::Invalid("INVALID_KEY")));
        for code in [ErrorCode::UnlockRequired, ErrorCode::Draining, ErrorCode::RngUnhealthy] {
            assert!(matches!(of(code, &[]), Err(Refusal::Away(_))), "{code:?}");
        }
        assert!(matches!(refused(9_999, &[]), Err(Refusal::Away(_))));
    }
}
