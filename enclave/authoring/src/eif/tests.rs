use crate::measure;
use proptest::prelude::*;

use super::*;

const CRC_AT: usize = HEADER_BYTES - 4;

fn small() -> Eif<'static> {
    Eif {
        arch: Arch::X86_64,
        kernel: b"kernel",
        command_line: "console=ttyS0",
        metadata: b"{}",
        ramdisks: vec![b"code", b"pins"],
        signature: None,
    }
}

/// What a hostile writer does, who knows the CRC too.
fn with_crc(mut file: Vec<u8>) -> Vec<u8> {
    let crc = write::crc(&file[..CRC_AT], &file[HEADER_BYTES..]);
    file[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_be_bytes());
    file
}

fn part(file: &[u8]) -> &'static str {
    parse(file).unwrap_err().part
}

fn hex(bytes: &[u8]) -> String {
    const_hex::encode(bytes)
}

/// The values are printed by `python3 enclave/authoring/testdata/golden_eif.py`.
#[test]
fn an_independent_writer_gives_the_same_bytes_and_registers() {
    let file = small().to_bytes().unwrap();
    assert_eq!(file.len(), 637);
    assert_eq!(
        hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &file).as_ref()),
        "9e516513591f0f15a9ba82c9d2b863fc9e6e170af9bfb0445f797135a2828da4"
    );
    let registers = parse(&file).unwrap().measure().map(|pcr| hex(&pcr));
    let expected = [
        "31e482261365609f64bfa0484a133e4ed0f2e702ed9bd46070b9926bf93df59103df2b58ea99237e6b0520a94806c5ae",
        "3da375f3d1dde7f50eed9c8bd3c6b530c78e754af3ee4943fcb92e0b300614e7ec71bf047ba3afbd277ebbf2a0c46eca",
        "f93b6ce59b18bc5b51bae460e2a43f8876c02d5c9fd336063dea69e04c99c16e627c90b08304af1df5ac514ab7aac1d0",
    ];
    assert_eq!(registers, expected);
}

#[test]
fn metadata_and_signature_are_not_measured_and_everything_else_is() {
    let base = small().measure();
    assert_eq!(Eif { metadata: b"{1}", signature: Some(b"s"), ..small() }.measure(), base);
    for other in [
        Eif { kernel: b"Kernel", ..small() },
        Eif { command_line: "console=ttyS1", ..small() },
        Eif { ramdisks: vec![b"Code", b"pins"], ..small() },
        Eif { ramdisks: vec![b"code", b"Pins"], ..small() },
    ] {
        assert_ne!(other.measure()[0], base[0]);
    }
    assert_eq!(base[2], measure::extend(&[b"pins"]));
}

#[test]
fn every_cut_and_every_flipped_bit_is_refused() {
    let file = Eif { signature: Some(b"signature"), ..small() }.to_bytes().unwrap();
    assert!(parse(&file).is_ok());
    for end in 0..file.len() {
        assert!(parse(&file[..end]).is_err(), "cut at {end}");
    }
    for bit in 0..file.len() * 8 {
        let mut flipped = file.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(parse(&flipped).is_err(), "bit {bit}");
    }
    assert_eq!(part(&[file.as_slice(), &[0]].concat()), "CRC");
    assert_eq!(part(&with_crc([file.as_slice(), &[0]].concat())), "sections");
}

#[test]
fn each_byte_changed_under_a_right_crc_is_refused_or_another_image() {
    let file = Eif { signature: Some(b"signature"), ..small() }.to_bytes().unwrap();
    for at in (0..file.len()).filter(|at| !(CRC_AT..HEADER_BYTES).contains(at)) {
        for value in [0, 1, file[at] ^ 1, 0xff] {
            let mut changed = file.clone();
            changed[at] = value;
            let changed = with_crc(changed);
            if let Ok(eif) = parse(&changed) {
                assert_eq!(eif.to_bytes().unwrap(), changed, "byte {at}");
            }
        }
    }
}

/// A file of these sections with an otherwise right header.
fn of_sections(sections: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (kind, data) in sections {
        body.extend(kind.to_be_bytes());
        body.extend([0, 0]);
        body.extend((data.len() as u64).to_be_bytes());
        body.extend_from_slice(data);
    }
    let header = small().to_bytes().unwrap()[..HEADER_BYTES].to_vec();
    with_crc([header, body].concat())
}

#[test]
fn sections_are_complete_known_and_in_order() {
    let [kernel, line, code, metadata]: [(u16, &[u8]); 4] =
        [(1, b"kernel"), (2, b"console=ttyS0"), (3, b"code"), (5, b"{}")];
    for (sections, expected) in [
        (vec![line, kernel, metadata, code], "kernel"),
        (vec![kernel, metadata, line, code], "command line"),
        (vec![kernel, line, code, metadata], "metadata"),
        (vec![kernel, kernel, line, metadata, code], "command line"),
        (vec![kernel, line, metadata, code, metadata], "sections"),
        (vec![kernel, line, metadata], "ramdisks"),
        (vec![kernel, line, metadata, code, (4, b"s"), code], "sections"),
        (vec![kernel, line, metadata, code, (6, b"")], "sections"),
        (vec![kernel, line, metadata, code, (0, b"")], "sections"),
        (vec![kernel, (2, b"a\0b"), metadata, code], "command line"),
        (vec![kernel, (2, b"\xff"), metadata, code], "command line"),
        (vec![(1, b""), line, metadata, code], "kernel"),
        (vec![kernel, line, metadata, (3, b"")], "ramdisks"),
        // The header still says that there are two ramdisks.
        (vec![kernel, line, metadata, code], "header"),
        ([vec![kernel, line, metadata], vec![code; 30]].concat(), "sections"),
    ] {
        assert_eq!(part(&of_sections(&sections)), expected, "{sections:?}");
    }
}

#[test]
fn sizes_that_lie_allocate_nothing_and_are_refused() {
    let mut file = small().to_bytes().unwrap();
    file[HEADER_BYTES + 4..HEADER_BYTES + 12].copy_from_slice(&u64::MAX.to_be_bytes());
    assert_eq!(part(&with_crc(file)), "sections");
    assert_eq!(part(b""), "file");
    assert_eq!(part(&vec![0; EIF_BYTES_MAX + 1]), "file");
    assert_eq!(part(&[0; HEADER_BYTES]), "header");
}

#[test]
fn other_files_and_versions_say_what_they_are() {
    let change = |at: usize, value: u8| {
        let mut file = small().to_bytes().unwrap();
        file[at] = value;
        parse(&file).unwrap_err().to_string()
    };
    assert!(change(0, b'E').contains("not an EIF"));
    assert!(change(5, 3).contains("version 3, expected 4"));
    assert!(change(7, 2).contains("flags"));
    assert!(change(636, 0).contains("CRC"));
}

#[test]
fn what_breaks_a_bound_is_not_written() {
    let long = "a".repeat(COMMAND_LINE_BYTES_MAX + 1);
    let side = vec![0; SIDE_SECTION_BYTES_MAX + 1];
    let large = vec![0; EIF_BYTES_MAX];
    for (eif, expected) in [
        (Eif { kernel: b"", ..small() }, "kernel"),
        (Eif { command_line: &long, ..small() }, "command line"),
        (Eif { command_line: "a\nb", ..small() }, "command line"),
        (Eif { metadata: &side, ..small() }, "metadata"),
        (Eif { signature: Some(&side), ..small() }, "signature"),
        (Eif { ramdisks: vec![], ..small() }, "ramdisks"),
        (Eif { ramdisks: vec![b""], ..small() }, "ramdisks"),
        (Eif { ramdisks: vec![b"r"; SECTIONS_MAX - 2], ..small() }, "sections"),
        (Eif { kernel: &large, ..small() }, "file"),
    ] {
        assert_eq!(eif.to_bytes().unwrap_err().part, expected);
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        aarch64: bool,
        kernel in prop::collection::vec(any::<u8>(), 1..200),
        command_line in "[ -~]{1,80}",
        metadata in prop::collection::vec(any::<u8>(), 1..50),
        ramdisks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 1..28),
        signature in prop::option::of(prop::collection::vec(any::<u8>(), 1..50)),
    ) {
        let eif = Eif {
            arch: if aarch64 { Arch::Aarch64 } else { Arch::X86_64 },
            kernel: &kernel,
            command_line: &command_line,
            metadata: &metadata,
            ramdisks: ramdisks.iter().map(Vec::as_slice).collect(),
            signature: signature.as_deref(),
        };
        let file = eif.to_bytes().unwrap();
        prop_assert_eq!(parse(&file).unwrap(), eif);
    }

    #[test]
    fn no_bytes_panic_and_what_is_read_has_one_spelling(
        sections in prop::collection::vec((0_u16..7, prop::collection::vec(any::<u8>(), 0..20)), 0..8),
        change in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let sections: Vec<_> = sections.iter().map(|(kind, data)| (*kind, data.as_slice())).collect();
        let mut file = of_sections(&sections);
        if let Some((at, value)) = change {
            let at = at.index(file.len());
            file[at] = value;
            file = with_crc(file);
        }
        if let Ok(eif) = parse(&file) {
            prop_assert_eq!(eif.to_bytes().unwrap(), file);
        }
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..1_000)) {
        prop_assert!(parse(&bytes).is_err());
    }
}
