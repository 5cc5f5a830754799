//! A suspect's way to the enclave: a connection of its own, one message, one answer (design §3.15).

use std::time::Duration;

use sigil_enclave_protocol::v1::{SignBatch, SignItem, SignResult};
use tokio::time::timeout;
use tokio_stream::StreamExt;

use super::session::{Keepalive, Session};
use super::{Boot, PoolError};

/// One signature with its connection takes milliseconds; an enclave that says nothing for so long has
/// been stopped by it as surely as one that ended.
const ALONE_TIME_MAX: Duration = Duration::from_secs(5);

/// Sends it and waits for its answer.
pub(super) async fn sign(boot: &Boot, item: SignItem) -> Result<SignResult, PoolError> {
    let opened = Session::open(&boot.address, boot.boot_id, &boot.token, Keepalive::NONE).await;
    let mut session = opened.map_err(|error| {
        tracing::debug!(%error, "no connection for a suspect");
        PoolError::NoEnclave
    })?;
    timeout(ALONE_TIME_MAX, exchange(&mut session, item)).await.unwrap_or(Err(PoolError::Lost))
}

async fn exchange(session: &mut Session, item: SignItem) -> Result<SignResult, PoolError> {
    // The stream stays open until the answer is there.
    let message = tokio_stream::once(SignBatch { items: vec![SignItem { tag: 0, ..item }] })
        .chain(tokio_stream::pending());
    let answers = session.client.sign(message).await.map_err(|_| PoolError::Lost)?;
    let answer = answers.into_inner().message().await.map_err(|_| PoolError::Lost)?;
    answer.and_then(|answer| answer.results.into_iter().next()).ok_or(PoolError::Lost)
}
