use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;

use http::Method;

use super::*;

/// 2026-11-21 09:44:13 UTC.
const NOW_UNIX_S: u64 = 1_795_254_253;

fn head(method: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = http::Request::builder().method(method).uri("/");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

/// `get-vanilla`, `get-header-value-trim` and `post-x-www-form-urlencoded` of AWS's SigV4 test suite.
#[test]
fn published_vectors() {
    let host = ("host", "example.amazonaws.com");
    let date = ("x-amz-date", "20150830T123600Z");
    let form = ("content-type", "application/x-www-form-urlencoded");
    let length = ("content-length", "13");
    let payload = (
        "x-amz-content-sha256",
        "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e",
    );
    for (head, body, expected) in [
        (
            head("GET", &[host, date]),
            "",
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        ),
        (
            head("GET", &[host, ("my-header1", " value1"), ("my-header2", " \"a   b   c\""), date]),
            "",
            "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
        ),
        (
            head("POST", &[length, form, host, payload, date]),
            "Param1=value1",
            "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b",
        ),
    ] {
        let names: Vec<_> = head.headers.keys().map(http::HeaderName::as_str).collect();
        let canonical = canonical_request(&head, &names, body.as_bytes()).unwrap();
        let scope = "20150830/us-east-1/service/aws4_request";
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        assert_eq!(signature(secret, scope, date.1, &canonical), expected, "{canonical}");
    }
}

/// A request signed by AWS's own code, as the data plane signs.
fn signed(credential: &Credential, service: &str, region: &str, at_unix_s: u64) -> Parts {
    let token = Some(credential.session_token.clone()).filter(|token| !token.is_empty());
    let (key, secret) = (&credential.access_key, &credential.secret);
    let identity = Credentials::new(key, secret, token, None, "test").into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(service)
        .time(UNIX_EPOCH + Duration::from_secs(at_unix_s))
        .settings(SigningSettings::default())
        .build()
        .unwrap()
        .into();
    let fixed =
        [("host", crate::HOST), ("x-amz-target", "TrentService.Decrypt"), ("content-type", "c")];
    let uri = format!("https://{}/", crate::HOST);
    let body = SignableBody::Bytes(b"body");
    let signable = SignableRequest::new("POST", uri, fixed.into_iter(), body).unwrap();
    let (instructions, _) = sign(signable, &parameters).unwrap().into_parts();
    let added: Vec<_> = instructions.headers().collect();
    head("POST", &[fixed.as_slice(), &added].concat())
}

fn right() -> Vec<Parts> {
    let signed = |credential: &Credential| signed(credential, "kms", "us-east-1", NOW_UNIX_S);
    Credential::known().iter().map(signed).collect()
}

fn refused(head: &Parts) -> &'static str {
    verify(head, b"body", NOW_UNIX_S, &Credential::known()).unwrap_err().code
}

#[test]
fn what_awss_own_code_signs_is_accepted() {
    let known = Credential::known();
    for (head, credential) in right().iter().zip(&known) {
        for now_unix_s in [NOW_UNIX_S - SKEW_S_MAX, NOW_UNIX_S, NOW_UNIX_S + SKEW_S_MAX] {
            let found = verify(head, b"body", now_unix_s, &known).unwrap();
            assert_eq!(found.access_key, credential.access_key);
        }
    }
}

#[test]
fn whatever_is_signed_may_not_change() {
    for head in right() {
        let error = verify(&head, b"Body", NOW_UNIX_S, &Credential::known()).unwrap_err();
        assert_eq!(error.code, "InvalidSignatureException", "body");
        for name in ["host", "x-amz-target", "content-type"] {
            let mut changed = head.clone();
            changed.headers.insert(name, "TrentService.Encrypt".parse().unwrap());
            assert_eq!(refused(&changed), "InvalidSignatureException", "{name}");
            changed.headers.remove(name);
            assert_eq!(refused(&changed), "IncompleteSignatureException", "{name}");
        }
        let mut changed = head.clone();
        changed.method = Method::PUT;
        assert_eq!(refused(&changed), "InvalidSignatureException", "method");
        let mut changed = head.clone();
        changed.headers.insert("x-amz-date", "20261121T094414Z".parse().unwrap());
        assert_eq!(refused(&changed), "InvalidSignatureException", "date");
        let authorization = head.headers["authorization"].to_str().unwrap();
        let last = if authorization.ends_with('0') { "1" } else { "0" };
        let other = format!("{}{last}", &authorization[..authorization.len() - 1]);
        let mut changed = head.clone();
        changed.headers.insert("authorization", other.parse().unwrap());
        assert_eq!(refused(&changed), "InvalidSignatureException", "signature");
    }
}

#[test]
fn clocks_may_be_five_minutes_apart() {
    let head = &right()[0];
    for (now_unix_s, text) in [
        (NOW_UNIX_S + SKEW_S_MAX + 1, "Signature expired"),
        (NOW_UNIX_S - SKEW_S_MAX - 1, "Signature not yet current"),
    ] {
        let error = verify(head, b"body", now_unix_s, &Credential::known()).unwrap_err();
        assert_eq!(error.code, "InvalidSignatureException");
        assert!(error.message.starts_with(text), "{error}");
    }
}

#[test]
fn strangers_are_refused() {
    let [dataplane, session, _] = Credential::known();
    let stranger =
        Credential { access_key: "AKIAANOTHERONE000000".to_owned(), ..dataplane.clone() };
    let wrong_secret = Credential { secret: "another".to_owned(), ..dataplane.clone() };
    let no_token = Credential { session_token: String::new(), ..session.clone() };
    let wrong_token = Credential { session_token: "another".to_owned(), ..session };
    let needless_token = Credential { session_token: "another".to_owned(), ..dataplane.clone() };
    for (credential, code) in [
        (stranger, "UnrecognizedClientException"),
        (wrong_secret, "InvalidSignatureException"),
        (no_token, "UnrecognizedClientException"),
        (wrong_token, "UnrecognizedClientException"),
        (needless_token, "UnrecognizedClientException"),
    ] {
        let head = signed(&credential, "kms", "us-east-1", NOW_UNIX_S);
        assert_eq!(refused(&head), code, "{}", credential.access_key);
    }
    for (service, region) in [("s3", "us-east-1"), ("kms", "eu-west-1")] {
        let head = signed(&dataplane, service, region, NOW_UNIX_S);
        assert_eq!(refused(&head), "InvalidSignatureException", "{service} {region}");
    }
}

/// Signed by ourselves, so that only what is left out is wrong.
fn sign_again(head: &mut Parts, credential: &Credential, signed_headers: &[&str], date: &str) {
    let canonical = canonical_request(head, signed_headers, b"body").unwrap();
    let scope = format!("{date}/us-east-1/kms/aws4_request");
    let amz_date = head.headers["x-amz-date"].to_str().unwrap();
    let signature = signature(&credential.secret, &scope, amz_date, &canonical);
    let text = format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={}, Signature={signature}",
        credential.access_key,
        signed_headers.join(";")
    );
    head.headers.insert("authorization", text.parse().unwrap());
}

#[test]
fn what_aws_wants_signed_must_be_signed() {
    let all = ["content-type", "host", "x-amz-date", "x-amz-security-token", "x-amz-target"];
    let [_, session, _] = Credential::known();
    let mut head = signed(&session, "kms", "us-east-1", NOW_UNIX_S);
    sign_again(&mut head, &session, &all, "20261121");
    verify(&head, b"body", NOW_UNIX_S, &Credential::known()).unwrap();
    for left_out in all {
        let names: Vec<_> = all.into_iter().filter(|name| *name != left_out).collect();
        sign_again(&mut head, &session, &names, "20261121");
        assert_eq!(refused(&head), "IncompleteSignatureException", "{left_out}");
    }
    sign_again(&mut head, &session, &all, "20261121");
    head.headers.insert("x-amz-meta", "unsigned".parse().unwrap());
    assert_eq!(refused(&head), "IncompleteSignatureException", "any header of AWS");
}

#[test]
fn the_scope_has_the_whole_date() {
    let all = ["content-type", "host", "x-amz-date", "x-amz-target"];
    let [dataplane, ..] = Credential::known();
    let mut head = signed(&dataplane, "kms", "us-east-1", NOW_UNIX_S);
    for date in ["2026", "2026112", "20261121T", "20261121T094413Z", "20261122", ""] {
        sign_again(&mut head, &dataplane, &all, date);
        assert_eq!(refused(&head), "InvalidSignatureException", "{date}");
    }
    sign_again(&mut head, &dataplane, &all, "20261121");
    verify(&head, b"body", NOW_UNIX_S, &Credential::known()).unwrap();
}

#[test]
fn headers_that_are_no_signature_are_refused() {
    let mut head = right().remove(0);
    let authorization = head.headers.remove("authorization").unwrap();
    assert_eq!(refused(&head), "MissingAuthenticationTokenException");
    let good = authorization.to_str().unwrap();
    let reversed = good.replace("content-type;host;", "host;content-type;");
    assert_ne!(reversed, good);
    for bad in [
        "",
        "Basic dXNlcg==",
        "AWS4-HMAC-SHA256",
        &good.replace("Signature=", "Sig="),
        &good.replace(", Signature", ", Signature=0, Signature"),
        &good.replace("/aws4_request", ""),
        &good.replace("/aws4_request", "/aws4_request/x"),
        &good.replace("x-amz-target", "x-amz-targets"),
        &good.replace("x-amz-date;", ""),
        &reversed,
    ] {
        head.headers.insert("authorization", bad.parse().unwrap());
        assert_eq!(refused(&head), "IncompleteSignatureException", "{bad}");
    }
}
