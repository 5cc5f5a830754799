//! One key, one unary call a signature.
#![allow(unsafe_code, reason = "the same foreign function as the reference")]

use std::path::PathBuf;
use std::ptr::{NonNull, null};

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::ValueEnum;
use secp256k1::ecdsa::RecoverableSignature;
use secp256k1::{Message, PublicKey, SecretKey};
use secp256k1_sys as sys;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use crate::v1;
use crate::v1::signer_service_server::{SignerService, SignerServiceServer};

const SECRET: [u8; 32] = [0x5a; 32];

/// How it signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Call {
    /// The C interface with a context that stays.
    C,
    /// The crate's own call.
    Crate,
}

struct Service {
    call: Call,
    key: SecretKey,
    public_key: Bytes,
}

thread_local! {
    static CONTEXT: NonNull<sys::Context> =
        // SAFETY: the flag is a valid one; the context lives as long as its thread.
        unsafe { sys::secp256k1_context_create(sys::SECP256K1_START_NONE) };
}

/// Serves until the process ends.
pub(crate) async fn serve(socket: PathBuf, call: Call) -> Result<()> {
    let key = SecretKey::from_secret_bytes(SECRET).context("a key")?;
    let public_key = Bytes::copy_from_slice(&PublicKey::from_secret_key(&key).serialize());
    let listener = UnixListener::bind(socket)?;
    println!("key {}", const_hex::encode(&public_key));
    let service = SignerServiceServer::new(Service { call, key, public_key });
    tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await?;
    Ok(())
}

impl Service {
    fn signed(&self, request: &v1::SignRequest) -> Result<v1::SignResponse, Status> {
        let digest = request.digest.as_ref().try_into();
        let digest: [u8; 32] = digest.map_err(|_| Status::invalid_argument("digest"))?;
        let (signature, recovery_id) = match self.call {
            Call::C => sign_in_c(&digest).ok_or_else(|| Status::internal("sign"))?,
            Call::Crate => {
                let message = Message::from_digest(digest);
                let made = RecoverableSignature::sign_ecdsa_recoverable(message, &self.key);
                let (id, compact) = made.serialize_compact();
                (compact, i32::from(id.to_u8()))
            }
        };
        Ok(v1::SignResponse {
            key_id: request.key_id.clone(),
            public_key: self.public_key.clone(),
            signature: Bytes::copy_from_slice(&signature),
            recovery_id: u32::try_from(recovery_id).unwrap_or_default(),
            der: Bytes::new(),
        })
    }
}

fn sign_in_c(digest: &[u8; 32]) -> Option<([u8; 64], i32)> {
    let (mut compact, mut recovery_id) = ([0; 64], 0);
    // SAFETY: a live context of this thread; every pointer has the length that the function documents.
    let done = CONTEXT.with(|context| unsafe {
        let mut raw = sys::recovery::RecoverableSignature::new();
        sys::recovery::secp256k1_ecdsa_sign_recoverable(
            context.as_ptr(),
            &raw mut raw,
            digest.as_ptr(),
            SECRET.as_ptr(),
            sys::secp256k1_nonce_function_rfc6979,
            null(),
        ) == 1
            && sys::recovery::secp256k1_ecdsa_recoverable_signature_serialize_compact(
                context.as_ptr(),
                compact.as_mut_ptr(),
                &raw mut recovery_id,
                &raw const raw,
            ) == 1
    });
    done.then_some((compact, recovery_id))
}

fn absent<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not part of the comparison"))
}

#[tonic::async_trait]
impl SignerService for Service {
    async fn sign(
        &self,
        request: Request<v1::SignRequest>,
    ) -> Result<Response<v1::SignResponse>, Status> {
        self.signed(request.get_ref()).map(Response::new)
    }

    async fn create(
        &self,
        _: Request<v1::CreateRequest>,
    ) -> Result<Response<v1::CreateResponse>, Status> {
        absent()
    }

    async fn sign_batch(
        &self,
        _: Request<v1::SignBatchRequest>,
    ) -> Result<Response<v1::SignBatchResponse>, Status> {
        absent()
    }

    type SignStreamStream = BoxStream<v1::SignStreamResponse>;

    async fn sign_stream(
        &self,
        _: Request<Streaming<v1::SignStreamRequest>>,
    ) -> Result<Response<Self::SignStreamStream>, Status> {
        absent()
    }

    async fn get_key(
        &self,
        _: Request<v1::GetKeyRequest>,
    ) -> Result<Response<v1::GetKeyResponse>, Status> {
        absent()
    }

    async fn list_keys(
        &self,
        _: Request<v1::ListKeysRequest>,
    ) -> Result<Response<v1::ListKeysResponse>, Status> {
        absent()
    }
}
