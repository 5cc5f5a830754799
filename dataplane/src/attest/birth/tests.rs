use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use sigil_enclave_image::measure::{ProcessPcrs, process};
use sigil_enclave_insecure::nsm::{TestDocument, TestRoot, Validity, test_root_der};
use sigil_verifier::{TrustRoot, UserData};

use super::*;

const NOW_MS: u64 = 1_800_000_000_000;

fn ours() -> ProcessPcrs {
    process(b"our executable", b"pins")
}

/// Anybody's image: its documents verify under the same root.
fn theirs() -> ProcessPcrs {
    process(b"their executable", b"pins")
}

fn verifier() -> BirthVerifier {
    let ProcessPcrs { pcr0, pcr1, pcr2, .. } = ours();
    let images = PcrAllowList::new(vec![Measurement { pcr0, pcr1, pcr2 }]);
    let root = TrustRoot::from_der(test_root_der().to_vec()).unwrap();
    BirthVerifier::new(Arc::new(Trust { root, images }))
}

fn statement(image: &ProcessPcrs) -> Statement {
    Statement {
        kind: StatementKind::Birth,
        app: "demo".to_owned(),
        keyspace: "default".to_owned(),
        key_id: [1; 16],
        public_key: [2; 33],
        policy_hash: sha256(b""),
        challenge: b"challenge".to_vec(),
        dek_id: [4; 16],
        dek_provenance: Provenance::Born,
        dek_birth_pcr0: image.pcr0,
        key_birth_pcr0: image.pcr0,
        time_ms: NOW_MS,
    }
}

fn possession(provenance: Provenance, dek: Pcr, key: Pcr) -> Statement {
    Statement {
        kind: StatementKind::Possession,
        dek_provenance: provenance,
        dek_birth_pcr0: dek,
        key_birth_pcr0: key,
        ..statement(&ours())
    }
}

/// Signed as an enclave of `image` does.
fn sign(statement: &Statement, image: ProcessPcrs) -> Birth {
    let boot = Ed25519KeyPair::generate().unwrap();
    let chain = TestRoot::committed().unwrap().issue(Validity::aws(NOW_MS)).unwrap();
    let user_data = UserData::StatementKey { boot_id: [9; 16] }.encode();
    let mut document = TestDocument::new(NOW_MS, image);
    document.user_data(Some(&user_data)).public_key(Some(boot.public_key().as_ref()));
    let document = document.sign(&chain).unwrap();
    let statement = statement.encode();
    Birth {
        signature: boot.sign(&statement).as_ref().to_vec().into(),
        statement: statement.into(),
        document_hash: sha256(&document),
        document: document.into(),
    }
}

fn expected(earlier: bool) -> Expected {
    Expected {
        app: "demo".to_owned(),
        keyspace: "default".to_owned(),
        key_id: KeyId([1; 16]),
        public_key: [2; 33],
        challenge: b"challenge".to_vec(),
        earlier,
    }
}

#[test]
fn an_image_that_is_not_on_the_list_proves_nothing_by_itself() {
    let verifier = verifier();
    for earlier in [false, true] {
        let proved = verifier.verify(&sign(&statement(&ours()), ours()), &expected(earlier));
        assert_eq!(proved.unwrap(), Proved::Here);
    }
    let planted = sign(&statement(&theirs()), theirs());
    let proved = verifier.verify(&planted, &expected(true)).unwrap();
    assert_eq!(proved, Proved::Elsewhere(theirs().pcr0));
    let error = verifier.verify(&planted, &expected(false)).unwrap_err();
    assert!(matches!(error, BirthError::Statement(StatementError::NotAllowed)), "{error}");
}

#[test]
fn app_and_origin_of_the_dek_are_judged() {
    let verifier = verifier();
    let check = |statement: Statement| verifier.verify(&sign(&statement, ours()), &expected(true));
    let other = Statement { app: "other".to_owned(), ..statement(&ours()) };
    assert!(matches!(check(other), Err(BirthError::OtherSubject)));
    for (dek_provenance, dek_birth_pcr0) in
        [(Provenance::Foreign, theirs().pcr0), (Provenance::Unproven, [0; 48])]
    {
        let other = Statement { dek_provenance, dek_birth_pcr0, ..statement(&ours()) };
        assert!(matches!(check(other), Err(BirthError::DekNotBorn)));
    }
}

#[test]
fn an_accepted_enclave_must_vouch_for_the_dek_of_an_earlier_image() {
    let (verifier, other) = (verifier(), theirs().pcr0);
    let check = |statement: &Statement, image| {
        verifier.verify_possession(&sign(statement, image), &expected(true), other)
    };
    let sealed_again_here = possession(Provenance::Born, ours().pcr0, other);
    check(&sealed_again_here, ours()).unwrap();
    for refused in [
        // The plant: the DEK is known to whoever wrapped it.
        possession(Provenance::Unproven, [0; 48], other),
        // The same with a birth document of the planter's own image.
        possession(Provenance::Foreign, other, other),
        possession(Provenance::Born, ours().pcr0, ours().pcr0),
    ] {
        assert!(matches!(check(&refused, ours()), Err(BirthError::DekNotVouched)), "{refused:?}");
    }
    assert!(check(&sealed_again_here, theirs()).is_err(), "only an accepted image vouches");
    let stale = Statement { challenge: b"other".to_vec(), ..sealed_again_here.clone() };
    assert!(matches!(check(&stale, ours()), Err(BirthError::OtherSubject)));
    let birth = Statement { kind: StatementKind::Birth, ..statement(&ours()) };
    assert!(matches!(check(&birth, ours()), Err(BirthError::OtherSubject)));
}
