//! `sign-vectors`.

use std::fmt::Write;

use k256::ecdsa::SigningKey;
use proptest::prelude::*;

use super::run;

/// Lines `secret digest r s recid description`; a recid that was not published is empty.
const PUBLISHED: [(&str, &str, usize); 3] = [
    ("trezor", include_str!("../../../testdata/ecdsa/rfc6979-trezor.tsv"), 6),
    ("noble", include_str!("../../../testdata/ecdsa/rfc6979-noble.tsv"), 270),
    ("libsecp256k1", include_str!("../../../testdata/ecdsa/rfc6979-libsecp256k1.tsv"), 1),
];
const ORDER: &str = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
const ONE: &str = "0000000000000000000000000000000000000000000000000000000000000001";

#[test]
fn published_signatures_are_made() {
    for (name, lines, count) in PUBLISHED {
        let rows: Vec<Vec<&str>> = lines.lines().map(|line| line.split('\t').collect()).collect();
        assert_eq!(rows.len(), count, "{name}");
        let input: Vec<_> = rows.iter().map(|row| format!("{} {}", row[0], row[1])).collect();
        let run = run(&["sign-vectors"], &input.join("\n"));
        assert_eq!(run.status, Some(0), "{name}: {}", run.err);
        let made: Vec<&str> = run.out.lines().collect();
        assert_eq!(made.len(), count, "{name}");
        for (row, made) in rows.iter().zip(made) {
            let (signature, recovery_id) = made.rsplit_once(' ').unwrap();
            assert_eq!(signature, format!("{} {}", row[2], row[3]), "{name}: {}", row[5]);
            if !row[4].is_empty() {
                assert_eq!(recovery_id, row[4], "{name}: {}", row[5]);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// r, s and the recovery id of another implementation of RFC 6979.
    #[test]
    fn random_signatures_are_those_of_an_independent_implementation(
        items in prop::collection::vec(any::<([u8; 32], [u8; 32])>(), 1..96)
    ) {
        let (mut input, mut expected) = (String::new(), String::new());
        for (secret, digest) in items {
            let Ok(key) = SigningKey::from_slice(&secret) else { continue };
            let (signature, recovery_id) = key.sign_prehash_recoverable(&digest);
            let (r, s) = (signature.r().to_bytes(), signature.s().to_bytes());
            let (secret, digest) = (const_hex::encode(secret), const_hex::encode(digest));
            writeln!(input, "{secret} {digest}").unwrap();
            let (r, s) = (const_hex::encode(r), const_hex::encode(s));
            writeln!(expected, "{r} {s} {}", recovery_id.to_byte()).unwrap();
        }
        let run = run(&["sign-vectors"], &input);
        prop_assert_eq!(run.status, Some(0));
        prop_assert_eq!(run.out, expected);
    }
}

#[test]
fn nothing_in_gives_nothing_out_and_the_last_line_may_lack_its_end() {
    let empty = run(&["sign-vectors"], "");
    assert_eq!((empty.status, empty.out.as_str()), (Some(0), ""));
    let line = format!("{ONE} {ONE}");
    let expected = run(&["sign-vectors"], &format!("{line}\n")).out;
    for spelling in [line.clone(), format!("{line}\r\n"), line.replace('f', "F")] {
        assert_eq!(run(&["sign-vectors"], &spelling).out, expected);
    }
}

#[test]
fn a_bad_line_is_named_and_what_came_before_is_signed() {
    let good = format!("{ONE} {ONE}");
    let zero = "0".repeat(64);
    let secret = "the secret is not in 1..n";
    let form = "not `secret digest`: two fields and one space";
    for (bad, fault) in [
        (format!("{zero} {ONE}"), secret),
        (format!("{ORDER} {ONE}"), secret),
        (format!("{} {ONE}", "f".repeat(64)), secret),
        (format!("{} {ONE}", &ONE[1..]), "the secret is not 64 hex digits"),
        (format!("0x{} {ONE}", &ONE[2..]), "the secret is not 64 hex digits"),
        (format!("{ONE} {ONE}00"), "the digest is not 64 hex digits"),
        (format!("{ONE} {}g", &ONE[1..]), "the digest is not 64 hex digits"),
        (format!("{ONE} {}é", &ONE[2..]), "the digest is not 64 hex digits"),
        (ONE.to_owned(), form),
        (format!("{good} {ONE}"), form),
        (format!("{good} "), form),
        (format!("{ONE}  {ONE}"), form),
        (format!(" {good}"), form),
        (String::new(), form),
        ("a ".repeat(1_000_000), form),
    ] {
        let run = run(&["sign-vectors"], &format!("{good}\n{good}\n{bad}\n{good}\n"));
        assert_eq!(run.status, Some(1), "{fault}");
        assert_eq!(run.out.lines().count(), 2, "{fault}");
        let expected = format!("line 3: {fault}");
        assert!(run.err.contains(&expected), "{expected}: {}", run.err);
        assert!(!run.err.contains(ONE), "a secret is not repeated");
    }
}
