//! Service-account tokens: JSON web tokens in their compact form (RFC 7515, RFC 7519) as Kubernetes
//! issues them. Strict and small: two algorithms, and the key, not the token, says which. Pure.

use serde::Deserialize;

use super::keys::{KeySet, decoded};

/// Bytes of a token. Kubernetes' own have about 1,200.
const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Audiences of one token.
const AUDIENCES_MAX: usize = 16;
/// Bytes of a name of an object of Kubernetes.
const NAME_BYTES_MAX: usize = 253;
/// What the subjects of service accounts begin with.
const SUBJECT_PREFIX: &str = "system:serviceaccount:";

/// What a token must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// `iss`, exactly.
    pub issuer: String,
    /// One of `aud`.
    pub audience: String,
    /// By how much the cluster's clock and ours may differ, s.
    pub leeway_s: u64,
}

/// What a token said and its signature covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Namespace of the service account.
    pub namespace: String,
    /// Its name.
    pub account: String,
    /// The pod that the token is bound to, if it is bound to one.
    pub pod: Option<String>,
    /// The node that the pod runs on.
    pub node: Option<String>,
    /// Unix time, s, after which the token counts no more.
    pub expires_s: u64,
}

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not three parts of base64url with JSON in the first two.
    #[error("malformed")]
    Malformed,
    /// `alg` is another than the key's, `none` among others, or `crit` asks for what is not known.
    #[error("algorithm")]
    Algorithm,
    /// No key has its `kid`.
    #[error("unknown_key")]
    UnknownKey,
    /// The signature is not the key's.
    #[error("signature")]
    Signature,
    /// `iss` is another.
    #[error("issuer")]
    Issuer,
    /// `aud` does not name this pool.
    #[error("audience")]
    Audience,
    /// `exp` has passed.
    #[error("expired")]
    Expired,
    /// `nbf` or `iat` lies ahead.
    #[error("not_yet_valid")]
    NotYetValid,
    /// The subject is no service account, or the claims name two.
    #[error("subject")]
    Subject,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
    #[serde(default)]
    crit: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Payload {
    iss: String,
    sub: String,
    aud: Audience,
    exp: u64,
    #[serde(default)]
    nbf: Option<u64>,
    #[serde(default)]
    iat: Option<u64>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

/// One text or a list (RFC 7519, 4.1.3).
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
struct Kubernetes {
    namespace: String,
    serviceaccount: Object,
    #[serde(default)]
    pod: Option<Object>,
    #[serde(default)]
    node: Option<Object>,
}

#[derive(Deserialize)]
struct Object {
    name: String,
}

/// Verifies `token` at Unix time `now_s`.
///
/// # Errors
/// Any part of it is not as it must be. What costs most, the signature, is looked at last.
pub fn verify(
    token: &str,
    keys: &KeySet,
    expected: &Expected,
    now_s: u64,
) -> Result<Claims, TokenError> {
    use TokenError as E;
    if token.len() > TOKEN_BYTES_MAX {
        return Err(E::Malformed);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(E::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(E::Malformed)?;
    let header: Header = json(header)?;
    let key = keys.get(&header.kid).ok_or(E::UnknownKey)?;
    if header.alg != key.algorithm() || header.crit.is_some() {
        return Err(E::Algorithm);
    }
    let payload: Payload = json(payload)?;
    payload.check(expected, now_s)?;
    let signature = decoded(signature).ok_or(E::Malformed)?;
    if !key.verifies(signed.as_bytes(), &signature) {
        return Err(E::Signature);
    }
    payload.claims()
}

fn json<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, TokenError> {
    let bytes = decoded(part).ok_or(TokenError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed)
}

// === impl Payload ===

impl Payload {
    fn check(&self, expected: &Expected, now_s: u64) -> Result<(), TokenError> {
        if self.iss != expected.issuer {
            return Err(TokenError::Issuer);
        }
        if !self.aud.names(&expected.audience) {
            return Err(TokenError::Audience);
        }
        if now_s >= self.exp.saturating_add(expected.leeway_s) {
            return Err(TokenError::Expired);
        }
        let latest = now_s.saturating_add(expected.leeway_s);
        let ahead = |time: Option<u64>| time.is_some_and(|time| time > latest);
        if ahead(self.nbf) || ahead(self.iat) {
            return Err(TokenError::NotYetValid);
        }
        Ok(())
    }

    fn claims(self) -> Result<Claims, TokenError> {
        let Kubernetes { namespace, serviceaccount, pod, node } = self.kubernetes;
        let account = serviceaccount.name;
        let parts = self.sub.strip_prefix(SUBJECT_PREFIX).and_then(|rest| rest.split_once(':'));
        let (pod, node) = (pod.map(|pod| pod.name), node.map(|node| node.name));
        let names = [Some(&namespace), Some(&account), pod.as_ref(), node.as_ref()];
        let plain = names.into_iter().flatten().all(|name| is_name(name));
        if parts != Some((&*namespace, &*account)) || !plain {
            return Err(TokenError::Subject);
        }
        Ok(Claims { namespace, account, pod, node, expires_s: self.exp })
    }
}

/// Letters, digits, `-` and `.`, as objects of Kubernetes are named.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.'
    };
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(plain)
}

// === impl Audience ===

impl Audience {
    fn names(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Several(all) => all.len() <= AUDIENCES_MAX && all.iter().any(|it| it == audience),
        }
    }
}

// === impl Claims ===

impl Claims {
    /// As rules name it: `serviceAccount:NAMESPACE/NAME`.
    pub fn subject(&self) -> String {
        format!("serviceAccount:{}/{}", self.namespace, self.account)
    }
}

// === impl TokenError ===

impl TokenError {
    /// The metric's label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Subject => "subject",
        }
    }

    /// What the caller is told. It learns nothing about keys.
    pub(crate) fn public(self) -> &'static str {
        match self {
            Self::Malformed => "the token is no JSON web token of a service account",
            Self::Algorithm | Self::UnknownKey | Self::Signature => {
                "the token is not signed by this cluster"
            }
            Self::Issuer => "the token is of another issuer",
            Self::Audience => {
                "the token is for another audience; ask for one with this pool's, \
                 sigil:NAMESPACE/POOL"
            }
            Self::Expired => "the token has expired; read it again, the kubelet renews it",
            Self::NotYetValid => "the token is not valid yet; the clocks differ",
            Self::Subject => "the token is not one of a service account",
        }
    }
}
