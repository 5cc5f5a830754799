use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use sigil_enclave_insecure::nsm::{TestDocument, TestRoot, Validity, test_root_der};
use sigil_image_authoring::measure::{ProcessPcrs, process};
use sigil_verifier::{Measurement, PcrAllowList, TrustRoot, UserData};

use super::*;

const NOW_MS: u64 = 1_800_000_000_000;

fn ours() -> ProcessPcrs {
    process(b"our executable", b"pins")
}

/// An image that is on no list of who may run: its documents verify under the same root.
fn theirs() -> ProcessPcrs {
    process(b"their executable", b"pins")
}

fn verifier(retired: &[ProcessPcrs]) -> BirthVerifier {
    let image = |pcrs: &ProcessPcrs| {
        let ProcessPcrs { pcr0, pcr1, pcr2, .. } = *pcrs;
        Measurement { pcr0, pcr1, pcr2 }
    };
    let images = PcrAllowList::new(vec![image(&ours())]);
    let birthplaces = [ours()].iter().chain(retired).map(image).collect();
    let root = TrustRoot::from_der(test_root_der().to_vec()).unwrap();
    BirthVerifier::new(Arc::new(Trust {
        root,
        images,
        birthplaces: PcrAllowList::new(birthplaces),
    }))
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
fn a_retired_image_is_believed_about_earlier_keys_and_any_other_about_none() {
    let not_allowed =
        |result| matches!(result, Err(BirthError::Statement(StatementError::NotAllowed)));
    let (here, there) = (sign(&statement(&ours()), ours()), sign(&statement(&theirs()), theirs()));
    for retired in [[].as_slice(), &[theirs()]] {
        let verifier = verifier(retired);
        for earlier in [false, true] {
            verifier.verify(&here, &expected(earlier)).unwrap();
        }
        assert!(not_allowed(verifier.verify(&there, &expected(false))), "it makes no key today");
        let earlier = verifier.verify(&there, &expected(true));
        assert_eq!(earlier.is_ok(), !retired.is_empty(), "{earlier:?}");
        assert!(earlier.is_ok() || not_allowed(earlier));
    }
    // Who may run is not who is retired, and what it says is judged like anything else.
    let verifier = verifier(&[theirs()]);
    assert!(!verifier.trust.images.entries().iter().any(|image| image.pcr0 == theirs().pcr0));
    for (dek_provenance, dek_birth_pcr0) in
        [(Provenance::Foreign, ours().pcr0), (Provenance::Unproven, [0; 48])]
    {
        let planted = Statement { dek_provenance, dek_birth_pcr0, ..statement(&theirs()) };
        let refused = verifier.verify(&sign(&planted, theirs()), &expected(true));
        assert!(matches!(refused, Err(BirthError::DekNotBorn)), "{refused:?}");
    }
}

#[test]
fn app_and_origin_of_the_dek_are_judged() {
    let verifier = verifier(&[]);
    let check = |statement: Statement| verifier.verify(&sign(&statement, ours()), &expected(true));
    let other = Statement { app: "other".to_owned(), ..statement(&ours()) };
    assert!(matches!(check(other), Err(BirthError::OtherSubject)));
    let possession = Statement { kind: StatementKind::Possession, ..statement(&ours()) };
    assert!(matches!(check(possession), Err(BirthError::OtherSubject)), "no birth statement");
    for (dek_provenance, dek_birth_pcr0) in
        [(Provenance::Foreign, theirs().pcr0), (Provenance::Unproven, [0; 48])]
    {
        let other = Statement { dek_provenance, dek_birth_pcr0, ..statement(&ours()) };
        assert!(matches!(check(other), Err(BirthError::DekNotBorn)));
    }
}
