//! The gRPC face: `Sign`, `SignBatch`, `SignStream`.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::callers::Caller;
use super::digests::{bytes, verifies};
use super::http2::senders;
use super::{Digests, Plan, PublicKey, Tally};
use crate::caller::Http2;
use crate::signer_v1::sign_result::Result as Either;
use crate::signer_v1::signer_service_client::SignerServiceClient;
use crate::signer_v1::{
    SignBatchRequest, SignRequest, SignResult, SignStreamRequest, SignStreamResponse,
};

type Client = SignerServiceClient<Http2>;

pub(super) struct Unary {
    client: Client,
    digests: Digests,
}

pub(super) struct Batches {
    client: Client,
    digests: Digests,
    items: usize,
}

/// One open `SignStream`.
struct Open {
    digests: Digests,
    /// By tag.
    under_way: Vec<(Instant, [u8; 32], PublicKey)>,
    requests: mpsc::Sender<SignStreamRequest>,
    answers: Streaming<SignStreamResponse>,
}

async fn clients(plan: &Plan) -> Result<Vec<Client>> {
    let origin = http::Uri::from_static("http://localhost");
    let senders = senders(plan).await?.into_iter();
    Ok(senders.map(|sender| Client::with_origin(Http2::new(sender), origin.clone())).collect())
}

/// Callers of `Sign`, spread over the connections.
pub(super) async fn unary(plan: &Rc<Plan>) -> Result<Vec<Unary>> {
    let clients = clients(plan).await?;
    let callers = clients.iter().cycle().take(plan.callers).enumerate();
    Ok(callers
        .map(|(caller, client)| Unary {
            client: client.clone(),
            digests: Digests::new(plan, caller),
        })
        .collect())
}

/// Callers of `SignBatch`, spread over the connections.
pub(super) async fn batches(plan: &Rc<Plan>) -> Result<Vec<Batches>> {
    let clients = clients(plan).await?;
    let callers = clients.iter().cycle().take(plan.callers).enumerate();
    let batches = callers.map(|(caller, client)| Batches {
        client: client.clone(),
        digests: Digests::new(plan, caller),
        items: plan.items,
    });
    Ok(batches.collect())
}

/// Opens as many streams as there are callers and keeps `items` requests under way on each.
pub(super) async fn streams(plan: &Rc<Plan>, tally: &Rc<RefCell<Tally>>) -> Result<()> {
    let clients = clients(plan).await?;
    for (caller, client) in clients.iter().cycle().take(plan.callers).enumerate() {
        let digests = Digests::new(plan, caller);
        let stream = Open::start(client.clone(), digests, plan.items).await?;
        let tally = Rc::clone(tally);
        tokio::task::spawn_local(async move {
            if let Err(error) = stream.run(&tally).await {
                tally.borrow_mut().ended(std::time::Duration::ZERO, Err(error.to_string()));
            }
        });
    }
    Ok(())
}

fn request((digest, key): ([u8; 32], &PublicKey)) -> SignRequest {
    SignRequest { key_id: key.id.clone(), digest: bytes(&digest), ..SignRequest::default() }
}

fn refusal(status: &Status) -> String {
    let code = status.metadata().get("sigil-code").and_then(|code| code.to_str().ok());
    code.map_or_else(|| format!("{:?}: {}", status.code(), status.message()), str::to_owned)
}

fn signature(result: Option<&SignResult>) -> Result<&[u8], String> {
    match result.and_then(|result| result.result.as_ref()) {
        Some(Either::Signed(signed)) => Ok(&signed.signature),
        Some(Either::Error(error)) => Err(error.code.clone()),
        None => Err("no result".to_owned()),
    }
}

impl Caller for Unary {
    async fn call(&mut self, check: bool) -> Result<u32, String> {
        let (digest, key) = self.digests.next();
        let answer = self.client.sign(request((digest, key))).await;
        let answer = answer.map_err(|status| refusal(&status))?.into_inner();
        if check && !verifies(key, &digest, &answer.signature) {
            return Err("an invalid signature".to_owned());
        }
        Ok(1)
    }
}

impl Caller for Batches {
    async fn call(&mut self, check: bool) -> Result<u32, String> {
        let asked: Vec<_> = (0..self.items)
            .map(|_| {
                let (digest, key) = self.digests.next();
                (digest, key.clone())
            })
            .collect();
        let requests = asked.iter().map(|(digest, key)| request((*digest, key))).collect();
        let answer = self.client.sign_batch(SignBatchRequest { requests }).await;
        let answer = answer.map_err(|status| refusal(&status))?.into_inner();
        if answer.results.len() != asked.len() {
            return Err("answers are missing".to_owned());
        }
        for (result, (digest, key)) in answer.results.iter().zip(&asked) {
            let signature = signature(Some(result))?;
            if check && !verifies(key, digest, signature) {
                return Err("an invalid signature".to_owned());
            }
        }
        Ok(u32::try_from(asked.len()).unwrap_or_default())
    }
}

impl Open {
    async fn start(mut client: Client, digests: Digests, window: usize) -> Result<Self> {
        let (requests, queued) = mpsc::channel(window);
        let answers = client.sign_stream(ReceiverStream::new(queued)).await?.into_inner();
        let mut open = Self { digests, under_way: Vec::new(), requests, answers };
        for tag in 0..window {
            open.send(tag).await?;
        }
        Ok(open)
    }

    async fn send(&mut self, tag: usize) -> Result<()> {
        let (digest, key) = self.digests.next();
        let (request, key) = (request((digest, key)), key.clone());
        match self.under_way.get_mut(tag) {
            Some(slot) => *slot = (Instant::now(), digest, key),
            None => self.under_way.push((Instant::now(), digest, key)),
        }
        let message = SignStreamRequest { tag: tag as u64, request: Some(request) };
        self.requests.send(message).await.context("the stream ended")
    }

    async fn run(mut self, tally: &RefCell<Tally>) -> Result<()> {
        let window = self.under_way.len() as u64;
        let (mut sent, mut answered) = (window, 0);
        while let Some(answer) = self.answers.message().await? {
            let tag = usize::try_from(answer.tag)?;
            let (begun, digest, key) = self.under_way.get(tag).context("a strange tag")?;
            let check = tally.borrow_mut().samples();
            let result = signature(answer.result.as_ref()).map(|signature| {
                ensure!(!check || verifies(key, digest, signature), "an invalid signature");
                Ok(1)
            });
            let result = result.and_then(|valid| valid.map_err(|error| error.to_string()));
            if check && result.is_ok() {
                tally.borrow_mut().verified();
            }
            tally.borrow_mut().ended(begun.elapsed(), result);
            answered += 1;
            if !tally.borrow_mut().wants_more(answered) {
                return Ok(());
            }
            if tally.borrow().takes(sent) {
                sent += 1;
                self.send(tag).await?;
            }
        }
        anyhow::bail!("the stream ended")
    }
}
