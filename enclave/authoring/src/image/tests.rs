use crate::measure;
use sigil_enclave_image::pins::{Ceilings, KeyspaceRule, VerifyMode};

use super::*;
use crate::eif::parse;
use crate::measurements::ImageKind;

const KERNEL: &[u8] = b"a kernel";

fn pins(insecure: bool) -> Pins {
    Pins {
        app: "demo".into(),
        rules: vec![KeyspaceRule {
            prefix: String::new(),
            key_arns: vec!["arn:aws:kms:us-east-1:111122223333:key/a".into()],
            region: "us-east-1".into(),
            host: "kms.us-east-1.amazonaws.com".into(),
        }],
        tls_roots: vec![vec![1]],
        attestation_root: vec![2],
        verify_mode: VerifyMode::BatchSample,
        ceilings: Ceilings::default(),
        parent_cid: 3,
        insecure,
    }
}

fn base_image() -> Vec<u8> {
    base(Arch::X86_64, KERNEL, b"\x7fELF", Program::Production).unwrap()
}

fn refused(base: &[u8], pins: &Pins) -> String {
    pin(base, pins).unwrap_err().to_string()
}

#[test]
fn the_base_image_holds_the_enclave_and_nothing_else() {
    let base = base_image();
    let eif = parse(&base).unwrap();
    assert_eq!(eif.ramdisks.len(), 1);
    let expected = [
        Entry { name: "dev/null", mode: cpio::DATA, data: b"" },
        Entry { name: "init", mode: cpio::EXECUTABLE, data: b"\x7fELF" },
    ];
    assert_eq!(cpio::read(eif.ramdisks[0]).unwrap(), expected);
    assert_eq!((eif.kernel, eif.command_line), (KERNEL, COMMAND_LINE));
    assert_eq!(base, base_image(), "repeatable");
}

#[test]
fn the_kernel_takes_every_word_of_the_command_line_for_itself() {
    // What it does not know and has neither `=` nor `.` would become an argument of init.
    assert!(COMMAND_LINE.split(' ').all(|word| word.contains('=')), "{COMMAND_LINE}");
    for word in ["init_on_free=1", "clearcpuid=xsave", "random.trust_cpu=off"] {
        assert!(COMMAND_LINE.split(' ').any(|there| there == word), "{word}");
    }
    assert!(!COMMAND_LINE.contains("  ") && COMMAND_LINE.trim() == COMMAND_LINE);
}

#[test]
fn pins_are_added_and_code_stays_the_same() {
    let pins = pins(false);
    let encoded = pins.encode().unwrap();
    let pinned = pin(&base_image(), &pins).unwrap();
    let eif = parse(&pinned.eif).unwrap();
    assert_eq!(pins_of(&eif).unwrap(), encoded);
    let base = base_image();
    let base = parse(&base).unwrap();
    assert_eq!((eif.metadata, eif.ramdisks[0]), (base.metadata, base.ramdisks[0]));

    // What a verifier computes who has the base image and the pins.
    let ramdisk = pins_ramdisk(&encoded).unwrap();
    let measured = pinned.measurements;
    assert_eq!(measured.pcr1, base.measure()[1]);
    assert_eq!(measured.pcr2, measure::extend(&[&ramdisk]));
    let line = COMMAND_LINE.as_bytes();
    assert_eq!(measured.pcr0, measure::extend(&[KERNEL, line, base.ramdisks[0], &ramdisk]));
    assert_eq!(measured.pins_sha384, measure::sha384(&encoded));
    assert_eq!((measured.kind, measured.arch.as_str()), (ImageKind::Eif, "x86_64"));
    assert_eq!((measured.pcr3, measured.insecure), (None, false));
    // sha256sum of "a kernel"
    assert_eq!(
        const_hex::encode(measured.kernel_sha256.unwrap()),
        "4fff0d3e643b3894c17a0738fbdc591953aa722c9d42774425090accc4377126"
    );
}

#[test]
fn a_base_image_that_cannot_take_these_pins_says_why() {
    let good = base_image();
    let pinned = pin(&good, &pins(false)).unwrap().eif;
    assert!(refused(&pinned, &pins(false)).contains("has pins already"));
    assert!(refused(&good, &pins(true)).contains("pins: insecure"));
    let insecure = base(Arch::X86_64, KERNEL, b"\x7fELF", Program::Insecure).unwrap();
    assert!(refused(&insecure, &pins(false)).contains("asks for `true`"));
    assert!(pin(&insecure, &pins(true)).unwrap().measurements.insecure);
    let mut bad_pins = pins(false);
    bad_pins.app = "Demo".into();
    assert!(refused(&good, &bad_pins).contains("pins: app"));

    let eif = parse(&good).unwrap();
    let signed = Eif { signature: Some(b"s"), ..eif.clone() }.to_bytes().unwrap();
    assert!(refused(&signed, &pins(false)).contains("then sign"));
    let foreign = Eif { metadata: br#"{"ImageName":"x"}"#, ..eif }.to_bytes().unwrap();
    assert!(refused(&foreign, &pins(false)).contains("metadata"));
    assert!(refused(&good[..good.len() - 1], &pins(false)).contains("CRC"));
}

#[test]
fn an_image_without_pins_or_with_something_beside_them_has_no_measurements() {
    let base = base_image();
    let mut eif = parse(&base).unwrap();
    assert!(Measurements::of_eif(&eif).unwrap_err().to_string().contains("pin-image"));
    let encoded = pins(false).encode().unwrap();
    let pins = Entry { name: "pins.cbor", mode: cpio::DATA, data: &encoded };
    let shell = Entry { name: "sh", mode: cpio::EXECUTABLE, data: b"#!" };
    for entries in [
        vec![pins.clone(), shell.clone()],
        vec![shell],
        vec![Entry { mode: cpio::EXECUTABLE, ..pins.clone() }],
        vec![Entry { name: "init", ..pins.clone() }],
        vec![],
    ] {
        let ramdisk = cpio::write(&entries).unwrap();
        let eif = Eif { ramdisks: vec![eif.ramdisks[0], &ramdisk], ..eif.clone() };
        let error = Measurements::of_eif(&eif).unwrap_err().to_string();
        assert!(error.contains("pins.cbor alone"), "{error}");
    }
    let largest = pins_ramdisk(&vec![0; PINS_BYTES_MAX]).unwrap();
    let with = |ramdisk| Eif { ramdisks: vec![eif.ramdisks[0], ramdisk], ..eif.clone() };
    assert_eq!(pins_of(&with(&largest)).unwrap().len(), PINS_BYTES_MAX);
    let huge = vec![0; PINS_RAMDISK_BYTES_MAX + 1];
    assert!(pins_of(&with(&huge)).unwrap_err().to_string().contains("larger than pins"));
    let unusable = pins_ramdisk(b"no pins").unwrap();
    eif.ramdisks.push(&unusable);
    assert!(Measurements::of_eif(&eif).unwrap_err().to_string().contains("pins.cbor"));
    assert!(pins_ramdisk(&vec![0; PINS_BYTES_MAX + 1]).is_err());
}

#[test]
fn the_metadata_names_the_kernel_and_no_time() {
    let mut kernel = vec![0; 0x300];
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x20e..0x210].copy_from_slice(&0x50_u16.to_le_bytes());
    kernel[0x250..0x264].copy_from_slice(b"6.12.95-sigil (a@b)\0");
    assert_eq!(kernel_version(&kernel), Some("6.12.95-sigil"));
    let text = String::from_utf8(metadata(&kernel, Program::Production).unwrap()).unwrap();
    assert!(text.contains(r#""ImageName":"sigil-enclave","#), "{text}");
    assert!(text.contains(r#""BuildTime":"1970-01-01T00:00:00+00:00""#), "{text}");
    assert!(text.contains(r#""KernelVersion":"6.12.95-sigil""#), "{text}");
    for end in 0..0x260 {
        assert!(kernel_version(&kernel[..end]).is_none_or(|text| text.len() < 14), "{end}");
    }
    assert_eq!(kernel_version(&[0xff; 0x300]), None);
}
