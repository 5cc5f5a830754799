//! The actions of KMS. Everything here is honest; [`crate::reply`] makes answers wrong.

mod actions;
mod requests;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::Method;
use http::request::Parts;
use serde::de::DeserializeOwned;
use sigil_verifier::TrustRoot;

use crate::attested::Attested;
use crate::blob::Context;
use crate::error::ApiError;
use crate::fault::FaultMode;
use crate::keys::Key;
use crate::policy::{Decision, Request};
use crate::reply::Reply;
use crate::sigv4;
use crate::store::{Credential, Store};

/// A test KMS without its sockets.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) store: Arc<Store>,
    pub(crate) attestation_root: TrustRoot,
}

/// A request whose signature verified.
pub(crate) struct Call<'a> {
    service: &'a Service,
    caller: &'a Credential,
    fault: FaultMode,
    now_ms: u64,
}

/// The actions that are known, by the name after `TrentService.`.
const ACTIONS: [&str; 7] = [
    "Decrypt",
    "DescribeKey",
    "Encrypt",
    "GenerateDataKey",
    "GetKeyPolicy",
    "ListGrants",
    "PutKeyPolicy",
];

impl Service {
    /// Name of the action for counters, and what to answer.
    pub(crate) fn answer(
        &self,
        head: &Parts,
        body: &[u8],
    ) -> (&'static str, Result<Reply, ApiError>) {
        let target = head.headers.get("x-amz-target").and_then(|value| value.to_str().ok());
        let name = target.and_then(|target| target.strip_prefix("TrentService."));
        let action = ACTIONS.into_iter().find(|known| Some(*known) == name);
        let answer = self.authenticated(head, body, action);
        (action.unwrap_or("-"), answer)
    }

    fn authenticated(
        &self,
        head: &Parts,
        body: &[u8],
        action: Option<&str>,
    ) -> Result<Reply, ApiError> {
        if head.method != Method::POST || head.uri.path() != "/" || head.uri.query().is_some() {
            return Err(ApiError::new("UnknownOperationException", "only POST / is known"));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let credentials = self.store.credentials();
        let caller = sigv4::verify(head, body, now.as_secs(), &credentials)?;
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let fault = self.store.fault();
        match fault {
            FaultMode::Throttle => {
                let message = "You have exceeded the rate at which you may call KMS. Reduce the \
                               frequency of your calls.";
                return Err(ApiError::new("ThrottlingException", message));
            }
            FaultMode::Http500 => return Err(ApiError::internal("")),
            FaultMode::Deny => return Err(denied(caller, "kms:*", "*", Decision::NotAllowed)),
            _ => {}
        }
        let call = Call { service: self, caller, fault, now_ms };
        match action {
            Some("Decrypt") => call.decrypt(parse(body)?),
            Some("DescribeKey") => call.describe_key(&parse(body)?),
            Some("Encrypt") => call.encrypt(&parse(body)?),
            Some("GenerateDataKey") => call.generate_data_key(parse(body)?),
            Some("GetKeyPolicy") => call.get_key_policy(&parse(body)?),
            Some("ListGrants") => call.list_grants(&parse(body)?),
            Some("PutKeyPolicy") => call.put_key_policy(&parse(body)?),
            _ => Err(ApiError::new("UnknownOperationException", "")),
        }
    }
}

impl Call<'_> {
    fn key(&self, name: &str) -> Result<Key, ApiError> {
        let found = self.service.store.keys().into_iter().find(|key| key.is_named(name));
        let message = || format!("Key '{name}' does not exist");
        found.ok_or_else(|| ApiError::new("NotFoundException", message()))
    }

    /// Verifies a request's `Recipient`.
    fn attested(
        &self,
        recipient: Option<requests::Recipient>,
    ) -> Result<Option<Attested>, ApiError> {
        let Some(recipient) = recipient else { return Ok(None) };
        if recipient.key_encryption_algorithm != "RSAES_OAEP_SHA_256" {
            return Err(ApiError::validation("KeyEncryptionAlgorithm: only RSAES_OAEP_SHA_256"));
        }
        let document = requests::base64("AttestationDocument", &recipient.attestation_document)?;
        Attested::verify(&document, &self.service.attestation_root, self.now_ms).map(Some)
    }

    /// Asks the key policy.
    fn authorize(
        &self,
        key: &Key,
        action: &str,
        context: &Context,
        attested: Option<&Attested>,
    ) -> Result<(), ApiError> {
        let mut keys = attested.map(Attested::condition_keys).unwrap_or_default();
        keys.extend(
            context
                .iter()
                .map(|(name, value)| (format!("kms:EncryptionContext:{name}"), value.clone())),
        );
        let principal = &self.caller.principal;
        match key.policy.decide(&Request { principal, action, key_arn: &key.arn, keys }) {
            Decision::Allowed => Ok(()),
            decision => Err(denied(self.caller, action, &key.arn, decision)),
        }
    }
}

fn denied(caller: &Credential, action: &str, key_arn: &str, decision: Decision) -> ApiError {
    let why = match decision {
        Decision::ExplicitlyDenied => "with an explicit deny in a resource-based policy".to_owned(),
        _ => format!("because no resource-based policy allows the {action} action"),
    };
    let user = &caller.principal;
    let message =
        format!("User: {user} is not authorized to perform: {action} on resource: {key_arn} {why}");
    ApiError::new("AccessDeniedException", message)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::new("SerializationException", error.to_string()))
}
