use proptest::prelude::*;

use super::*;

fn pins() -> Pins {
    Pins {
        app: "sigil-test".to_owned(),
        rules: vec![rule(""), rule("eu-"), rule("eu-hot")],
        tls_roots: vec![vec![1, 2], vec![3]],
        attestation_root: vec![4; 300],
        verify_mode: VerifyMode::BatchSample,
        ceilings: Ceilings::default(),
        parent_cid: 3,
        insecure: false,
    }
}

fn rule(prefix: &str) -> KeyspaceRule {
    KeyspaceRule {
        prefix: prefix.to_owned(),
        key_arns: vec!["arn:aws:kms:us-east-1:111122223333:key/a".to_owned()],
        region: "us-east-1".to_owned(),
        host: "kms.us-east-1.amazonaws.com".to_owned(),
    }
}

#[test]
fn pins_read_back() {
    for mode in [VerifyMode::BatchSample, VerifyMode::Full] {
        let pins = Pins { verify_mode: mode, ..pins() };
        assert_eq!(Pins::decode(&pins.encode().unwrap()), Ok(pins));
    }
}

#[test]
fn the_longest_prefix_wins() {
    let pins = pins();
    let prefix = |keyspace| pins.rule_for(keyspace).map(|rule| rule.prefix.as_str());
    assert_eq!(prefix("default"), Some(""));
    assert_eq!(prefix("eu-cold"), Some("eu-"));
    assert_eq!(prefix("eu-hot-1"), Some("eu-hot"));
    let narrow = Pins { rules: vec![rule("eu-")], ..pins.clone() };
    assert_eq!(narrow.rule_for("us"), None);
}

#[test]
fn one_meaning_has_one_encoding() {
    let good = pins().encode().unwrap();
    let mut trailing = good.clone();
    trailing.push(0);
    assert!(Pins::decode(&trailing).is_err());
    for end in 0..good.len() {
        assert!(Pins::decode(&good[..end]).is_err(), "cut at {end}");
    }
    // The version as a two-byte integer: the same value, another encoding.
    let longer = [&good[..2], &[0x18, 0x01], &good[3..]].concat();
    assert_eq!(good[2], 1);
    assert!(Pins::decode(&longer).is_err());
    assert!(Pins::decode(&vec![0; PINS_BYTES_MAX + 1]).is_err());
}

#[test]
fn every_broken_field_is_named() {
    let with_rule = |change: fn(&mut KeyspaceRule)| {
        let mut broken = pins();
        change(&mut broken.rules[0]);
        broken
    };
    let limits = |ceilings| Pins { ceilings, ..pins() };
    let default = Ceilings::default();
    let cases = [
        ("app", Pins { app: "Sigil".to_owned(), ..pins() }),
        ("keyspaces", Pins { rules: vec![], ..pins() }),
        ("keyspaces.prefix", Pins { rules: vec![rule("a"), rule("a")], ..pins() }),
        ("keyspaces.prefix", Pins { rules: vec![rule("-")], ..pins() }),
        ("keyspaces.kmsKeyArns", with_rule(|rule| rule.key_arns.clear())),
        (
            "keyspaces.kmsKeyArns",
            with_rule(|rule| {
                rule.key_arns[0] = "arn:aws:kms:us-east-1:111122223333:alias/a".into()
            }),
        ),
        (
            "keyspaces.kmsKeyArns",
            with_rule(|rule| rule.key_arns[0] = "arn:aws:kms:eu-west-1:111122223333:key/a".into()),
        ),
        ("keyspaces.host", with_rule(|rule| rule.host = "kms.example.com\r\nx: y".into())),
        ("keyspaces.host", with_rule(|rule| rule.host.clear())),
        ("tlsRoots", Pins { tls_roots: vec![], ..pins() }),
        ("attestationRoot", Pins { attestation_root: vec![], ..pins() }),
        ("ceilings.keySoftSeconds", limits(Ceilings { key_soft_s: 960, ..default })),
        ("ceilings.dekSoftSeconds", limits(Ceilings { dek_hard_s: LIMIT_S_MAX + 1, ..default })),
        ("ceilings.keyUses", limits(Ceilings { key_uses: 0, ..default })),
    ];
    for (field, pins) in cases {
        assert_eq!(pins.encode().unwrap_err().field, field);
    }
}

proptest! {
    #[test]
    fn any_bytes_decode_to_what_encodes_to_them(bytes: Vec<u8>) {
        if let Ok(pins) = Pins::decode(&bytes) {
            prop_assert_eq!(pins.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn a_changed_byte_is_another_meaning_or_an_error(at in 0_usize..400, bit in 0_u8..8) {
        let good = pins().encode().unwrap();
        let mut bytes = good.clone();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        if let Ok(other) = Pins::decode(&bytes) {
            prop_assert_ne!(other, pins());
        }
    }
}
