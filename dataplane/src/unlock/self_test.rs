//! One unstored key a keyspace, made, opened, used and forgotten after its DEK is installed: that is
//! what `test signature` in the member's status means.

use k256::ecdsa::signature::hazmat::PrehashVerifier;
use k256::ecdsa::{Signature, VerifyingKey};
use sigil_enclave_protocol::v1::{
    ActivateRequest, CreateRequest, ErrorCode, ForgetRequest, SignItem,
};

use crate::pool::session::Client;
use crate::pool::{Boot, Pool};

/// Any 32 bytes do; the key exists for this one signature.
const DIGEST: [u8; 32] = *b"sigil/test-signature/v1/keyspace";

/// Makes a key, signs with it, verifies with an independent implementation, forgets it.
pub(super) async fn run(pool: &Pool, keyspace: &str, boot: &Boot) -> Result<(), String> {
    let (mut client, answers) = pool.client().map_err(|_| "no enclave answers")?;
    if answers.boot_id != boot.boot_id {
        return Err("another boot answers".to_owned());
    }
    let mut key_id = vec![0_u8; 16];
    aws_lc_rs::rand::fill(&mut key_id).map_err(|_| "no random bytes")?;
    let key_id = bytes::Bytes::from(key_id);
    let tested = sign_once(pool, &mut client, keyspace, &key_id).await;
    // Also after a failure: nothing of the test stays in the cache.
    let forget = ForgetRequest { keyspace: keyspace.to_owned(), key_id };
    let forgotten = client.forget(forget).await.map_err(|s| s.to_string())?.into_inner();
    tested?;
    ok("forget", forgotten.error)
}

async fn sign_once(
    pool: &Pool,
    client: &mut Client,
    keyspace: &str,
    key_id: &bytes::Bytes,
) -> Result<(), String> {
    let request = CreateRequest {
        keyspace: keyspace.to_owned(),
        key_id: key_id.clone(),
        ..CreateRequest::default()
    };
    let created = client.create(request).await.map_err(|s| s.to_string())?.into_inner();
    ok("create", created.error)?;
    let request = ActivateRequest {
        keyspace: keyspace.to_owned(),
        key_id: key_id.clone(),
        blob: created.blob,
    };
    let activated = client.activate(request).await.map_err(|s| s.to_string())?.into_inner();
    ok("activate", activated.error)?;
    let item = SignItem {
        keyspace: keyspace.to_owned(),
        key_id: key_id.clone(),
        digest: bytes::Bytes::from_static(&DIGEST),
        ..SignItem::default()
    };
    let signed = pool.sign(item).await.map_err(|error| format!("sign: {error:?}"))?;
    ok("sign", signed.error)?;
    verify(&created.public_key, &signed.signature)
}

fn verify(public_key: &[u8], signature: &[u8]) -> Result<(), String> {
    let key = VerifyingKey::from_sec1_bytes(public_key).map_err(|_| "not a public key")?;
    let signature = Signature::from_slice(signature).map_err(|_| "not a signature")?;
    key.verify_prehash(&DIGEST, &signature).map_err(|_| "the test signature is wrong".to_owned())
}

fn ok(step: &str, code: i32) -> Result<(), String> {
    match ErrorCode::try_from(code) {
        Ok(ErrorCode::Ok) => Ok(()),
        Ok(code) => Err(format!("{step}: {}", code.as_str_name())),
        Err(_) => Err(format!("{step}: error {code}")),
    }
}
