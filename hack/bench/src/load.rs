//! Load at saturation: full batches, always several on their way, so that the worker never waits.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use sigil_enclave_protocol::v1::{ErrorCode, SignBatch, SignBatchResult, SignItem};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::caller::{Caller, Client, Key};
use crate::kms::KEYSPACE;
use crate::reference;

/// Keys that take turns.
const KEYS: u32 = 64;
/// Different batches, sent again and again.
const PREPARED: usize = 64;

/// What the load looks like.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Digests a message; 32 is a full batch.
    #[arg(long, default_value_t = 32)]
    pub(crate) items: usize,
    /// Messages on their way.
    #[arg(long, default_value_t = 8)]
    pub(crate) in_flight: usize,
}

/// One signing stream with its load.
pub(crate) struct Load {
    batches: Vec<SignBatch>,
    keys: Vec<Key>,
    next: usize,
    in_flight: usize,
    requests: mpsc::Sender<SignBatch>,
    results: Streaming<SignBatchResult>,
}

impl Load {
    /// Makes keys and opens a stream.
    pub(crate) async fn open(caller: &mut Caller<'_>, shape: Shape) -> Result<Self> {
        let keys = caller.keys(KEYS).await?;
        let batches = (0..PREPARED).map(|number| batch(&keys, number, shape.items)).collect();
        let mut client: Client = caller.connect().await?;
        let (requests, queued) = mpsc::channel(shape.in_flight);
        let results = client.sign(ReceiverStream::new(queued)).await?.into_inner();
        let in_flight = shape.in_flight;
        let mut load = Self { batches, keys, next: 0, in_flight, requests, results };
        load.check().await?;
        Ok(load)
    }

    /// Has `count` batches signed and waits for all.
    pub(crate) async fn run(&mut self, count: usize) -> Result<()> {
        let (mut sent, mut received) = (0, 0);
        while received < count {
            while sent < count && sent - received < self.in_flight {
                self.send().await?;
                sent += 1;
            }
            let answer = self.answer().await?;
            for result in &answer.results {
                ensure!(result.error() == ErrorCode::Ok, "sign: {:?}", result.error());
            }
            received += 1;
        }
        Ok(())
    }

    /// Has one batch signed and verifies each signature of it.
    pub(crate) async fn check(&mut self) -> Result<()> {
        let batch = self.send().await?;
        let answer = self.answer().await?;
        ensure!(answer.results.len() == batch.items.len(), "an answer is missing");
        for result in &answer.results {
            let at = usize::try_from(result.tag)?;
            let item = batch.items.get(at).context("a strange tag")?;
            let key = self.keys.iter().find(|key| key.id == item.key_id).context("a key")?;
            ensure!(key.public_key == result.public_key, "another public key");
            let valid = reference::verifies(&key.public_key, &item.digest, &result.signature);
            ensure!(valid, "an invalid signature");
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<SignBatch> {
        let batch = self.batches.get(self.next % PREPARED).context("a batch")?.clone();
        self.next += 1;
        self.requests.send(batch.clone()).await.context("the stream ended")?;
        Ok(batch)
    }

    async fn answer(&mut self) -> Result<SignBatchResult> {
        self.results.message().await?.context("the stream ended")
    }
}

fn batch(keys: &[Key], number: usize, items: usize) -> SignBatch {
    let item = |at: usize, key: &Key| {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&(number as u64 + 1).to_be_bytes());
        digest[24..].copy_from_slice(&(at as u64).to_be_bytes());
        SignItem {
            tag: u32::try_from(at).unwrap_or(u32::MAX),
            keyspace: KEYSPACE.into(),
            key_id: key.id.clone(),
            digest: Bytes::copy_from_slice(&digest),
            ..SignItem::default()
        }
    };
    let cycle = keys.iter().cycle().skip(number).enumerate();
    SignBatch { items: cycle.take(items).map(|(at, key)| item(at, key)).collect() }
}
