//! Chains that differ from AWS' in one property each. Every one but the first is refused.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm,
};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    SignatureAlgorithm, date_time_ymd,
};
use sigil_attestation::{TrustRoot, VerifyError, verify};
use sigil_enclave_insecure::nsm::{TestDocument, TestRoot, Validity};
use sigil_image_authoring::measure::process;

const NOW_MS: u64 = 1_800_000_000_000;
const DAY_MS: u64 = 86_400_000;
const SECOND_MS: u64 = 1_000;
const CA: [KeyUsagePurpose; 2] = [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];

/// One certificate of a chain.
#[derive(Clone)]
struct Link {
    ca: IsCa,
    usages: Vec<KeyUsagePurpose>,
    extended: Vec<ExtendedKeyUsagePurpose>,
    extensions: Vec<CustomExtension>,
    /// First and last moment, milliseconds since 1970; whole seconds count.
    valid_ms: (u64, u64),
    algorithm: &'static SignatureAlgorithm,
}

impl Link {
    fn ca(path_length: Option<u8>) -> Self {
        let constraints =
            path_length.map_or(BasicConstraints::Unconstrained, BasicConstraints::Constrained);
        Self {
            ca: IsCa::Ca(constraints),
            usages: CA.to_vec(),
            extended: Vec::new(),
            extensions: Vec::new(),
            valid_ms: (NOW_MS - DAY_MS, NOW_MS + DAY_MS),
            algorithm: &PKCS_ECDSA_P384_SHA384,
        }
    }

    fn leaf() -> Self {
        let usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::ContentCommitment];
        Self { ca: IsCa::ExplicitNoCa, usages, ..Self::ca(None) }
    }

    fn params(&self, name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = self.ca;
        params.key_usages.clone_from(&self.usages);
        params.extended_key_usages.clone_from(&self.extended);
        params.custom_extensions.clone_from(&self.extensions);
        let at = |ms| date_time_ymd(1970, 1, 1) + Duration::from_millis(ms);
        params.not_before = at(self.valid_ms.0);
        params.not_after = at(self.valid_ms.1);
        params
    }
}

/// Root, regional, zonal, instance, leaf.
fn links() -> [Link; 5] {
    [Link::ca(None), Link::ca(Some(2)), Link::ca(Some(1)), Link::ca(Some(0)), Link::leaf()]
}

/// Certificates from the root to the leaf, and the leaf's key.
struct Chain {
    certificates: Vec<Vec<u8>>,
    leaf: Issuer<'static, KeyPair>,
}

impl Chain {
    fn new(links: &[Link]) -> Self {
        let (root, rest) = links.split_first().unwrap();
        let key = KeyPair::generate_for(root.algorithm).unwrap();
        let params = root.params("root");
        let mut certificates = vec![params.self_signed(&key).unwrap().der().to_vec()];
        let mut issuer = Issuer::new(params, key);
        for (index, link) in rest.iter().enumerate() {
            let (params, key) =
                (link.params(&index.to_string()), KeyPair::generate_for(link.algorithm).unwrap());
            certificates.push(params.signed_by(&key, &issuer).unwrap().der().to_vec());
            issuer = Issuer::new(params, key);
        }
        Self { certificates, leaf: issuer }
    }

    /// A document under this chain with any `cabundle`, verified against the chain's root.
    fn verify_with(&self, cabundle: &[Vec<u8>]) -> Result<(), VerifyError> {
        let root = TrustRoot::from_der(self.certificates[0].clone()).unwrap();
        let leaf = self.certificates.last().unwrap().as_slice();
        let mut document = TestDocument::new(NOW_MS, process(b"executable", b"pins"));
        document.set("certificate", bytes_cbor(leaf));
        document.set("cabundle", TestDocument::cabundle_cbor(cabundle));
        // Any chain: both fields that it would fill are there.
        let unused = TestRoot::committed().unwrap().issue(Validity::aws(NOW_MS)).unwrap();
        let payload = document.payload(&unused);
        let head = [&[0x84, 0x6a][..], b"Signature1", &[0x44, 0xa1, 0x01, 0x38, 0x22, 0x40]];
        let signature = self.sign(&[head.concat(), bytes_cbor(&payload)].concat());
        verify(&document.assemble(&payload, &signature), &root).map(drop)
    }

    fn verify(&self) -> Result<(), VerifyError> {
        self.verify_with(&self.certificates[..self.certificates.len() - 1])
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let sign = |algorithm: &'static EcdsaSigningAlgorithm| {
            let key =
                EcdsaKeyPair::from_pkcs8(algorithm, self.leaf.key().serialized_der()).unwrap();
            key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
        };
        if self.leaf.key().is_compatible(&PKCS_ECDSA_P384_SHA384) {
            sign(&ECDSA_P384_SHA384_FIXED_SIGNING)
        } else {
            [sign(&ECDSA_P256_SHA256_FIXED_SIGNING), vec![0; 32]].concat()
        }
    }
}

fn bytes_cbor(bytes: &[u8]) -> Vec<u8> {
    minicbor::to_vec(minicbor::bytes::ByteVec::from(bytes.to_vec())).unwrap()
}

/// A chain in which one certificate is changed.
fn with(index: usize, change: impl FnOnce(&mut Link)) -> Result<(), VerifyError> {
    let mut links = links();
    change(&mut links[index]);
    Chain::new(&links).verify()
}

#[test]
fn the_unchanged_chain_verifies_at_every_length() {
    for length in 2..=8 {
        let mut links = vec![Link::ca(None); length - 1];
        links.push(Link::leaf());
        assert_eq!(Chain::new(&links).verify(), Ok(()), "{length} certificates");
    }
    assert_eq!(Chain::new(&links()).verify(), Ok(()));
}

#[test]
fn every_certificate_must_be_valid_at_the_time_the_root_too() {
    for index in 0..5 {
        let valid = |from_ms, to_ms| with(index, |link| link.valid_ms = (from_ms, to_ms));
        assert_eq!(valid(NOW_MS, NOW_MS), Ok(()), "{index}");
        let expired = valid(NOW_MS - DAY_MS, NOW_MS - SECOND_MS);
        assert_eq!(expired, Err(VerifyError::CertExpired), "{index}");
        let early = valid(NOW_MS + SECOND_MS, NOW_MS + DAY_MS);
        assert_eq!(early, Err(VerifyError::CertNotValidYet), "{index}");
    }
}

#[test]
fn certificate_authorities_sign_certificates_and_the_leaf_signs_data() {
    for index in 0..5 {
        let used = |usages: &[KeyUsagePurpose]| {
            let usages = usages.to_vec();
            with(index, |link| link.usages = usages)
        };
        let (right, wrong) = if index < 4 {
            (KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature)
        } else {
            (KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign)
        };
        assert_eq!(used(&[right]), Ok(()), "{index}");
        assert_eq!(used(&[right, wrong, KeyUsagePurpose::DecipherOnly]), Ok(()), "{index}");
        let others = [
            KeyUsagePurpose::ContentCommitment,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::DataEncipherment,
            KeyUsagePurpose::KeyAgreement,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::EncipherOnly,
            KeyUsagePurpose::DecipherOnly,
        ];
        for usages in [&[][..], &[wrong], &others] {
            assert_eq!(used(usages), Err(VerifyError::KeyUsage), "{index} {usages:?}");
        }
    }
}

#[test]
fn basic_constraints_hold() {
    for index in 1..4 {
        let no_ca = |ca| with(index, |link| link.ca = ca);
        assert_eq!(no_ca(IsCa::NoCa), Err(VerifyError::Chain), "{index}");
        assert_eq!(no_ca(IsCa::ExplicitNoCa), Err(VerifyError::Chain), "{index}");
    }
    // One certificate authority more than the path length allows.
    for (index, path_length) in [(1, 1), (2, 0)] {
        let short = with(index, |link| *link = Link::ca(Some(path_length)));
        assert_eq!(short, Err(VerifyError::Chain), "{index}");
    }
    let ca = with(4, |link| link.ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(ca, Err(VerifyError::Chain));
    assert_eq!(with(4, |link| link.ca = IsCa::NoCa), Ok(()), "constraints are not required");
    // SEQUENCE { BOOLEAN FALSE is absent, INTEGER 0 }: a leaf has no path.
    for (content, expected) in
        [(&[0x30, 0][..], Ok(())), (&[0x30, 3, 2, 1, 0], Err(VerifyError::KeyUsage))]
    {
        let constraints = CustomExtension::from_oid_content(&[2, 5, 29, 19], content.to_vec());
        let leaf = with(4, |link| {
            link.ca = IsCa::NoCa;
            link.extensions = vec![constraints];
        });
        assert_eq!(leaf, expected, "{content:?}");
    }
}

#[test]
fn extensions_that_are_critical_or_say_another_purpose_are_refused() {
    for index in 1..5 {
        let mut unknown = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 1], vec![5, 0]);
        let mut with_unknown = |critical| {
            unknown.set_criticality(critical);
            with(index, |link| link.extensions = vec![unknown.clone()])
        };
        assert_eq!(with_unknown(false), Ok(()), "{index}");
        assert_eq!(with_unknown(true), Err(VerifyError::Chain), "{index}");
        let server = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let server = with(index, |link| link.extended = server);
        assert_eq!(server, Err(VerifyError::Chain), "{index}");
    }
}

#[test]
fn every_key_is_on_p384() {
    for index in 0..4 {
        let p256 = with(index, |link| link.algorithm = &PKCS_ECDSA_P256_SHA256);
        assert_eq!(p256, Err(VerifyError::Chain), "{index}");
    }
    let p256 = with(4, |link| link.algorithm = &PKCS_ECDSA_P256_SHA256);
    assert_eq!(p256, Err(VerifyError::LeafKey));
}

#[test]
fn the_bundle_is_the_path_in_order_and_no_more() {
    let chain = Chain::new(&links());
    let good = &chain.certificates[..4];
    assert_eq!(chain.verify_with(good), Ok(()));
    for (a, b) in [(1, 2), (2, 3), (1, 3)] {
        let mut swapped = good.to_vec();
        swapped.swap(a, b);
        assert_eq!(chain.verify_with(&swapped), Err(VerifyError::ChainOrder), "{a} and {b}");
    }
    let stranger = Chain::new(&links()).certificates[1].clone();
    let again = |index: usize| good[index].clone();
    for extra in [stranger, again(0), again(1), again(3), chain.certificates[4].clone()] {
        for at in 1..=4 {
            let mut more = good.to_vec();
            more.insert(at, extra.clone());
            assert_eq!(chain.verify_with(&more), Err(VerifyError::ChainOrder), "at {at}");
        }
    }
    let mut reversed = good.to_vec();
    reversed.reverse();
    assert_eq!(chain.verify_with(&reversed), Err(VerifyError::OtherRoot));
    // Bytes that are no certificate, where webpki would not need them.
    let rubbish = [good, &[vec![0x30, 0x03, 0x02, 0x01, 0x00]]].concat();
    assert!(chain.verify_with(&rubbish).is_err());
}

/// Bytes after the leaf's DER, where a lenient reader would stop.
#[test]
fn certificates_end_where_their_der_ends() {
    for index in 1..5 {
        let mut chain = Chain::new(&links());
        chain.certificates[index].push(0);
        assert_eq!(chain.verify(), Err(VerifyError::Chain), "{index}");
    }
}
