//! SigV4 over the request that the enclave wrote. What is signed is checked first: this process lends
//! its credentials for two actions on known keys, and for nothing else.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use sigil_enclave_protocol::bounds::AMZ_HEADER_BYTES_MAX;
use sigil_enclave_protocol::v1::{KmsRequest, UnlockAuthorizeRequest};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::credentials;
use super::exchange::ExchangeError;
use crate::config::{Config, Kms};
use crate::metrics::Calls;
use crate::status::KmsErrorClass;

const CONTENT_TYPE: &str = "application/x-amz-json-1.1";
/// Credentials are asked for again this long before they end.
const REFRESH_BEFORE_END: Duration = Duration::from_mins(2);
/// Credentials without an end may have been replaced on disk.
const LIFE_WITHOUT_END: Duration = Duration::from_mins(15);
/// A provider that hangs must not hold a job longer than KMS itself may.
const PROVIDER_TIME_MAX: Duration = Duration::from_secs(3);

/// What an unlock asks of KMS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    GenerateDataKey,
    Decrypt,
}

/// Gives credentials and signs with them.
pub(super) struct Authorizer {
    region: String,
    key_arn: Option<String>,
    provider: Option<SharedCredentialsProvider>,
    cached: Mutex<Option<(Credentials, Instant)>>,
    /// What is asked of the provider.
    pub(super) calls: Arc<Calls>,
}

// === impl Action ===

impl Action {
    /// The word in `x-amz-target`, logs and the audit.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::GenerateDataKey => "GenerateDataKey",
            Self::Decrypt => "Decrypt",
        }
    }
}

// === impl Authorizer ===

impl Authorizer {
    /// With the credentials of this environment.
    pub(super) async fn from_environment(config: &Config) -> Self {
        let times = &config.outbound.timeout_config;
        Self::new(&config.kms, credentials::provider(&config.kms.region, times).await)
    }

    /// With given credentials; without any, every exchange is denied.
    pub(super) fn new(kms: &Kms, provider: Option<SharedCredentialsProvider>) -> Self {
        Self {
            region: kms.region.clone(),
            key_arn: kms.key_arn.clone(),
            provider,
            cached: Mutex::new(None),
            calls: Arc::default(),
        }
    }

    /// Checks and signs. `row_arn` is the key that the DEK's row names, absent for a new DEK.
    pub(super) fn authorize(
        &self,
        credentials: &Credentials,
        action: Action,
        row_arn: Option<&str>,
        request: &KmsRequest,
        now: SystemTime,
    ) -> Result<UnlockAuthorizeRequest, ExchangeError> {
        self.check(action, row_arn, request)?;
        let identity = credentials.clone().into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("kms")
            .time(now)
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| refused(&format!("SigV4: {error}")))?
            .into();
        let headers = [
            ("content-type", request.content_type.as_str()),
            ("host", request.host.as_str()),
            ("x-amz-target", request.target.as_str()),
        ];
        let uri = format!("https://{}/", request.host);
        let body = SignableBody::Bytes(&request.body);
        let signable = SignableRequest::new("POST", uri, headers.into_iter(), body)
            .map_err(|error| refused(&format!("SigV4: {error}")))?;
        let (instructions, _) = sign(signable, &parameters)
            .map_err(|error| refused(&format!("SigV4: {error}")))?
            .into_parts();
        let mut signed = UnlockAuthorizeRequest::default();
        for (name, value) in instructions.headers() {
            if value.len() > AMZ_HEADER_BYTES_MAX {
                return Err(refused(&format!("{name} is longer than the enclave takes")));
            }
            match name {
                "x-amz-date" => value.clone_into(&mut signed.amz_date),
                "authorization" => value.clone_into(&mut signed.authorization),
                "x-amz-security-token" => value.clone_into(&mut signed.security_token),
                other => return Err(refused(&format!("SigV4 wants the header {other} too"))),
            }
        }
        Ok(signed)
    }

    fn check(
        &self,
        action: Action,
        row_arn: Option<&str>,
        request: &KmsRequest,
    ) -> Result<(), ExchangeError> {
        if request.target != format!("TrentService.{}", action.as_str()) {
            return Err(refused("the enclave asks for another KMS action"));
        }
        if request.content_type != CONTENT_TYPE || request.region != self.region {
            return Err(refused("the enclave asks for another region or content type"));
        }
        let arn = request.kms_key_arn.as_str();
        let allowed = match (&self.key_arn, row_arn) {
            // A DEK of an older KMS key still opens under the key that its row names.
            (_, Some(row)) if action == Action::Decrypt => arn == row,
            (Some(configured), _) => arn == configured,
            (None, _) => true,
        };
        let in_region = arn.split(':').nth(3) == Some(self.region.as_str());
        if !allowed || !in_region {
            return Err(refused("the enclave asks for another KMS key"));
        }
        let body: serde_json::Value = serde_json::from_slice(&request.body)
            .map_err(|_| refused("the enclave's request is not JSON"))?;
        if body.get("KeyId").and_then(serde_json::Value::as_str) != Some(arn) {
            return Err(refused("the enclave's request names another KMS key"));
        }
        Ok(())
    }

    /// Credentials, from the provider or as it last gave them.
    pub(super) async fn credentials(&self) -> Result<Credentials, ExchangeError> {
        let denied = |why: String| ExchangeError::new(KmsErrorClass::Denied, why);
        let mut cached = self.cached.lock().await;
        if let Some((credentials, until)) = &*cached
            && Instant::now() < *until
        {
            return Ok(credentials.clone());
        }
        let provider = self.provider.as_ref().ok_or_else(|| denied(NO_CREDENTIALS.to_owned()))?;
        let call = self.calls.begin();
        let credentials = match timeout(PROVIDER_TIME_MAX, provider.provide_credentials()).await {
            Ok(Ok(credentials)) => credentials,
            Ok(Err(error)) => return Err(denied(format!("{NO_CREDENTIALS}: {error}"))),
            Err(_) => {
                return Err(ExchangeError::new(
                    KmsErrorClass::Timeout,
                    format!("AWS credentials: no answer within {PROVIDER_TIME_MAX:?}"),
                ));
            }
        };
        call.end(true);
        let life = credentials.expiry().map_or(LIFE_WITHOUT_END, |end| {
            end.duration_since(SystemTime::now())
                .unwrap_or_default()
                .saturating_sub(REFRESH_BEFORE_END)
        });
        *cached = Some((credentials.clone(), Instant::now() + life));
        Ok(credentials)
    }

    /// KMS refused: what is cached may be what is wrong.
    pub(super) async fn forget_credentials(&self) {
        *self.cached.lock().await = None;
    }
}

const NO_CREDENTIALS: &str = "no AWS credentials in this environment";

fn refused(why: &str) -> ExchangeError {
    ExchangeError::new(KmsErrorClass::Attestation, format!("not signed: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:kms:us-east-1:111122223333:key/0a1b";

    fn request(target: &str, arn: &str) -> KmsRequest {
        KmsRequest {
            host: "kms.us-east-1.amazonaws.com".to_owned(),
            region: "us-east-1".to_owned(),
            target: target.to_owned(),
            content_type: CONTENT_TYPE.to_owned(),
            body: format!(r#"{{"KeyId":"{arn}"}}"#).into(),
            kms_key_arn: arn.to_owned(),
        }
    }

    fn authorizer(key_arn: Option<&str>) -> Authorizer {
        let kms = Kms {
            region: "us-east-1".to_owned(),
            key_arn: key_arn.map(ToOwned::to_owned),
            address: None,
        };
        Authorizer::new(&kms, None)
    }

    fn try_sign(
        authorizer: &Authorizer,
        action: Action,
        row: Option<&str>,
        request: &KmsRequest,
    ) -> Result<UnlockAuthorizeRequest, ExchangeError> {
        let credentials =
            Credentials::new("AKIDEXAMPLE", "secret-of-the-test", Some("token".into()), None, "t");
        authorizer.authorize(&credentials, action, row, request, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn exactly_three_headers_come_back_and_cover_what_is_sent() {
        let signed = try_sign(
            &authorizer(Some(ARN)),
            Action::Decrypt,
            Some(ARN),
            &request("TrentService.Decrypt", ARN),
        )
        .unwrap();
        assert_eq!(signed.amz_date, "19700101T000000Z");
        assert_eq!(signed.security_token, "token");
        let covered =
            "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target";
        assert!(signed.authorization.contains(covered), "{}", signed.authorization);
        assert!(signed.authorization.contains("/us-east-1/kms/aws4_request"));
        assert!(!format!("{signed:?}").contains("secret-of-the-test"));
    }

    #[test]
    fn nothing_but_the_expected_request_is_signed() {
        let other = "arn:aws:kms:us-east-1:111122223333:key/ffff";
        let far = "arn:aws:kms:eu-west-1:111122223333:key/0a1b";
        let good = || request("TrentService.GenerateDataKey", ARN);
        let mut other_body = good();
        other_body.body = request("", other).body;
        let mut other_region = good();
        other_region.region = "eu-west-1".to_owned();
        let mut not_json = good();
        not_json.body = "{".into();
        let mut form = good();
        form.content_type = "text/plain".to_owned();
        let cases = [
            ("action", request("TrentService.Decrypt", ARN)),
            ("action", request("TrentService.ScheduleKeyDeletion", ARN)),
            ("key", request("TrentService.GenerateDataKey", other)),
            ("key's region", request("TrentService.GenerateDataKey", far)),
            ("key in the body", other_body),
            ("region", other_region),
            ("body", not_json),
            ("content type", form),
        ];
        for (what, request) in cases {
            for configured in [Some(ARN), None] {
                if configured.is_none() && what == "key" {
                    continue;
                }
                let result =
                    try_sign(&authorizer(configured), Action::GenerateDataKey, None, &request);
                assert_eq!(result.unwrap_err().class, KmsErrorClass::Attestation, "{what}");
            }
        }
        let decrypt = request("TrentService.Decrypt", other);
        assert!(try_sign(&authorizer(None), Action::Decrypt, Some(ARN), &decrypt).is_err());
        try_sign(&authorizer(Some(ARN)), Action::GenerateDataKey, None, &good()).unwrap();
    }

    #[tokio::test]
    async fn missing_credentials_are_a_denial() {
        let error = authorizer(None).credentials().await.unwrap_err();
        assert_eq!(error.class, KmsErrorClass::Denied);
    }
}
