//! `pins.cbor`: what decodes is written again as the same bytes, and keeps to its rules.

use sigil_enclave_image::pins::{PINS_BYTES_MAX, Pins, VerifyMode};

use crate::Target;
use crate::fixtures::pins;

pub(crate) const TARGET: Target = Target {
    name: "pins",
    input_bytes_max: PINS_BYTES_MAX + 1_024,
    memory_bytes_max: 512 * 1024,
    check,
    seeds: || {
        let full = Pins { verify_mode: VerifyMode::Full, insecure: true, ..pins() };
        [pins(), full].iter().flat_map(Pins::encode).collect()
    },
};

fn check(input: &[u8]) {
    let Ok(pins) = Pins::decode(input) else { return };
    assert_eq!(pins.encode().as_deref(), Ok(input), "one encoding of one meaning");
    for rule in &pins.rules {
        let longest = pins.rule_for(&rule.prefix).expect("its own rule matches a prefix");
        assert_eq!(longest, rule, "the longest prefix wins");
        assert!(rule.key_arns.iter().all(|arn| arn.contains(&format!(":{}:", rule.region))));
    }
    let ceilings = pins.ceilings;
    assert!(ceilings.key_soft_s < ceilings.key_hard_s && ceilings.dek_soft_s < ceilings.dek_hard_s);
}
