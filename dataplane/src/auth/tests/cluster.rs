//! A cluster that issues tokens, for tests.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

pub(crate) const ISSUER: &str = "https://cluster.example";
pub(crate) const AUDIENCE: &str = "sigil:payments/signer";

/// A cluster's signing keys.
pub(crate) struct Cluster {
    es256: EcdsaKeyPair,
    rs256: RsaKeyPair,
}

pub(crate) fn text(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self {
            es256: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            rs256: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
        }
    }

    /// As `/openid/v1/jwks` has it, with keys beside them that are for something else.
    pub(crate) fn jwks(&self) -> String {
        let point = self.es256.public_key().as_ref();
        // RFC 8017, A.1.1: 4 bytes of a sequence, 4 and a zero before the modulus of 256, 2 before e.
        let rsa = self.rs256.public_key().as_ref();
        json!({"keys": [
            {"kty": "EC", "use": "sig", "kid": "ec-1", "crv": "P-256", "alg": "ES256",
                "x": text(&point[1..33]), "y": text(&point[33..])},
            {"kty": "RSA", "use": "sig", "kid": "rsa-1", "alg": "RS256",
                "n": text(&rsa[9..265]),
                "e": text(&rsa[267..])},
            {"kty": "oct", "kid": "hmac", "k": text("secret")},
            {"kty": "RSA", "use": "enc", "kid": "enc", "n": "AQAB", "e": "AQAB"},
            {"kty": "EC", "kid": "p384", "crv": "P-384", "alg": "ES384", "x": "AA", "y": "AA"},
        ]})
        .to_string()
    }

    /// A token with this header and payload, signed by the key that `kid` names.
    pub(crate) fn token(&self, header: &Value, payload: &Value) -> String {
        let signed = format!("{}.{}", text(header.to_string()), text(payload.to_string()));
        let random = SystemRandom::new();
        let signature = if header["kid"] == "rsa-1" {
            let mut signature = vec![0; self.rs256.public_modulus_len()];
            let message = signed.as_bytes();
            self.rs256.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
            signature
        } else {
            self.es256.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec()
        };
        format!("{signed}.{}", text(signature))
    }

    /// One that is good for an hour from `now_s`.
    pub(crate) fn good(&self, account: &str, now_s: u64) -> String {
        self.token(&es256(), &payload(account, now_s))
    }
}

pub(crate) fn es256() -> Value {
    json!({"alg": "ES256", "kid": "ec-1"})
}

pub(crate) fn payload(account: &str, now_s: u64) -> Value {
    json!({
        "iss": ISSUER, "aud": [AUDIENCE],
        "sub": format!("system:serviceaccount:shop:{account}"),
        "exp": now_s + 3_600, "nbf": now_s, "iat": now_s, "jti": "x",
        "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": account, "uid": "u"},
            "pod": {"name": "checkout-0", "uid": "p"}, "node": {"name": "node-1", "uid": "n"}},
    })
}
