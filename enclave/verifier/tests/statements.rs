//! Statements by the test signer, verified offline.
#![allow(clippy::unwrap_used, reason = "a test")]

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use proptest::prelude::*;
use sigil_enclave_insecure::nsm::{Chain, TestDocument, TestRoot, Validity, test_root_der};
use sigil_image_authoring::measure::{ProcessPcrs, process};
use sigil_verifier::{
    Measurement, PcrAllowList, Provenance, SignedStatement, Statement, StatementError,
    StatementKind, TrustRoot, UserData, VerifyError, decode_statement, verify_statement,
};

const DOCUMENT_MS: u64 = 1_800_000_000_000;

fn pcrs() -> ProcessPcrs {
    process(b"executable", b"pins")
}

fn statement() -> Statement {
    Statement {
        kind: StatementKind::Birth,
        app: "demo".to_owned(),
        keyspace: "default".to_owned(),
        key_id: [1; 16],
        public_key: [2; 33],
        policy_hash: [3; 32],
        challenge: b"challenge".to_vec(),
        dek_id: [4; 16],
        dek_provenance: Provenance::Born,
        dek_birth_pcr0: pcrs().pcr0,
        key_birth_pcr0: pcrs().pcr0,
        time_ms: DOCUMENT_MS,
    }
}

/// A boot of the test signer.
struct Boot {
    key: Ed25519KeyPair,
    chain: Chain,
}

impl Boot {
    fn new() -> Self {
        let root = TestRoot::committed().unwrap();
        let chain = root.issue(Validity::aws(DOCUMENT_MS)).unwrap();
        Self { key: Ed25519KeyPair::generate().unwrap(), chain }
    }

    fn document(&self) -> TestDocument {
        let user_data = UserData::StatementKey { boot_id: [9; 16] }.encode();
        let mut document = TestDocument::new(DOCUMENT_MS, pcrs());
        let key = self.key.public_key();
        document.user_data(Some(&user_data)).public_key(Some(key.as_ref()));
        document
    }

    fn sign_with(&self, statement: &[u8], document: &TestDocument) -> SignedStatement {
        SignedStatement {
            statement: statement.to_vec(),
            signature: self.key.sign(statement).as_ref().try_into().unwrap(),
            document: document.sign(&self.chain).unwrap(),
        }
    }

    fn sign(&self, statement: &Statement) -> SignedStatement {
        self.sign_with(&statement.encode(), &self.document())
    }
}

fn allow() -> PcrAllowList {
    let ProcessPcrs { pcr0, pcr1, pcr2, .. } = pcrs();
    PcrAllowList::new(vec![Measurement { pcr0, pcr1, pcr2 }])
}

fn check(signed: &SignedStatement) -> Result<Statement, StatementError> {
    let root = TrustRoot::from_der(test_root_der().to_vec()).unwrap();
    verify_statement(signed, &root, &allow()).map(|(statement, document)| {
        assert_eq!(document.timestamp_ms, DOCUMENT_MS);
        statement
    })
}

#[test]
fn the_bytes_are_those_of_the_formats() {
    let pcr0 = pcrs().pcr0;
    let bytes = [
        &[0, 14][..],
        b"sigil/birth/v1",
        &[0, 4],
        b"demo",
        &[0, 7],
        b"default",
        &[1; 16],
        &[2; 33],
        &[3; 32],
        &[0, 9],
        b"challenge",
        &[4; 16],
        &[1],
        &pcr0,
        &pcr0,
        &DOCUMENT_MS.to_be_bytes(),
    ]
    .concat();
    assert_eq!(statement().encode(), bytes);
    assert_eq!(decode_statement(&bytes), Ok(statement()));
    let possession = Statement { kind: StatementKind::Possession, ..statement() }.encode();
    assert_eq!(possession[..21], [&[0, 19][..], b"sigil/possession/v1"].concat());
    for (provenance, byte) in
        [(Provenance::Born, 1), (Provenance::Foreign, 2), (Provenance::Unproven, 3)]
    {
        let at = bytes.len() - 8 - 48 - 48 - 1;
        let encoded = Statement { dek_provenance: provenance, ..statement() }.encode();
        assert_eq!(encoded[at], byte);
        let mut unknown = bytes.clone();
        unknown[at] = byte + 3;
        assert_eq!(decode_statement(&unknown), Err(StatementError::Malformed));
    }
}

#[test]
fn bounds_hold() {
    let longest = Statement {
        kind: StatementKind::Possession,
        app: "a".repeat(63),
        keyspace: "k".repeat(63),
        challenge: vec![5; 64],
        ..statement()
    };
    let bytes = longest.encode();
    assert_eq!(bytes.len(), 419);
    assert_eq!(decode_statement(&bytes), Ok(longest.clone()));
    for length in 0..bytes.len() {
        assert!(decode_statement(&bytes[..length]).is_err(), "{length}");
    }
    assert!(decode_statement(&[&bytes[..], &[0]].concat()).is_err());
    for too_long in [
        Statement { app: "a".repeat(64), ..longest.clone() },
        Statement { keyspace: "k".repeat(64), ..longest.clone() },
        Statement { challenge: vec![5; 65], ..longest.clone() },
        Statement { challenge: vec![5; 65_536 + 9], ..longest.clone() },
        Statement { app: String::new(), ..longest.clone() },
        Statement { keyspace: String::new(), ..longest },
    ] {
        assert_eq!(decode_statement(&too_long.encode()), Err(StatementError::Malformed));
    }
}

#[test]
fn a_statement_verifies_in_its_window_only() {
    let boot = Boot::new();
    let at = |time_ms| check(&boot.sign(&Statement { time_ms, ..statement() })).map(drop);
    assert_eq!(at(DOCUMENT_MS), Ok(()));
    assert_eq!(at(DOCUMENT_MS + 330_000), Ok(()));
    assert_eq!(at(DOCUMENT_MS + 330_001), Err(StatementError::Window));
    assert_eq!(at(DOCUMENT_MS - 1), Err(StatementError::Window));
    assert_eq!(at(0), Err(StatementError::Window));
    assert_eq!(at(u64::MAX), Err(StatementError::Window));
}

#[test]
fn only_the_bound_key_signs() {
    let boot = Boot::new();
    let signed = boot.sign(&statement());
    assert_eq!(check(&signed), Ok(statement()));
    let other = Boot::new().sign(&statement());
    let swapped = SignedStatement { signature: other.signature, ..signed.clone() };
    assert_eq!(check(&swapped), Err(StatementError::Signature));
    let swapped = SignedStatement { document: other.document, ..signed.clone() };
    assert_eq!(check(&swapped), Err(StatementError::Signature));
    for at in 0..signed.statement.len() {
        let mut changed = signed.clone();
        changed.statement[at] ^= 1 << (at % 8);
        assert_eq!(check(&changed), Err(StatementError::Signature), "byte {at}");
    }
    for at in 0..64 {
        let mut changed = signed.clone();
        changed.signature[at] ^= 1 << (at % 8);
        assert_eq!(check(&changed), Err(StatementError::Signature), "byte {at}");
    }
    let signed = boot.sign_with(b"nonsense", &boot.document());
    assert_eq!(check(&signed), Err(StatementError::Malformed));
}

#[test]
fn the_document_must_bind_a_statement_key() {
    let boot = Boot::new();
    let with = |change: &dyn Fn(&mut TestDocument)| {
        let mut document = boot.document();
        change(&mut document);
        check(&boot.sign_with(&statement().encode(), &document))
    };
    let live = UserData::Live { boot_id: [9; 16] }.encode();
    let kms = UserData::Kms { boot_id: [9; 16] }.encode();
    let key = boot.key.public_key().as_ref().to_vec();
    let changes: [&dyn Fn(&mut TestDocument); 6] = [
        &|document| {
            document.user_data(Some(&live));
        },
        &|document| {
            document.user_data(Some(&kms));
        },
        &|document| {
            document.user_data(None);
        },
        &|document| {
            document.public_key(None);
        },
        &|document| {
            document.public_key(Some(&key[1..]));
        },
        &|document| {
            document.public_key(Some(&[&key[..], &[0]].concat()));
        },
    ];
    for change in changes {
        assert_eq!(with(change), Err(StatementError::NotStatementKey));
    }
    let debug = with(&|document| {
        document.pcrs(&[(3, [1; 48])]);
    });
    assert_eq!(debug, Err(StatementError::Document(VerifyError::Debug)));
}

#[test]
fn images_must_be_on_the_list() {
    let signed = Boot::new().sign(&statement());
    let root = TrustRoot::from_der(test_root_der().to_vec()).unwrap();
    let under = |allow: &PcrAllowList| verify_statement(&signed, &root, allow).map(drop);
    assert_eq!(under(&allow()), Ok(()));
    assert_eq!(under(&PcrAllowList::default()), Err(StatementError::NotAllowed));
    let mut entry = allow().entries()[0];
    entry.pcr2 = [0; 48];
    assert_eq!(under(&PcrAllowList::new(vec![entry])), Err(StatementError::NotAllowed));
    let aws = verify_statement(&signed, &TrustRoot::aws(), &allow());
    assert_eq!(aws.map(drop), Err(StatementError::Document(VerifyError::OtherRoot)));
}

#[test]
fn a_statement_may_not_contradict_its_document() {
    let boot = Boot::new();
    let own = pcrs().pcr0;
    let other = [7; 48];
    let zeros = [0; 48];
    for (kind, provenance, dek_birth_pcr0, key_birth_pcr0, good) in [
        (StatementKind::Birth, Provenance::Born, own, own, true),
        (StatementKind::Birth, Provenance::Born, other, own, false),
        (StatementKind::Birth, Provenance::Born, own, other, false),
        (StatementKind::Possession, Provenance::Born, own, other, true),
        (StatementKind::Possession, Provenance::Born, other, other, false),
        (StatementKind::Possession, Provenance::Foreign, other, other, true),
        (StatementKind::Possession, Provenance::Foreign, own, other, false),
        (StatementKind::Possession, Provenance::Unproven, zeros, other, true),
        (StatementKind::Possession, Provenance::Unproven, other, other, false),
    ] {
        let statement = Statement {
            kind,
            dek_provenance: provenance,
            dek_birth_pcr0,
            key_birth_pcr0,
            ..statement()
        };
        let expected = if good { Ok(()) } else { Err(StatementError::Contradiction) };
        assert_eq!(check(&boot.sign(&statement)).map(drop), expected, "{statement:?}");
    }
}

proptest! {
    #[test]
    fn decoding_never_panics_and_has_one_spelling(
        mut bytes in prop::collection::vec(any::<u8>(), 0..512),
        birth in any::<bool>(),
    ) {
        if birth {
            bytes.splice(0..0, [&[0, 14][..], b"sigil/birth/v1", &[0, 1, b'a', 0, 1, b'k']].concat());
        }
        if let Ok(decoded) = decode_statement(&bytes) {
            prop_assert_eq!(decoded.encode(), bytes);
        }
    }
}
