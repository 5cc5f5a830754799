use super::*;

/// `printf pins > pins.cbor; chmod 444 pins.cbor; touch -d @0 pins.cbor; echo pins.cbor |
/// cpio --quiet --reproducible -R 0:0 -o -H newc`, whose inode number, and whose padding behind the
/// trailer (to 512 bytes), are left out here.
const GNU: &str = "07070100000000000081240000000000000000000000010000000000000004000000000000000000000000000000000000000A00000000pins.cbor\0pins07070100000000000000000000000000000000000000010000000000000000000000000000000000000000000000000000000B00000000TRAILER!!!\0\0\0\0";

fn pins() -> Entry<'static> {
    Entry { name: "pins.cbor", mode: DATA, data: b"pins" }
}

#[test]
fn an_archive_is_what_gnu_cpio_writes() {
    assert_eq!(write(&[pins()]).unwrap(), GNU.as_bytes());
}

#[test]
fn what_is_written_is_read_and_the_order_of_writing_does_not_matter() {
    let init = Entry { name: "init", mode: EXECUTABLE, data: b"\x7fELF!" };
    let archive = write(&[pins(), init.clone()]).unwrap();
    assert_eq!(archive, write(&[init.clone(), pins()]).unwrap());
    assert_eq!(archive.len() % 4, 0, "the next archive follows aligned");
    assert_eq!(read(&archive).unwrap(), [init, pins()]);
}

#[test]
fn only_the_canonical_archive_is_read() {
    let archive = write(&[pins()]).unwrap();
    for end in 0..archive.len() {
        assert!(read(&archive[..end]).is_err(), "cut at {end}");
    }
    for at in 0..archive.len() {
        let mut changed = archive.clone();
        changed[at] ^= 1;
        // Another name, mode, or content is another archive; everything else is refused.
        if let Ok(entries) = read(&changed) {
            assert_ne!(entries, [pins()], "byte {at}");
            assert_eq!(write(&entries).unwrap(), changed, "byte {at}");
        }
    }
    assert!(read(&[archive.as_slice(), &[0; 4]].concat()).is_err(), "trailing bytes");
    assert!(read(&archive[..archive.len() - 124]).is_err(), "no trailer");
    let lower = GNU.replace("0000000A", "0000000a").replace("0000000B", "0000000b");
    assert!(read(lower.as_bytes()).is_err(), "lower-case digits");
    let owned = GNU.replacen("000081240000000000", "00008124000003E800", 1);
    assert!(read(owned.as_bytes()).is_err(), "owned by somebody");
}

#[test]
fn many_entries_and_bad_names_are_refused() {
    let names: Vec<String> = (0..=ENTRIES_MAX).map(|index| format!("{index:03}")).collect();
    let entries: Vec<_> = names.iter().map(|name| Entry { name, mode: DATA, data: &[] }).collect();
    assert!(read(&write(&entries[1..]).unwrap()).is_ok());
    assert!(read(&write(&entries).unwrap()).is_err());
    for name in ["", "TRAILER!!!", "a\0b"] {
        assert!(write(&[Entry { name, mode: DATA, data: &[] }]).is_err(), "{name:?}");
    }
}
