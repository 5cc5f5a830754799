//! The enclave's half against an honest KMS and against each lie.

use std::time::Instant;

use devkms::{FaultMode, KNOWN_DEK};
use sigil_enclave::kms_exchange::{
    ATTEMPT_TIME_MAX, AnswerClass, EXCHANGE_TIME_MAX, ExchangeError, OpenedDek,
};
use tokio::net::TcpListener;

use crate::support::{Bench, Failure, context, unix_s};

async fn wrapped(bench: &Bench) -> Vec<u8> {
    bench.generate().await.unwrap().wrapped.unwrap()
}

#[tokio::test]
async fn a_dek_is_generated_and_unwrapped() {
    let bench = Bench::start();
    let OpenedDek { dek, wrapped } = bench.generate().await.unwrap();
    let again = bench.decrypt(&wrapped.unwrap()).await.unwrap();
    assert_eq!(again.dek.expose_secret(), dek.expose_secret());
    assert_eq!(again.wrapped, None);
    let other = bench.generate().await.unwrap();
    assert_ne!(other.dek.expose_secret(), dek.expose_secret());
    let counters = bench.kms.counters();
    assert_eq!(counters.get("GenerateDataKey", "ok"), 2);
    assert_eq!(counters.get("Decrypt", "ok"), 1);
    assert_eq!(counters.total(), 3);
}

/// A lie about the answer's content: it is refused with this reason, for both operations, and the
/// next honest answer is good.
async fn assert_refused(fault: FaultMode, reason: &str) {
    let bench = Bench::start();
    let wrapped = wrapped(&bench).await;
    bench.kms.set_fault(fault).unwrap();
    for opened in [bench.generate().await, bench.decrypt(&wrapped).await] {
        let error = opened.unwrap_err().answer();
        assert_eq!((error.class, error.reason), (AnswerClass::Refused, reason), "{fault}");
    }
    bench.honest_again();
    bench.decrypt(&wrapped).await.unwrap();
}

#[tokio::test]
async fn a_leaked_plaintext_is_refused() {
    assert_refused(FaultMode::PlaintextLeak, "Plaintext is present").await;
    assert_refused(FaultMode::PlaintextOnly, "Plaintext is present").await;
}

#[tokio::test]
async fn another_key_is_refused() {
    assert_refused(FaultMode::WrongKeyArn, "KeyId is not the pinned key").await;
}

#[tokio::test]
async fn envelopes_of_another_shape_are_refused() {
    assert_refused(FaultMode::TwoRecipients, "CiphertextForRecipient is malformed").await;
    assert_refused(FaultMode::Truncated, "CiphertextForRecipient is malformed").await;
    assert_refused(FaultMode::WrongSki, "CiphertextForRecipient is for another key").await;
}

#[tokio::test]
async fn bodies_that_are_not_one_json_object_are_refused() {
    assert_refused(FaultMode::BadJson, "not a JSON object with each member once").await;
    assert_refused(FaultMode::DuplicateJsonKey, "not a JSON object with each member once").await;
}

/// A forged envelope opens: nothing in it says who made it. What protects is TLS, and after it the
/// birth document.
#[tokio::test]
async fn a_forged_envelope_cannot_be_told_from_its_content() {
    let bench = Bench::start();
    let honest = bench.generate().await.unwrap();
    bench.kms.set_fault(FaultMode::ForgedEnvelope).unwrap();
    let forged = bench.decrypt(&honest.wrapped.unwrap()).await.unwrap();
    assert_eq!(forged.dek.expose_secret(), &KNOWN_DEK);
    bench.kms.set_fault(FaultMode::KnownDek).unwrap();
    let known = bench.generate().await.unwrap();
    assert_eq!(known.dek.expose_secret(), &KNOWN_DEK);
    bench.honest_again();
    let known = bench.decrypt(&known.wrapped.unwrap()).await.unwrap();
    assert_eq!(known.dek.expose_secret(), &KNOWN_DEK);
    let key_arn = &bench.kms.key_arn;
    let blob = bench.kms.encrypt_as_attacker(key_arn, &context(), &[9; 32]).unwrap();
    assert_eq!(bench.decrypt(&blob).await.unwrap().dek.expose_secret(), &[9; 32]);
}

#[tokio::test]
async fn a_dek_of_another_length_is_refused() {
    let bench = Bench::start();
    for length in [0, 16, 31, 33, 47] {
        let plaintext = vec![9; length];
        let key_arn = &bench.kms.key_arn;
        let blob = bench.kms.encrypt_as_attacker(key_arn, &context(), &plaintext).unwrap();
        let error = bench.decrypt(&blob).await.unwrap_err().answer();
        assert_eq!(error.reason, "CiphertextForRecipient does not open", "{length}");
    }
}

#[tokio::test]
async fn errors_are_told_apart() {
    let bench = Bench::start();
    for (fault, status, class, code) in [
        (FaultMode::Throttle, 400, AnswerClass::Throttled, "ThrottlingException"),
        (FaultMode::Http500, 500, AnswerClass::Error, "KMSInternalException"),
        (FaultMode::Deny, 400, AnswerClass::Denied, "AccessDeniedException"),
    ] {
        bench.kms.set_fault(fault).unwrap();
        let error = bench.generate().await.unwrap_err().answer();
        assert_eq!((error.http_status, error.class, error.aws_error_code), (status, class, code));
        assert_eq!(bench.kms.counters().get("GenerateDataKey", code), 1);
    }
    bench.honest_again();
    bench.generate().await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_not_the_pinned_one_learns_nothing() {
    let bench = Bench::start();
    for fault in [
        FaultMode::ExpiredCertificate,
        FaultMode::WrongName,
        FaultMode::OtherRoot,
        FaultMode::CloseInHandshake,
    ] {
        bench.kms.set_fault(fault).unwrap();
        let error = bench.generate().await.unwrap_err();
        assert_eq!(error, Failure::Exchange(ExchangeError::Tls), "{fault}");
    }
    assert_eq!(bench.kms.counters().total(), 0, "no request left the enclave");
    bench.honest_again();
    bench.generate().await.unwrap();
}

/// The certificate is checked at the time that the caller gives, not at the machine's.
#[tokio::test]
async fn certificates_are_checked_at_the_given_time() {
    let bench = Bench::start();
    let operation = sigil_enclave::kms_exchange::Operation::GenerateDataKey;
    for (now_unix_s, good) in [(unix_s(), true), (1_500_000_000, false), (2_600_000_000, false)] {
        let opened = bench.exchange_at(&operation, now_unix_s, bench.kms.addr).await;
        assert_eq!(opened.is_ok(), good, "{now_unix_s}");
    }
    bench.kms.set_fault(FaultMode::ExpiredCertificate).unwrap();
    let in_2019 = 1_560_000_000;
    bench.exchange_at(&operation, in_2019, bench.kms.addr).await.unwrap();
}

#[tokio::test]
async fn connections_that_break_or_flood_give_no_answer() {
    let bench = Bench::start();
    for (fault, expected) in [
        (FaultMode::CutAnswer, ExchangeError::Http),
        (FaultMode::HugeAnswer, ExchangeError::TooLong),
    ] {
        bench.kms.set_fault(fault).unwrap();
        assert_eq!(bench.generate().await.unwrap_err(), Failure::Exchange(expected), "{fault}");
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = closed.local_addr().unwrap();
    let accept = tokio::spawn(async move { drop(closed.accept().await) });
    let operation = sigil_enclave::kms_exchange::Operation::GenerateDataKey;
    let opened = bench.exchange_at(&operation, unix_s(), addr).await;
    assert_eq!(opened.unwrap_err(), Failure::Exchange(ExchangeError::Tls));
    accept.await.unwrap();
}

#[tokio::test]
async fn waiting_has_limits() {
    let bench = Bench::start();
    for (fault, limit) in
        [(FaultMode::Hang, ATTEMPT_TIME_MAX), (FaultMode::StallAnswer, EXCHANGE_TIME_MAX)]
    {
        bench.kms.set_fault(fault).unwrap();
        let start = Instant::now();
        let error = bench.generate().await.unwrap_err();
        assert_eq!(error, Failure::Exchange(ExchangeError::Timeout), "{fault}");
        assert!(start.elapsed() >= limit, "{fault}");
    }
    bench.kms.set_fault(FaultMode::Slow).unwrap();
    bench.generate().await.unwrap();
    assert_eq!(bench.kms.counters().get("GenerateDataKey", "hang"), 1);
}
