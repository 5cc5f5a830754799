//! Statements: one spelling, and the verifier's answer is exactly that of the rules. The input is a
//! statement; the harness signs it with a key that a good document binds.

use std::sync::LazyLock;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use sigil_verifier::bounds::STATEMENT_WINDOW_MS;
use sigil_verifier::{
    Measurement, PcrAllowList, Provenance, SignedStatement, Statement, StatementKind, UserData,
    decode_statement, verify_statement,
};

use crate::Target;
use crate::fixtures::{DOCUMENT_MS, TEST_ROOT, document, payload, signed};

pub(crate) const TARGET: Target = Target {
    name: "statement",
    input_bytes_max: 1_024,
    memory_bytes_max: 64 * 1024,
    check,
    seeds: || {
        let possession = Statement { kind: StatementKind::Possession, ..statement() };
        let foreign = Statement { dek_provenance: Provenance::Foreign, ..statement() };
        let user_data = UserData::DekBirth {
            dek_id: [1; 16],
            app: "demo".to_owned(),
            keyspace: "default".to_owned(),
            kcv: [2; 32],
        };
        let live = UserData::Live { boot_id: [1; 16] }.encode();
        let mut seeds: Vec<_> = [statement(), possession, foreign].map(|s| s.encode()).into();
        seeds.extend([user_data.encode(), live]);
        seeds
    },
};

/// PCR0 of the document.
const OWN: [u8; 48] = [1; 48];

static KEY: LazyLock<Ed25519KeyPair> =
    LazyLock::new(|| Ed25519KeyPair::from_seed_unchecked(&[5; 32]).expect("a seed"));

static DOCUMENT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut document = document();
    document.public_key = Some(KEY.public_key().as_ref().to_vec());
    document.user_data = Some(UserData::StatementKey { boot_id: [9; 16] }.encode());
    signed(&payload(&document))
});

fn check(input: &[u8]) {
    if let Ok(data) = UserData::decode(input) {
        assert_eq!(data.encode(), input, "one spelling");
    }
    let Ok(statement) = decode_statement(input) else { return };
    assert_eq!(statement.encode(), input, "one spelling");
    let signature = KEY.sign(input);
    let signed = SignedStatement {
        statement: input.to_vec(),
        signature: signature.as_ref().try_into().expect("64 bytes"),
        document: DOCUMENT.clone(),
    };
    let allow = PcrAllowList::new(vec![Measurement { pcr0: OWN, pcr1: [2; 48], pcr2: [3; 48] }]);
    let verified = verify_statement(&signed, &TEST_ROOT, &allow);
    let late_ms = statement.time_ms.checked_sub(DOCUMENT_MS);
    let in_time = late_ms.is_some_and(|late_ms| late_ms <= STATEMENT_WINDOW_MS);
    let dek = match statement.dek_provenance {
        Provenance::Born => statement.dek_birth_pcr0 == OWN,
        Provenance::Foreign => statement.dek_birth_pcr0 != OWN,
        Provenance::Unproven => statement.dek_birth_pcr0 == [0; 48],
    };
    let key = statement.kind == StatementKind::Possession || statement.key_birth_pcr0 == OWN;
    assert_eq!(verified.is_ok(), in_time && dek && key, "{:?}", verified.err());
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
        dek_birth_pcr0: OWN,
        key_birth_pcr0: OWN,
        time_ms: DOCUMENT_MS,
    }
}
