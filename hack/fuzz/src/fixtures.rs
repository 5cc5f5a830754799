//! What the targets know: keys, documents and the test chain, made once a process.

use std::convert::Infallible;
use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::PrivateDecryptingKey;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use minicbor::Encoder;
use sigil_enclave::kms_exchange::RecipientKey;
use sigil_enclave_image::pins::{Ceilings, KeyspaceRule, Pins, VerifyMode};
use sigil_verifier::{Document, TrustRoot};

/// Root, intermediate, leaf: `testdata/make-chain`.
pub(crate) const ROOT: &[u8] = include_bytes!("../../../enclave/insecure/testdata/root.der");
pub(crate) const INTERMEDIATE: &[u8] = include_bytes!("../testdata/intermediate.der");
pub(crate) const LEAF: &[u8] = include_bytes!("../testdata/leaf.der");
const LEAF_KEY: &[u8] = include_bytes!("../testdata/leaf.key.der");
/// When the leaf is valid, milliseconds since 1970.
pub(crate) const LEAF_VALID_MS: std::ops::RangeInclusive<u64> =
    1_795_267_103_000..=4_905_667_103_999;
/// A time at which everything in the test chain is valid.
pub(crate) const DOCUMENT_MS: u64 = 1_800_000_000_000;

/// Documents that AWS' modules signed.
pub(crate) const DOCUMENTS: [&[u8]; 3] = [
    include_bytes!(
        "../../../enclave/attestation/testdata/01-turnkey-rust-sdk-provisioning-2026-06.cose"
    ),
    include_bytes!("../../../enclave/attestation/testdata/04-anjuna-full-debug-2024-01.cose"),
    include_bytes!(
        "../../../enclave/attestation/testdata/06-evervault-prod-pcr8-nonce256-2022-10.cose"
    ),
];
/// What QEMU's module makes.
pub(crate) const QEMU_DOCUMENT: &[u8] =
    include_bytes!("../../../enclave/attestation/testdata/qemu-unsigned.cbor");

/// Envelopes that KMS made; the last one is for [`RECIPIENT`].
pub(crate) const ENVELOPES: [&[u8]; 3] = [
    include_bytes!("../../../enclave/testdata/cms/01-aws-sdk-c-chunked.ber"),
    include_bytes!("../../../enclave/testdata/cms/02-aws-sdk-c-primitive.ber"),
    include_bytes!("../../../enclave/testdata/cms/03-edgebit-enclaver-go.ber"),
];
/// RSA-2048, PKCS#1: published with the last envelope.
const RECIPIENT_KEY: &[u8] = include_bytes!("../../../enclave/testdata/cms/03.testkey.pkcs1.der");

/// The recipient of the last envelope.
pub(crate) static RECIPIENT: LazyLock<RecipientKey> = LazyLock::new(|| {
    // PKCS#8 (RFC 5208): version 0, rsaEncryption with NULL, then the PKCS#1 key.
    let sized = |tag: u8, value: &[u8]| {
        let length = u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes();
        [&[tag, 0x82], length.as_slice(), value].concat()
    };
    let algorithm: &[u8] =
        &[2, 1, 0, 0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
    let pkcs8 = sized(0x30, &[algorithm, &sized(0x04, RECIPIENT_KEY)].concat());
    let key = PrivateDecryptingKey::from_pkcs8(&pkcs8).expect("the published key");
    RecipientKey::new(key).expect("the published key")
});

/// The committed test root.
pub(crate) static TEST_ROOT: LazyLock<TrustRoot> =
    LazyLock::new(|| TrustRoot::from_der(ROOT.to_vec()).expect("the committed root"));

static LEAF_SIGNER: LazyLock<EcdsaKeyPair> = LazyLock::new(|| {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, LEAF_KEY).expect("the leaf's key")
});

/// {1: -35}, ES384.
const PROTECTED: [u8; 4] = [0xa1, 0x01, 0x38, 0x22];

/// A document of this payload, signed by the leaf.
pub(crate) fn signed(payload: &[u8]) -> Vec<u8> {
    let message = cbor(|e| {
        e.array(4)?.str("Signature1")?.bytes(&PROTECTED)?.bytes(&[])?.bytes(payload)?.ok()
    });
    let signature = LEAF_SIGNER.sign(&SystemRandom::new(), &message).expect("randomness");
    enveloped(payload, signature.as_ref())
}

/// A document of this payload and signature.
pub(crate) fn enveloped(payload: &[u8], signature: &[u8]) -> Vec<u8> {
    cbor(|e| e.array(4)?.bytes(&PROTECTED)?.map(0)?.bytes(payload)?.bytes(signature)?.ok())
}

/// The payload of a document: a map of definite length, every key present.
pub(crate) fn payload(document: &Document) -> Vec<u8> {
    cbor(|e| {
        e.map(9)?.str("module_id")?.str(&document.module_id)?.str("digest")?.str("SHA384")?;
        e.str("timestamp")?.u64(document.timestamp_ms)?;
        e.str("pcrs")?.map(document.pcrs.iter().count() as u64)?;
        for (index, pcr) in document.pcrs.iter() {
            e.u8(index)?.bytes(pcr)?;
        }
        e.str("certificate")?.bytes(&document.certificate)?;
        e.str("cabundle")?.array(document.cabundle.len() as u64)?;
        for certificate in &document.cabundle {
            e.bytes(certificate)?;
        }
        let fields = [
            ("public_key", &document.public_key),
            ("user_data", &document.user_data),
            ("nonce", &document.nonce),
        ];
        for (key, value) in fields {
            match value {
                Some(value) => e.str(key)?.bytes(value)?,
                None => e.str(key)?.null()?,
            };
        }
        e.ok()
    })
}

/// A good document under the test root, before it is signed.
pub(crate) fn document() -> Document {
    Document {
        module_id: "i-00000000000000000-enc0000000000000000".to_owned(),
        timestamp_ms: DOCUMENT_MS,
        pcrs: (0_u8..=4).map(|index| (index, [index + 1; 48])).collect(),
        certificate: LEAF.to_vec(),
        cabundle: vec![ROOT.to_vec(), INTERMEDIATE.to_vec()],
        public_key: None,
        user_data: None,
        nonce: None,
    }
}

/// Good pins.
pub(crate) fn pins() -> Pins {
    let rule = |prefix: &str| KeyspaceRule {
        prefix: prefix.to_owned(),
        key_arns: vec!["arn:aws:kms:us-east-1:111122223333:key/a".to_owned()],
        region: "us-east-1".to_owned(),
        host: "kms.us-east-1.amazonaws.com".to_owned(),
    };
    Pins {
        app: "sigil-test".to_owned(),
        rules: vec![rule(""), rule("eu-")],
        tls_roots: vec![vec![1, 2], vec![3]],
        attestation_root: vec![4; 40],
        verify_mode: VerifyMode::BatchSample,
        ceilings: Ceilings::default(),
        parent_cid: 3,
        insecure: false,
    }
}

type Encoding = Encoder<Vec<u8>>;
type Written = Result<(), minicbor::encode::Error<Infallible>>;

/// Writes to memory, which cannot fail.
fn cbor(write: impl FnOnce(&mut Encoding) -> Written) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    write(&mut encoder).expect("memory");
    encoder.into_writer()
}
