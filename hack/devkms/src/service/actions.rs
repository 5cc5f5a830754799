//! One method an action.

use aws_lc_rs::rand;
use serde_json::json;

use super::Call;
use super::requests::{self, AboutKey, Decrypt, Encrypt, GenerateDataKey, PutKeyPolicy};
use crate::blob::{self, Context};
use crate::error::ApiError;
use crate::fault::FaultMode;
use crate::policy::Policy;
use crate::reply::{Reply, encode};
use crate::{ACCOUNT, KNOWN_DEK};

const DEK_BYTES: usize = 32;
/// Bytes of a plaintext to encrypt, from the KMS API model.
const PLAINTEXT_BYTES_MAX: usize = 4_096;

impl Call<'_> {
    pub(super) fn generate_data_key(&self, request: GenerateDataKey) -> Result<Reply, ApiError> {
        let key = self.key(&request.key_id)?;
        if request.key_spec != "AES_256" {
            return Err(ApiError::validation("KeySpec: only AES_256"));
        }
        let attested = self.attested(request.recipient)?;
        let context = &request.encryption_context;
        self.authorize(&key, "kms:GenerateDataKey", context, attested.as_ref())?;
        let mut dek = [0; DEK_BYTES];
        rand::fill(&mut dek).map_err(|_| ApiError::internal("random number generator"))?;
        if self.fault == FaultMode::KnownDek {
            dek = KNOWN_DEK;
        }
        let wrapped = blob::wrap(key.id, &key.material, context, &dek)?;
        Reply::new(json!({ "CiphertextBlob": encode(&wrapped), "KeyId": key.arn }))
            .with_plaintext(self.fault, attested, &dek)
    }

    pub(super) fn decrypt(&self, request: Decrypt) -> Result<Reply, ApiError> {
        requests::check_algorithm(request.encryption_algorithm.as_deref())?;
        let blob = requests::base64("CiphertextBlob", &request.ciphertext_blob)?;
        let id = blob::key_id(&blob)?;
        let key = self.key(request.key_id.as_deref().unwrap_or(&id.to_string()))?;
        let attested = self.attested(request.recipient)?;
        let context = &request.encryption_context;
        self.authorize(&key, "kms:Decrypt", context, attested.as_ref())?;
        if key.id != id {
            let message = "The key ID in the request does not identify a CMK that can perform \
                           this operation.";
            return Err(ApiError::new("IncorrectKeyException", message));
        }
        let plaintext = blob::unwrap(&key.material, context, &blob)?;
        Reply::new(json!({ "EncryptionAlgorithm": "SYMMETRIC_DEFAULT", "KeyId": key.arn }))
            .with_plaintext(self.fault.for_decrypt(), attested, &plaintext)
    }

    pub(super) fn encrypt(&self, request: &Encrypt) -> Result<Reply, ApiError> {
        requests::check_algorithm(request.encryption_algorithm.as_deref())?;
        let key = self.key(&request.key_id)?;
        let plaintext = requests::base64("Plaintext", &request.plaintext)?;
        if plaintext.is_empty() || plaintext.len() > PLAINTEXT_BYTES_MAX {
            return Err(ApiError::validation("Plaintext: 1 to 4,096 bytes"));
        }
        let context = &request.encryption_context;
        self.authorize(&key, "kms:Encrypt", context, None)?;
        let wrapped = blob::wrap(key.id, &key.material, context, &plaintext)?;
        Ok(Reply::new(json!({
            "CiphertextBlob": encode(&wrapped),
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "KeyId": key.arn,
        })))
    }

    pub(super) fn describe_key(&self, request: &AboutKey) -> Result<Reply, ApiError> {
        let key = self.key(&request.key_id)?;
        self.authorize(&key, "kms:DescribeKey", &Context::new(), None)?;
        Ok(Reply::new(json!({ "KeyMetadata": {
            "AWSAccountId": ACCOUNT,
            "Arn": key.arn,
            "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
            "Enabled": true,
            "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
            "KeyId": key.id.to_string(),
            "KeyManager": "CUSTOMER",
            "KeySpec": "SYMMETRIC_DEFAULT",
            "KeyState": "Enabled",
            "KeyUsage": "ENCRYPT_DECRYPT",
            "MultiRegion": false,
            "Origin": "AWS_KMS",
        }})))
    }

    pub(super) fn get_key_policy(&self, request: &AboutKey) -> Result<Reply, ApiError> {
        requests::check_policy_name(request.policy_name.as_deref())?;
        let key = self.key(&request.key_id)?;
        self.authorize(&key, "kms:GetKeyPolicy", &Context::new(), None)?;
        Ok(Reply::new(json!({ "Policy": key.policy.to_json(), "PolicyName": "default" })))
    }

    pub(super) fn list_grants(&self, request: &AboutKey) -> Result<Reply, ApiError> {
        if request.limit.is_some_and(|limit| !(1..=100).contains(&limit)) {
            return Err(ApiError::validation("Limit: 1 to 100"));
        }
        let key = self.key(&request.key_id)?;
        self.authorize(&key, "kms:ListGrants", &Context::new(), None)?;
        Ok(Reply::new(json!({ "Grants": [], "Truncated": false })))
    }

    pub(super) fn put_key_policy(&self, request: &PutKeyPolicy) -> Result<Reply, ApiError> {
        requests::check_policy_name(request.policy_name.as_deref())?;
        let mut key = self.key(&request.key_id)?;
        self.authorize(&key, "kms:PutKeyPolicy", &Context::new(), None)?;
        let policy = Policy::parse(&request.policy, &self.caller.principal);
        key.policy = policy.map_err(|error| {
            ApiError::new("MalformedPolicyDocumentException", error.to_string())
        })?;
        let stored = self.service.store.put_key(key);
        stored.map_err(|error| ApiError::internal(error.to_string()))?;
        Ok(Reply::empty())
    }
}
