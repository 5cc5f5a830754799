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

/// Written by hand from the table of `docs/formats.md` and RFC 8949.
#[test]
fn the_bytes_are_those_of_the_formats() {
    let pins = Pins {
        app: "demo".to_owned(),
        rules: vec![KeyspaceRule { host: "kms.example".to_owned(), ..rule("eu") }],
        tls_roots: vec![vec![1, 2], vec![3]],
        attestation_root: vec![4],
        verify_mode: VerifyMode::Full,
        ..pins()
    };
    let bytes = [
        &[0xa9, 0x00, 0x01, 0x01, 0x64][..],
        b"demo",
        &[0x02, 0x81, 0x84, 0x62],
        b"eu",
        &[0x81, 0x78, 40],
        b"arn:aws:kms:us-east-1:111122223333:key/a",
        &[0x69],
        b"us-east-1",
        &[0x6b],
        b"kms.example",
        &[0x03, 0x82, 0x42, 1, 2, 0x41, 3],
        &[0x04, 0x41, 4],
        &[0x05, 0x02],
        // 900, 960, 1,000,000, 3,300, 3,600.
        &[0x06, 0x85, 0x19, 0x03, 0x84, 0x19, 0x03, 0xc0, 0x1a, 0x00, 0x0f, 0x42, 0x40],
        &[0x19, 0x0c, 0xe4, 0x19, 0x0e, 0x10],
        &[0x07, 0x03, 0x08, 0xf4],
    ]
    .concat();
    assert_eq!(pins.encode().unwrap(), bytes);
    assert_eq!(Pins::decode(&bytes), Ok(pins));
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
                rule.key_arns[0] = "arn:aws:kms:us-east-1:111122223333:alias/a".into();
            }),
        ),
        (
            "keyspaces.kmsKeyArns",
            with_rule(|rule| rule.key_arns[0] = "arn:aws:kms:eu-west-1:111122223333:key/a".into()),
        ),
        ("keyspaces.host", with_rule(|rule| rule.host = "kms.example.com\r\nx: y".into())),
        (
            "keyspaces.kmsKeyArns",
            with_rule(|rule| rule.key_arns[0] = "arn:aws:kms:us-east-1:111122223333:key/\"".into()),
        ),
        (
            "keyspaces.kmsKeyArns",
            with_rule(|rule| rule.key_arns[0] = "arn:aws:kms:us-east-1:111122223333:key/".into()),
        ),
        (
            "keyspaces.kmsKeyArns",
            with_rule(|rule| rule.key_arns[0] = "arn:aws:kms:us-east-1:11112222333:key/a".into()),
        ),
        (
            "keyspaces.region",
            with_rule(|rule| {
                rule.region = "us east".into();
                rule.key_arns[0] = "arn:aws:kms:us east:111122223333:key/a".into();
            }),
        ),
        ("keyspaces.host", with_rule(|rule| rule.host.clear())),
        ("keyspaces.host", with_rule(|rule| rule.host = "kms..com".into())),
        ("keyspaces.host", with_rule(|rule| rule.host = "kms.example.com:443".into())),
        ("tlsRoots", Pins { tls_roots: vec![], ..pins() }),
        ("attestationRoot", Pins { attestation_root: vec![], ..pins() }),
        ("ceilings.keySoftSeconds", limits(Ceilings { key_soft_s: 960, ..default })),
        ("ceilings.dekSoftSeconds", limits(Ceilings { dek_hard_s: LIMIT_S_MAX + 1, ..default })),
        ("parentCid", Pins { parent_cid: 1, ..pins() }),
        ("parentCid", Pins { parent_cid: u32::MAX, ..pins() }),
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
