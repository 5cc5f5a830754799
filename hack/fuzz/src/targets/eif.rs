//! Enclave image files and their ramdisks: what is read is written again as the same bytes. Each
//! input is read as it is, and once more with its CRC made right, or nothing behind it is reached.

use sigil_image_authoring::eif::{self, Arch, Eif, cpio};
use sigil_image_authoring::image::{self, Program};
use sigil_image_authoring::measurements::Measurements;

use crate::Target;
use crate::fixtures::pins;

pub(crate) const TARGET: Target = Target {
    name: "eif",
    input_bytes_max: 8 * 1024,
    memory_bytes_max: 256 * 1024,
    check,
    seeds: || {
        let base = image::base(Arch::X86_64, b"a kernel", b"\x7fELF", Program::Production);
        let base = base.expect("a base image");
        let pinned = image::pin(&base, &pins()).expect("a pinned image").eif;
        let mut parsed = eif::parse(&pinned).expect("what was written");
        parsed.signature = Some(b"a signature");
        parsed.arch = Arch::Aarch64;
        let signed = parsed.to_bytes().expect("a signed image");
        let ramdisk = image::pins_ramdisk(b"pins").expect("a ramdisk");
        vec![base, signed, ramdisk, pinned]
    },
};

/// The CRC stands in bytes 544 to 547.
const CRC_AT: usize = 544;

fn check(input: &[u8]) {
    if let Ok(entries) = cpio::read(input) {
        assert_eq!(cpio::write(&entries).as_deref(), Ok(input), "one archive of its entries");
    }
    read(input);
    let mut mended = input.to_vec();
    let Some((described, rest)) = input.split_at_checked(CRC_AT) else { return };
    let Some((_, body)) = rest.split_at_checked(4) else { return };
    let crc = crc32(&[described, body].concat());
    mended[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
    read(&mended);
}

fn read(bytes: &[u8]) {
    let Ok(image) = eif::parse(bytes) else { return };
    assert_eq!(image.to_bytes().as_deref(), Ok(bytes), "one file of its parts");
    registers(&image);
    let Ok(pinned) = image::pins_of(&image) else { return };
    assert_eq!(image::pins_ramdisk(pinned).as_deref(), Ok(image.ramdisks[1]));
    let Ok(measured) = Measurements::of_eif(&image) else { return };
    let json = measured.to_json().expect("JSON");
    assert_eq!(Measurements::from_json(&json).ok(), Some(measured));
}

/// Whatever is measured is in PCR0, and code alone in PCR1.
fn registers(image: &Eif<'_>) {
    let [pcr0, pcr1, _] = image.measure();
    assert_eq!(pcr0 == pcr1, image.ramdisks.len() == 1);
}

/// Bit by bit (ISO 3309), independent of the crate that the reader uses.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }
        })
    })
}
