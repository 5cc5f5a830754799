//! Tokens of service accounts and the keys that they are verified with. The first byte chooses: a token
//! as it came, a set of keys, or claims that the harness signs, so that the fuzzer gets behind the
//! signature.

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use sigil_dataplane::auth::{Expected, KeySet, verify};

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "token",
    input_bytes_max: 10 * 1024,
    memory_bytes_max: 256 * 1024,
    check,
    seeds: || {
        let inputs = [(0, token(CLAIMS)), (1, JWKS.clone()), (2, CLAIMS.to_owned())];
        inputs.map(|(kind, text)| [&[kind], text.as_bytes()].concat()).into()
    },
};

const NOW_S: u64 = 1_800_000_000;
const ISSUER: &str = "https://cluster.example";
const AUDIENCE: &str = "sigil:payments/signer";
const HEADER: &str = r#"{"alg":"ES256","kid":"k"}"#;
const CLAIMS: &str = r#"{"iss":"https://cluster.example","aud":["sigil:payments/signer"],"sub":"system:serviceaccount:shop:web","exp":1800003600,"nbf":1800000000,"iat":1800000000,"kubernetes.io":{"namespace":"shop","serviceaccount":{"name":"web","uid":"u"},"pod":{"name":"web-0","uid":"p"},"node":{"name":"n"}}}"#;

static KEY: LazyLock<EcdsaKeyPair> =
    LazyLock::new(|| EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key"));

static JWKS: LazyLock<String> = LazyLock::new(|| {
    let (x, y) = KEY.public_key().as_ref()[1..].split_at(32);
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    format!(r#"{{"keys":[{{"kty":"EC","crv":"P-256","kid":"k","x":"{x}","y":"{y}"}}]}}"#)
});

static KEYS: LazyLock<KeySet> =
    LazyLock::new(|| KeySet::parse(JWKS.as_bytes()).expect("a set of keys"));

static EXPECTED: LazyLock<Expected> = LazyLock::new(|| Expected {
    issuer: ISSUER.to_owned(),
    audience: AUDIENCE.to_owned(),
    leeway_s: 30,
});

fn token(claims: impl AsRef<[u8]>) -> String {
    let (header, claims) = (URL_SAFE_NO_PAD.encode(HEADER), URL_SAFE_NO_PAD.encode(claims));
    let signed = format!("{header}.{claims}");
    let signature = KEY.sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn check(input: &[u8]) {
    // Made before what an input costs is counted the first time it matters.
    let (keys, expected) = (&*KEYS, &*EXPECTED);
    let Some((kind, rest)) = input.split_first() else { return };
    match kind % 3 {
        0 => {
            let Ok(text) = std::str::from_utf8(rest) else { return };
            if verify(text, keys, expected, NOW_S).is_ok() {
                assert!(text.starts_with(&URL_SAFE_NO_PAD.encode(HEADER)), "signed by the harness");
            }
        }
        1 => {
            let Ok(set) = KeySet::parse(rest) else { return };
            let mut ids: Vec<_> = set.ids().collect();
            let all = ids.len();
            ids.sort_unstable();
            ids.dedup();
            assert!(all > 0 && ids.len() == all && ids.iter().all(|id| !id.is_empty()));
            assert!(verify(&token(CLAIMS), &set, expected, NOW_S).is_err() || ids.contains(&"k"));
        }
        _ => signed_claims(rest, keys, expected),
    }
}

/// Whatever is taken says what it must when it is read by another reader.
fn signed_claims(claims: &[u8], keys: &KeySet, expected: &Expected) {
    let Ok(taken) = verify(&token(claims), keys, expected, NOW_S) else { return };
    let read: Value = serde_json::from_slice(claims).expect("JSON");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    assert_eq!(read["iss"], ISSUER);
    let audiences = read["aud"].as_array().cloned().unwrap_or_else(|| vec![read["aud"].clone()]);
    assert!(audiences.iter().any(|audience| audience == AUDIENCE));
    assert_eq!(read["exp"].as_u64(), Some(taken.expires_s));
    assert!(taken.expires_s + 30 > NOW_S);
    for time in ["nbf", "iat"] {
        assert!(read[time].as_u64().is_none_or(|time| time <= NOW_S + 30), "{time}");
    }
    let (namespace, account) = (&taken.namespace, &taken.account);
    assert_eq!(read["sub"], format!("system:serviceaccount:{namespace}:{account}"));
    let object = &read["kubernetes.io"];
    assert_eq!(text(&object["namespace"]).as_ref(), Some(namespace));
    assert_eq!(text(&object["serviceaccount"]["name"]).as_ref(), Some(account));
    assert_eq!(text(&object["pod"]["name"]), taken.pod);
    assert!(!taken.subject().contains(['"', '\\', '*', ' ', '\n']));
}
