//! `measurements.json`: what is read is written in one form, which reads as the same.

use sigil_image_authoring::measurements::Measurements;

use crate::Target;
use crate::fixtures::pins;

pub(crate) const TARGET: Target = Target {
    name: "measurements",
    input_bytes_max: 16 * 1024,
    memory_bytes_max: 2 * 1024 * 1024,
    check,
    seeds: || {
        let pins = pins().encode().expect("good pins");
        let process = Measurements::of_process(b"executable", &pins).expect("good pins");
        let mut eif = process.clone();
        eif.kind = sigil_image_authoring::measurements::ImageKind::Eif;
        eif.kernel_sha256 = Some([7; 32]);
        eif.pcr3 = None;
        [process, eif].iter().flat_map(Measurements::to_json).map(String::into_bytes).collect()
    },
};

fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(measurements) = Measurements::from_json(text) else { return };
    let written = measurements.to_json().expect("JSON");
    let again = Measurements::from_json(&written).expect("what was written");
    assert_eq!(again, measurements);
    assert_eq!(again.to_json().ok(), Some(written), "one form");
}
