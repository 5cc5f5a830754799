//! One exchange with KMS: begin in the enclave, sign here, tunnel, authorize, result.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sigil_enclave_protocol::bounds::UNLOCKS_OPEN_MAX;
use sigil_enclave_protocol::v1::unlock_begin_request::What;
use sigil_enclave_protocol::v1::{
    ErrorCode, UnlockAuthorizeReply, UnlockBeginReply, UnlockBeginRequest,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Settings;
use super::authorize::{Action, Authorizer};
use super::tunnel;
use crate::audit::{AuditLog, UnlockCall};
use crate::config::Kms;
use crate::metrics::Calls;
use crate::pool::session::Client;
use crate::pool::{Boot, Pool};
use crate::status::KmsErrorClass;

/// Why an exchange gave nothing.
#[derive(Debug, thiserror::Error)]
#[error("{}: {detail}", class.as_str())]
pub(super) struct ExchangeError {
    pub(super) class: KmsErrorClass,
    /// For log and debug page; never holds a secret.
    pub(super) detail: String,
    /// KMS says that the credentials are wrong or over.
    credentials_refused: bool,
}

/// What KMS says of credentials that it does not take. `AccessDeniedException` is about the key or its
/// policy: others would not help, and a row of the store can bring it about.
const CREDENTIALS_REFUSED: [&str; 3] =
    ["ExpiredTokenException", "UnrecognizedClientException", "InvalidSignatureException"];

/// What the audit says about an exchange.
pub(super) struct AuditSubject<'a> {
    pub(super) unlock_request_id: &'a str,
    pub(super) keyspace: &'a str,
    pub(super) key_id: Option<String>,
}

/// The audit of one call: written when the call ends, also if it ends because nobody waits for it any
/// longer (row U5).
struct Audit<'a> {
    subject: &'a AuditSubject<'a>,
    action: Action,
    begun: &'a UnlockBeginReply,
    log: Option<&'a AuditLog>,
    /// False once written.
    is_due: bool,
}

/// Everything that an exchange needs.
pub(super) struct Exchanger {
    pub(super) pool: Pool,
    authorizer: Authorizer,
    kms: Kms,
    limits: Settings,
    /// The enclave holds few begun unlocks; more would only be refused there.
    pub(super) open: Arc<Semaphore>,
    /// Where calls are written down beside the log.
    pub(super) audit: Option<AuditLog>,
    /// What is asked of KMS.
    pub(super) calls: Arc<Calls>,
}

// === impl ExchangeError ===

impl ExchangeError {
    pub(super) fn new(class: KmsErrorClass, detail: impl Into<String>) -> Self {
        Self { class, detail: detail.into(), credentials_refused: false }
    }

    /// The failure is about reaching KMS, so other jobs would meet it too.
    pub(super) fn is_about_kms(&self) -> bool {
        matches!(
            self.class,
            KmsErrorClass::Throttled | KmsErrorClass::Timeout | KmsErrorClass::KmsError
        )
    }

    fn from_enclave(code: i32, aws: Option<&UnlockAuthorizeReply>) -> Self {
        let code = ErrorCode::try_from(code).unwrap_or(ErrorCode::Internal);
        let class = match code {
            ErrorCode::KmsDenied => KmsErrorClass::Denied,
            ErrorCode::KmsThrottled => KmsErrorClass::Throttled,
            ErrorCode::KmsTimeout => KmsErrorClass::Timeout,
            ErrorCode::KmsError | ErrorCode::KmsUnreachable | ErrorCode::TunnelMissing => {
                KmsErrorClass::KmsError
            }
            ErrorCode::KmsAnswerRefused | ErrorCode::DekMismatch | ErrorCode::AttestationFailed => {
                KmsErrorClass::Attestation
            }
            _ => KmsErrorClass::Enclave,
        };
        let detail = match aws {
            Some(reply) => format!(
                "{} (HTTP {}, {})",
                code.as_str_name(),
                reply.http_status,
                if reply.aws_error_code.is_empty() { "no AWS code" } else { &reply.aws_error_code }
            ),
            None => code.as_str_name().to_owned(),
        };
        let credentials_refused =
            aws.is_some_and(|reply| CREDENTIALS_REFUSED.contains(&&*reply.aws_error_code));
        Self { class, detail, credentials_refused }
    }
}

impl From<tonic::Status> for ExchangeError {
    fn from(status: tonic::Status) -> Self {
        Self::new(KmsErrorClass::Enclave, format!("enclave: {}", status.message()))
    }
}

// === impl Exchanger ===

impl Exchanger {
    pub(super) fn new(pool: Pool, authorizer: Authorizer, kms: Kms, limits: Settings) -> Self {
        Self {
            pool,
            authorizer,
            kms,
            limits,
            open: Arc::new(Semaphore::new(UNLOCKS_OPEN_MAX)),
            audit: None,
            calls: Arc::default(),
        }
    }

    /// Runs one exchange within its limits and audits it.
    pub(super) async fn run(
        &self,
        boot: &Boot,
        request: UnlockBeginRequest,
        subject: &AuditSubject<'_>,
    ) -> Result<UnlockAuthorizeReply, ExchangeError> {
        let limit = Duration::from_millis(self.limits.load().operation_timeout_ms);
        let late = |_| {
            ExchangeError::new(KmsErrorClass::Timeout, format!("the operation took over {limit:?}"))
        };
        timeout(limit, self.run_unlimited(boot, request, subject)).await.map_err(late)?
    }

    async fn run_unlimited(
        &self,
        boot: &Boot,
        request: UnlockBeginRequest,
        subject: &AuditSubject<'_>,
    ) -> Result<UnlockAuthorizeReply, ExchangeError> {
        let gone = || ExchangeError::new(KmsErrorClass::Enclave, "no attested enclave answers");
        // A new boot is announced to everybody at once; the connection may be milliseconds behind.
        let connect_limit = Duration::from_millis(self.limits.load().connect_timeout_ms);
        let up = self.pool.wait_for(boot.boot_id);
        timeout(connect_limit, up).await.map_err(|_| gone())?;
        let (mut client, answers) = self.pool.client().map_err(|_| gone())?;
        if answers.boot_id != boot.boot_id {
            return Err(gone());
        }
        // Reached before anything is begun: a begun unlock takes one of few places for 10 s.
        let credentials = self.authorizer.credentials().await?;
        let address = self.address();
        let mut kms = self.dial(&address, connect_limit).await?;
        let _connected = self.calls.connected();

        let _place = self.open.acquire().await.map_err(|_| gone())?;
        let (action, row_arn) = match &request.what {
            Some(What::Row(row)) => (Action::Decrypt, Some(row.kms_key_arn.clone())),
            Some(What::Generate(_)) | None => (Action::GenerateDataKey, None),
        };
        let begun = client.unlock_begin(request).await?.into_inner();
        let wanted = check_begun(&begun)?;
        if self.kms.address.is_none() && format!("{}:443", wanted.host) != address {
            kms = self.dial(&format!("{}:443", wanted.host), connect_limit).await?;
        }
        let mut signed = self.authorizer.authorize(
            &credentials,
            action,
            row_arn.as_deref(),
            wanted,
            SystemTime::now(),
        )?;
        signed.unlock_id = begun.unlock_id.clone();
        let unlock_id = begun.unlock_id.as_ref().try_into().map_err(|_| {
            ExchangeError::new(KmsErrorClass::Enclave, "the unlock id is not 16 bytes long")
        })?;
        crate::failpoint::hit("unlock.begun");
        let tunnel = tunnel::open(boot, unlock_id).await?;
        let attempt = Duration::from_millis(self.limits.load().attempt_timeout_ms);
        let log = self.audit.as_ref();
        let audit = Audit { subject, action, begun: &begun, log, is_due: true };
        let call = self.calls.begin();
        let asked = exchange(&mut client, signed);
        let result = while_copying(asked, tunnel, kms, attempt).await;
        call.end(result.is_ok());
        audit.end(result.as_ref().err());
        if matches!(&result, Err(error) if error.credentials_refused) {
            self.authorizer.forget_credentials().await;
        }
        result
    }

    /// A connection that fails counts as a request that did.
    async fn dial(&self, address: &str, limit: Duration) -> Result<TcpStream, ExchangeError> {
        let call = self.calls.begin();
        let kms = tunnel::dial(address, limit).await?;
        call.forget();
        Ok(kms)
    }

    fn address(&self) -> String {
        let pinned = || format!("kms.{}.amazonaws.com:443", self.kms.region);
        self.kms.address.clone().unwrap_or_else(pinned)
    }
}

fn check_begun(
    begun: &UnlockBeginReply,
) -> Result<&sigil_enclave_protocol::v1::KmsRequest, ExchangeError> {
    if begun.error != i32::from(ErrorCode::Ok) {
        return Err(ExchangeError::from_enclave(begun.error, None));
    }
    begun.request.as_ref().ok_or_else(|| {
        ExchangeError::new(KmsErrorClass::Enclave, "the enclave begins without a request")
    })
}

// === impl Audit ===

impl Audit<'_> {
    fn end(mut self, error: Option<&ExchangeError>) {
        self.is_due = false;
        self.write(error);
    }

    fn write(&self, error: Option<&ExchangeError>) {
        let kms_key_arn =
            self.begun.request.as_ref().map_or("", |request| request.kms_key_arn.as_str());
        if let Some(log) = self.log {
            log.unlock(&UnlockCall {
                kms_key_arn,
                kms_op: self.action.as_str(),
                attestation_hash: &const_hex::encode(&self.begun.attestation_hash),
                dek_id: &const_hex::encode(&self.begun.dek_id),
                keyspace: self.subject.keyspace,
                signing_key_id: self.subject.key_id.as_deref(),
                unlock_request_id: self.subject.unlock_request_id,
                result: error.map_or("ok", |error| error.class.as_str()),
            });
        }
        tracing::info!(
            target: "sigil_dataplane::audit",
            keyID = kms_key_arn,
            kms_op = self.action.as_str(),
            attestation_hash = const_hex::encode(&self.begun.attestation_hash),
            dek_id = const_hex::encode(&self.begun.dek_id),
            keyspace = self.subject.keyspace,
            signing_key_id = self.subject.key_id,
            unlock_request_id = self.subject.unlock_request_id,
            result = error.map_or("ok", |error| error.class.as_str()),
            detail = error.map(|error| error.detail.as_str()),
            "unlock_audit"
        );
    }
}

impl Drop for Audit<'_> {
    fn drop(&mut self) {
        if self.is_due {
            let detail = "cut before its end; KMS may have answered";
            self.write(Some(&ExchangeError::new(KmsErrorClass::Timeout, detail)));
        }
    }
}

async fn exchange(
    client: &mut Client,
    signed: sigil_enclave_protocol::v1::UnlockAuthorizeRequest,
) -> Result<UnlockAuthorizeReply, ExchangeError> {
    let reply = client.unlock_authorize(signed).await?.into_inner();
    if reply.error == i32::from(ErrorCode::Ok) {
        Ok(reply)
    } else {
        Err(ExchangeError::from_enclave(reply.error, Some(&reply)))
    }
}

/// The tunnel lives as long as the call that needs it, and both are one future: whoever drops it, or
/// whichever limit cuts it, closes both ends.
async fn while_copying<T>(
    call: impl Future<Output = Result<T, ExchangeError>>,
    enclave: impl AsyncRead + AsyncWrite,
    kms: impl AsyncRead + AsyncWrite,
    limit: Duration,
) -> Result<T, ExchangeError> {
    // Boxed: with its buffers it would be a large part of every future above it.
    let both = Box::pin(async {
        tokio::pin!(call);
        tokio::select! {
            result = &mut call => return result,
            // A tunnel that ended early says nothing; the enclave knows why, and answers.
            _ = tunnel::copy(enclave, kms) => {}
        }
        call.await
    });
    let late = |_| ExchangeError::new(KmsErrorClass::Timeout, format!("KMS took over {limit:?}"));
    timeout(limit, both).await.map_err(late)?
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::io::AsyncReadExt;

    use super::*;

    #[test]
    fn every_failure_of_an_exchange_has_a_class() {
        let table = [
            (ErrorCode::KmsDenied, KmsErrorClass::Denied, false),
            (ErrorCode::KmsThrottled, KmsErrorClass::Throttled, true),
            (ErrorCode::KmsTimeout, KmsErrorClass::Timeout, true),
            (ErrorCode::KmsError, KmsErrorClass::KmsError, true),
            (ErrorCode::KmsUnreachable, KmsErrorClass::KmsError, true),
            (ErrorCode::TunnelMissing, KmsErrorClass::KmsError, true),
            (ErrorCode::KmsAnswerRefused, KmsErrorClass::Attestation, false),
            (ErrorCode::DekMismatch, KmsErrorClass::Attestation, false),
            (ErrorCode::AttestationFailed, KmsErrorClass::Attestation, false),
            (ErrorCode::UnlockUnknown, KmsErrorClass::Enclave, false),
            (ErrorCode::Overloaded, KmsErrorClass::Enclave, false),
        ];
        for (code, class, about_kms) in table {
            let error = ExchangeError::from_enclave(code.into(), None);
            assert_eq!((error.class, error.is_about_kms()), (class, about_kms), "{code:?}");
        }
    }

    #[test]
    fn credentials_are_forgotten_when_kms_refuses_them_and_not_for_a_bad_row() {
        let refused = |code: ErrorCode, aws_error_code: &str| {
            let reply = UnlockAuthorizeReply {
                aws_error_code: aws_error_code.to_owned(),
                ..UnlockAuthorizeReply::default()
            };
            ExchangeError::from_enclave(code.into(), Some(&reply)).credentials_refused
        };
        assert!(refused(ErrorCode::KmsError, "ExpiredTokenException"));
        assert!(refused(ErrorCode::KmsDenied, "UnrecognizedClientException"));
        assert!(refused(ErrorCode::KmsDenied, "InvalidSignatureException"));
        for of_the_row in ["AccessDeniedException", "InvalidCiphertextException", "Other", ""] {
            assert!(!refused(ErrorCode::KmsDenied, of_the_row), "{of_the_row}");
        }
    }

    /// What a subscriber wrote.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What `run_unlimited` does from the audit on, against a KMS that says nothing.
    async fn silent_call(enclave: tokio::io::DuplexStream, kms: tokio::io::DuplexStream) {
        let subject = AuditSubject { unlock_request_id: "r-1", keyspace: "default", key_id: None };
        let begun = UnlockBeginReply::default();
        let audit = Audit {
            subject: &subject,
            action: Action::Decrypt,
            begun: &begun,
            log: None,
            is_due: true,
        };
        let call = std::future::pending::<Result<(), ExchangeError>>();
        let result = while_copying(call, enclave, kms, Duration::from_millis(500)).await;
        audit.end(result.as_ref().err());
    }

    #[tokio::test(start_paused = true)]
    async fn whichever_limit_cuts_a_call_its_sockets_close_and_its_audit_is_written_once() {
        for (limit_ms, detail) in [(100, "cut before its end"), (1_000, "KMS took over 500ms")] {
            let lines = Lines::default();
            let sink = lines.clone();
            let subscriber = tracing_subscriber::fmt().with_writer(move || sink.clone()).finish();
            let listening = tracing::subscriber::set_default(subscriber);
            let (enclave, mut enclave_far) = tokio::io::duplex(64);
            let (kms, mut kms_far) = tokio::io::duplex(64);
            let limit = Duration::from_millis(limit_ms);
            let cut = timeout(limit, silent_call(enclave, kms)).await;
            assert_eq!(cut.is_err(), limit_ms == 100);
            for far in [&mut enclave_far, &mut kms_far] {
                let end = timeout(Duration::from_secs(1), far.read(&mut [0; 1])).await;
                assert_eq!(end.expect("the socket is kept").unwrap(), 0);
            }
            drop(listening);
            let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
            assert_eq!(text.matches("unlock_audit").count(), 1, "{text}");
            assert!(text.contains("timeout") && text.contains(detail), "{text}");
        }
    }
}
