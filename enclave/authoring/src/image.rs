//! Sigil's own images: the base image, which is the code, and the pinned image, which is the base
//! and what one deployment may never be talked out of.

use serde::{Deserialize, Serialize};
use sigil_enclave_image::pins::{PINS_BYTES_MAX, Pins};

use crate::eif::cpio::{self, Entry};
use crate::eif::{Arch, Eif, EifError};
use crate::measurements::Measurements;

/// Command line of the kernel, measured. Nitro's own has two words more: `pci=off` and `nomodules`
/// would only become environment and argument of init, since our kernel has neither PCI nor modules.
pub const COMMAND_LINE: &str = concat!(
    // A restart goes through the keyboard controller, the only way out of a Nitro enclave.
    "reboot=k ",
    // The enclave is init: when it ends, the kernel panics, and whoever runs it starts another. At
    // once, for the keys in memory are of no use any more. Nitro's own images wait 30 s.
    "panic=-1 ",
    // Shown by debug enclaves and by QEMU only.
    "console=ttyS0 ",
    // The NSM is the source of randomness; the processor's and the loader's count for nothing.
    "random.trust_cpu=off random.trust_bootloader=off ",
    // Freed memory is cleared, so that a key that was forgotten is nowhere.
    "init_on_free=1 ",
    // No AVX. To save its registers the processor writes only those in use: what was saved before in
    // the place of the others, half of a key perhaps, would stay. The old instruction writes all.
    "clearcpuid=xsave"
);

const PINS_FILE: &str = "pins.cbor";
/// Bytes of the ramdisk around pins: 120 before them, 3 for their padding, 124 behind.
const PINS_RAMDISK_BYTES_MAX: usize = PINS_BYTES_MAX + 247;

/// Which binary is init.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Program {
    /// The production enclave.
    #[serde(rename = "sigil-enclave")]
    Production,
    /// The development enclave: it needs `insecure: true` in its pins, as the other refuses it.
    #[serde(rename = "sigil-enclave-insecure")]
    Insecure,
}

/// The metadata section, in the words of AWS's tools (`nitro-cli describe-eif` prints it). Nothing in
/// it tells one build from another.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Identity {
    image_name: Program,
    image_version: String,
    build_metadata: BuildMetadata,
    docker_info: Empty,
    custom_metadata: Empty,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct BuildMetadata {
    build_time: String,
    build_tool: String,
    build_tool_version: String,
    operating_system: String,
    kernel_version: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Empty {}

/// A pinned image and what it measures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// The EIF.
    pub eif: Vec<u8>,
    /// What stands in `measurements.json`.
    pub measurements: Measurements,
}

/// Makes the base image: `kernel`, [`COMMAND_LINE`], and one ramdisk in which `enclave` is `/init`
/// and nothing else can be run. It cannot boot: the enclave wants pins.
///
/// # Errors
/// A part is larger than an image may hold.
pub fn base(
    arch: Arch,
    kernel: &[u8],
    enclave: &[u8],
    program: Program,
) -> Result<Vec<u8>, EifError> {
    let metadata = metadata(kernel, program)?;
    let ramdisk = code_ramdisk(enclave)?;
    Eif {
        arch,
        kernel,
        command_line: COMMAND_LINE,
        metadata: &metadata,
        ramdisks: vec![&ramdisk],
        signature: None,
    }
    .to_bytes()
}

/// Adds pins to a base image. No compiler, no network: whoever has `base` and the same pins gets the
/// same bytes.
///
/// # Errors
/// `base` is not a base image of ours, or the pins are not for it; the error names part and fix.
pub fn pin(base: &[u8], pins: &Pins) -> Result<Pinned, EifError> {
    let mut eif = crate::eif::parse(base)?;
    if eif.ramdisks.len() != 1 {
        let problem = "this image has pins already: give the base image, base.eif";
        return Err(EifError::new("ramdisks", problem));
    }
    if eif.signature.is_some() {
        let problem = "pins would make it wrong: pin the unsigned base image, then sign";
        return Err(EifError::new("signature", problem));
    }
    let insecure = program(&eif)? == Program::Insecure;
    if insecure != pins.insecure {
        let problem = format!("insecure: the program of this base image asks for `{insecure}`");
        return Err(EifError::new("pins", problem));
    }
    let ramdisk = pins_ramdisk(&pins.encode()?)?;
    eif.ramdisks.push(&ramdisk);
    Ok(Pinned { measurements: Measurements::of_eif(&eif)?, eif: eif.to_bytes()? })
}

/// The ramdisk that holds `pins.cbor` and nothing else: a function of these bytes alone, so that a
/// verifier who knows the pins computes PCR2, and PCR0 with the base image.
///
/// # Errors
/// Larger than pins can be.
pub fn pins_ramdisk(pins: &[u8]) -> Result<Vec<u8>, EifError> {
    if pins.len() > PINS_BYTES_MAX {
        let problem = format!("{} bytes, at most {PINS_BYTES_MAX}", pins.len());
        return Err(EifError::new("pins", problem));
    }
    cpio::write(&[Entry { name: PINS_FILE, mode: cpio::DATA, data: pins }])
}

/// The bytes of `pins.cbor` in a pinned image.
///
/// # Errors
/// Not an image with one ramdisk of code and one of pins.
pub fn pins_of<'a>(eif: &Eif<'a>) -> Result<&'a [u8], EifError> {
    let [_, ramdisk] = *eif.ramdisks.as_slice() else {
        let problem = "expected two: code, and pins (`ctl pin-image --base` adds them)";
        return Err(EifError::new("ramdisks", problem));
    };
    if ramdisk.len() > PINS_RAMDISK_BYTES_MAX {
        return Err(EifError::new("ramdisks", "the second one is larger than pins can be"));
    }
    match *cpio::read(ramdisk)?.as_slice() {
        [Entry { name: PINS_FILE, mode: cpio::DATA, data }] if data.len() <= PINS_BYTES_MAX => {
            Ok(data)
        }
        _ => Err(EifError::new("ramdisks", "expected pins.cbor alone in the second one")),
    }
}

/// Which binary the metadata says is init. Not measured: a hint that gives a clear error early.
fn program(eif: &Eif<'_>) -> Result<Program, EifError> {
    serde_json::from_slice::<Identity>(eif.metadata)
        .map(|identity| identity.image_name)
        .map_err(|error| EifError::new("metadata", format!("not an image of Sigil: {error}")))
}

/// Init makes the folders that it mounts on. The empty file is what its runtime opens, before any
/// code of ours, where the kernel has no console to give it, as in an enclave that is not in debug
/// mode: without one it would end there. `/dev` itself is part of every kernel's own ramdisk.
fn code_ramdisk(enclave: &[u8]) -> Result<Vec<u8>, EifError> {
    cpio::write(&[
        Entry { name: "dev/null", mode: cpio::DATA, data: &[] },
        Entry { name: "init", mode: cpio::EXECUTABLE, data: enclave },
    ])
}

fn metadata(kernel: &[u8], program: Program) -> Result<Vec<u8>, EifError> {
    let identity = Identity {
        image_name: program,
        image_version: env!("CARGO_PKG_VERSION").to_owned(),
        build_metadata: BuildMetadata {
            // A real time would make two builds of the same sources different files.
            build_time: "1970-01-01T00:00:00+00:00".to_owned(),
            build_tool: "sigil".to_owned(),
            build_tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            operating_system: "Linux".to_owned(),
            kernel_version: kernel_version(kernel).unwrap_or("unknown").to_owned(),
        },
        docker_info: Empty {},
        custom_metadata: Empty {},
    };
    serde_json::to_vec(&identity).map_err(|error| EifError::new("metadata", error.to_string()))
}

/// First word of the version text of a bzImage: the header says at 0x20e where it is, less 512
/// (`Documentation/arch/x86/boot.rst`).
fn kernel_version(kernel: &[u8]) -> Option<&str> {
    let at = kernel.get(0x20e..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))?;
    (kernel.get(0x202..0x206)? == b"HdrS" && at != 0).then_some(())?;
    let text = kernel.get(usize::from(at) + 512..)?;
    let word = text.split(|byte| *byte == 0 || *byte == b' ').next()?;
    std::str::from_utf8(word).ok().filter(|word| (1..=64).contains(&word.len()))
}

#[cfg(test)]
mod tests;
