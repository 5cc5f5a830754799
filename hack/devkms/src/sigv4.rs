//! Signature Version 4 of a request, verified: AWS General Reference, "Signing AWS API requests".

mod date;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use http::request::Parts;
use http::{HeaderMap, HeaderName};

use crate::REGION;
use crate::error::ApiError;
use crate::store::Credential;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const SERVICE: &str = "kms";
/// Headers that every signature must cover; those of [`is_signed_if_present`] come on top.
const SIGNED_ALWAYS: [&str; 3] = ["host", "x-amz-date", "x-amz-target"];
/// How far the signer's clock may be off.
const SKEW_S_MAX: u64 = 5 * 60;

/// What the `authorization` header says.
struct Authorization<'a> {
    access_key: &'a str,
    date: &'a str,
    region: &'a str,
    service: &'a str,
    signed_headers: Vec<&'a str>,
    signature: &'a str,
}

/// Finds who signed this request, or says what is wrong as AWS does.
pub(crate) fn verify<'a>(
    head: &Parts,
    body: &[u8],
    now_unix_s: u64,
    credentials: &'a [Credential],
) -> Result<&'a Credential, ApiError> {
    let Some(text) = text_of(&head.headers, "authorization") else {
        let message = "Missing Authentication Token";
        return Err(ApiError::new("MissingAuthenticationTokenException", message));
    };
    let claim = Authorization::parse(text).ok_or_else(|| incomplete("authorization"))?;
    let amz_date = text_of(&head.headers, "x-amz-date");
    let amz_date = amz_date.ok_or_else(|| incomplete("x-amz-date"))?;
    let present = head.headers.keys().map(HeaderName::as_str);
    for name in SIGNED_ALWAYS.into_iter().chain(present.filter(|name| is_signed_if_present(name))) {
        if !claim.signed_headers.contains(&name) {
            return Err(incomplete(name));
        }
    }
    let Some(credential) = credentials.iter().find(|one| one.access_key == claim.access_key) else {
        return Err(unrecognized());
    };
    let token = head.headers.get("x-amz-security-token").map_or("", |v| v.to_str().unwrap_or("?"));
    if token != credential.session_token {
        return Err(unrecognized());
    }
    check_scope(&claim, amz_date)?;
    check_date(amz_date, now_unix_s)?;
    let canonical = canonical_request(head, &claim.signed_headers, body);
    let canonical = canonical.ok_or_else(|| incomplete("SignedHeaders"))?;
    let scope = format!("{}/{}/{}/aws4_request", claim.date, claim.region, claim.service);
    let expected = signature(&credential.secret, &scope, amz_date, &canonical);
    verify_slices_are_equal(expected.as_bytes(), claim.signature.as_bytes()).map_err(|_| {
        ApiError::new(
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided. \
             Check your AWS Secret Access Key and signing method. Consult the service \
             documentation for details.",
        )
    })?;
    Ok(credential)
}

/// As AWS asks: "Create a signed AWS API request", canonical headers.
fn is_signed_if_present(name: &str) -> bool {
    name == "content-type" || name.starts_with("x-amz-")
}

fn check_scope(claim: &Authorization<'_>, amz_date: &str) -> Result<(), ApiError> {
    let wrong = |what: &str| {
        let message = format!("Credential should be scoped to {what}.");
        Err(ApiError::new("InvalidSignatureException", message))
    };
    if claim.region != REGION {
        return wrong(&format!("a valid region, not '{}'", claim.region));
    }
    if claim.service != SERVICE {
        return wrong("correct service: 'kms'");
    }
    // `YYYYMMDD` of `YYYYMMDDTHHMMSSZ`, not less of it.
    if amz_date.split_once('T').is_none_or(|(date, _)| date != claim.date) {
        return wrong("the date of x-amz-date");
    }
    Ok(())
}

fn check_date(amz_date: &str, now_unix_s: u64) -> Result<(), ApiError> {
    let signed_s = date::unix_s(amz_date).ok_or_else(|| incomplete("x-amz-date"))?;
    let what = if signed_s.saturating_add(SKEW_S_MAX) < now_unix_s {
        "Signature expired"
    } else if signed_s > now_unix_s.saturating_add(SKEW_S_MAX) {
        "Signature not yet current"
    } else {
        return Ok(());
    };
    let message = format!("{what}: {amz_date} is more than 5 min. from this server's time");
    Err(ApiError::new("InvalidSignatureException", message))
}

impl<'a> Authorization<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let fields = text.strip_prefix(ALGORITHM)?.strip_prefix(' ')?;
        let (mut credential, mut signed_headers, mut signature) = (None, None, None);
        for field in fields.split(',') {
            let (name, value) = field.trim().split_once('=')?;
            let place = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut signed_headers,
                "Signature" => &mut signature,
                _ => return None,
            };
            if place.replace(value).is_some() {
                return None;
            }
        }
        let mut scope = credential?.split('/');
        let claim = Self {
            access_key: scope.next()?,
            date: scope.next()?,
            region: scope.next()?,
            service: scope.next()?,
            signed_headers: signed_headers?.split(';').collect(),
            signature: signature?,
        };
        (scope.next() == Some("aws4_request") && scope.next().is_none()).then_some(claim)
    }
}

/// The canonical request, or nothing if a signed header is absent or the list is not sorted.
/// The query must be empty or already canonical; KMS uses none.
fn canonical_request(head: &Parts, signed_headers: &[&str], body: &[u8]) -> Option<String> {
    if !signed_headers.is_sorted() {
        return None;
    }
    let mut headers = String::new();
    for name in signed_headers {
        let mut values = head.headers.get_all(*name).iter().peekable();
        values.peek()?;
        let values: Option<Vec<_>> = values.map(|value| Some(trim(value.to_str().ok()?))).collect();
        headers.extend([name, ":", &values?.join(","), "\n"]);
    }
    let (method, uri) = (&head.method, &head.uri);
    let query = uri.query().unwrap_or("");
    let signed_headers = signed_headers.join(";");
    let payload = hex_sha256(body);
    Some(format!("{method}\n{}\n{query}\n{headers}\n{signed_headers}\n{payload}", uri.path()))
}

/// Without spaces at the ends, and with single ones inside.
fn trim(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn signature(secret: &str, scope: &str, amz_date: &str, canonical: &str) -> String {
    let sign = |key: &[u8], text: &str| {
        hmac::sign(&hmac::Key::new(HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
    };
    let first = format!("AWS4{secret}").into_bytes();
    let key = scope.split('/').fold(first, |key, part| sign(&key, part));
    let hash = hex_sha256(canonical.as_bytes());
    const_hex::encode(sign(&key, &format!("{ALGORITHM}\n{amz_date}\n{scope}\n{hash}")))
}

fn hex_sha256(bytes: &[u8]) -> String {
    const_hex::encode(digest(&SHA256, bytes).as_ref())
}

fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn incomplete(what: &str) -> ApiError {
    let message =
        format!("Authorization header requires '{what}', present, signed and well formed.");
    ApiError::new("IncompleteSignatureException", message)
}

fn unrecognized() -> ApiError {
    let message = "The security token included in the request is invalid.";
    ApiError::new("UnrecognizedClientException", message)
}

#[cfg(test)]
mod tests;
