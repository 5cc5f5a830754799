//! The PCR rule of Nitro images, from AWS's `nitro-cli`: a register starts as 48 zero bytes and is
//! extended once with the digest of what it measures.

use aws_lc_rs::digest::{Context, SHA384, digest};

/// A platform configuration register: SHA-384.
pub type Pcr = [u8; 48];

/// Role of the parent instance that process mode and the test KMS agree on; PCR3 of the software NSM.
pub const TEST_ROLE_ARN: &str = "arn:aws:iam::111122223333:role/sigil-test-parent";

/// Measurements of an enclave that is a process: the EIF rule over executable and pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessPcrs {
    /// Executable and pins.
    pub pcr0: Pcr,
    /// Executable.
    pub pcr1: Pcr,
    /// Pins.
    pub pcr2: Pcr,
    /// [`TEST_ROLE_ARN`].
    pub pcr3: Pcr,
}

/// `SHA-384(48 zero bytes | SHA-384(parts, concatenated))`.
pub fn extend(parts: &[&[u8]]) -> Pcr {
    let mut content = Context::new(&SHA384);
    for part in parts {
        content.update(part);
    }
    let mut register = Context::new(&SHA384);
    register.update(&[0; 48]);
    register.update(content.finish().as_ref());
    to_pcr(register.finish().as_ref())
}

/// PCR3 of an enclave whose parent instance has the role of this ARN: `SHA-384(48 zero bytes | ARN)`,
/// without a digest of its own, unlike the registers of an image.
pub fn parent_role(arn: &str) -> Pcr {
    let mut register = Context::new(&SHA384);
    register.update(&[0; 48]);
    register.update(arn.as_bytes());
    to_pcr(register.finish().as_ref())
}

/// PCR0, PCR1 and PCR2 of an enclave image file: PCR1 is code alone, PCR2 what was added to it.
pub fn eif(kernel: &[u8], command_line: &[u8], ramdisks: &[&[u8]]) -> [Pcr; 3] {
    let (first, others) = ramdisks.split_at(ramdisks.len().min(1));
    let code = [&[kernel, command_line], first].concat();
    [extend(&[&code, others].concat()), extend(&code), extend(others)]
}

/// Measures an enclave process.
pub fn process(executable: &[u8], pins: &[u8]) -> ProcessPcrs {
    ProcessPcrs {
        pcr0: extend(&[executable, pins]),
        pcr1: extend(&[executable]),
        pcr2: extend(&[pins]),
        pcr3: parent_role(TEST_ROLE_ARN),
    }
}

/// SHA-384, for naming pins files in reports.
pub fn sha384(bytes: &[u8]) -> Pcr {
    to_pcr(digest(&SHA384, bytes).as_ref())
}

fn to_pcr(digest: &[u8]) -> Pcr {
    let mut pcr = [0; 48];
    pcr.copy_from_slice(digest);
    pcr
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with `(head -c48 /dev/zero; printf abc | openssl dgst -sha384 -binary) | openssl
    /// dgst -sha384`.
    const EXTENDED_ABC: &str = "93732e3733514a841c982cfa75ea76ab55fe011acb9cd980ef4523913c65be1b0998e04d77f8c174f81a82151619ca40";

    /// The example of AWS's guide to Nitro Enclaves, "PCR3".
    const PCR3_OF_WEBSERVER: &str = "78fce75db17cd4e0a3fb8dad3ad128ca5e77edbb2b2c7f75329dccd99aa5f6ef4fc1f1a452e315b9e98f9e312e6921e6";

    #[test]
    fn the_parents_role_is_measured_as_aws_says() {
        let pcr3 = parent_role("arn:aws:iam::123456789012:role/Webserver");
        assert_eq!(const_hex::encode(pcr3), PCR3_OF_WEBSERVER);
    }

    #[test]
    fn the_rule_matches_openssl() {
        assert_eq!(const_hex::encode(extend(&[b"a", b"bc"])), EXTENDED_ABC);
    }

    #[test]
    fn an_image_is_its_kernel_command_line_and_ramdisks_in_this_order() {
        let [pcr0, pcr1, pcr2] = eif(b"kernel", b"line", &[b"code", b"pins", b"more"]);
        assert_eq!(pcr0, extend(&[b"kernellinecodepinsmore"]));
        assert_eq!(pcr1, extend(&[b"kernellinecode"]));
        assert_eq!(pcr2, extend(&[b"pinsmore"]));
        assert_eq!(eif(b"kernel", b"line", &[b"code"]), [pcr1, pcr1, extend(&[])]);
    }

    #[test]
    fn pcr0_covers_both_parts_and_the_others_one() {
        let base = process(b"code", b"pins");
        let code = process(b"Code", b"pins");
        let pins = process(b"code", b"Pins");
        assert!(base.pcr0 != code.pcr0 && base.pcr1 != code.pcr1 && base.pcr2 == code.pcr2);
        assert!(base.pcr0 != pins.pcr0 && base.pcr1 == pins.pcr1 && base.pcr2 != pins.pcr2);
        assert_eq!(base.pcr0, extend(&[b"codepins"]));
    }
}
