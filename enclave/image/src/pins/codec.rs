//! Deterministic CBOR of pins. Decoding accepts exactly what encoding would write.

use std::convert::Infallible;

use minicbor::decode::Error;
use minicbor::{Decoder, Encoder};

use super::{
    Ceilings, KEY_ARNS_MAX, KeyspaceRule, PINS_BYTES_MAX, Pins, RULES_MAX, TLS_ROOTS_MAX,
    VerifyMode,
};

const VERSION: u8 = 1;
const FIELDS: u64 = 9;

/// Pins that cannot be used, with the field at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pins: {field}: {problem}")]
pub struct PinsError {
    /// Name of the field in pins.yaml.
    pub field: &'static str,
    /// What is wrong and what was expected.
    pub problem: String,
}

impl PinsError {
    /// Names the field and what is expected there.
    pub fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self { field, problem: problem.into() }
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<Pins, PinsError> {
    if bytes.len() > PINS_BYTES_MAX {
        let problem = format!("{} bytes, at most {PINS_BYTES_MAX}", bytes.len());
        return Err(PinsError::new("pins.cbor", problem));
    }
    let mut decoder = Decoder::new(bytes);
    let pins = read(&mut decoder)
        .map_err(|error| PinsError::new("pins.cbor", format!("not pins: {error}")))?;
    pins.check()?;
    // One encoding for one meaning: no trailing bytes, no other order, no longer integers.
    if encode(&pins) != bytes {
        return Err(PinsError::new("pins.cbor", "not the deterministic encoding"));
    }
    Ok(pins)
}

fn read(decoder: &mut Decoder<'_>) -> Result<Pins, Error> {
    if decoder.map()? != Some(FIELDS) {
        return Err(Error::message("expected a map of nine fields"));
    }
    key(decoder, 0)?;
    if decoder.u8()? != VERSION {
        return Err(Error::message("unknown version"));
    }
    key(decoder, 1)?;
    let app = decoder.str()?.to_owned();
    key(decoder, 2)?;
    let rules = list(decoder, RULES_MAX, read_rule)?;
    key(decoder, 3)?;
    let tls_roots = list(decoder, TLS_ROOTS_MAX, |decoder| Ok(decoder.bytes()?.to_vec()))?;
    key(decoder, 4)?;
    let attestation_root = decoder.bytes()?.to_vec();
    key(decoder, 5)?;
    let verify_mode = match decoder.u8()? {
        1 => VerifyMode::BatchSample,
        2 => VerifyMode::Full,
        _ => return Err(Error::message("unknown verify mode")),
    };
    key(decoder, 6)?;
    let limits = list(decoder, 5, Decoder::u32)?;
    let &[key_soft_s, key_hard_s, key_uses, dek_soft_s, dek_hard_s] = limits.as_slice() else {
        return Err(Error::message("expected five ceilings"));
    };
    let ceilings = Ceilings { key_soft_s, key_hard_s, key_uses, dek_soft_s, dek_hard_s };
    key(decoder, 7)?;
    let parent_cid = decoder.u32()?;
    key(decoder, 8)?;
    let insecure = decoder.bool()?;
    Ok(Pins {
        app,
        rules,
        tls_roots,
        attestation_root,
        verify_mode,
        ceilings,
        parent_cid,
        insecure,
    })
}

fn read_rule(decoder: &mut Decoder<'_>) -> Result<KeyspaceRule, Error> {
    if decoder.array()? != Some(4) {
        return Err(Error::message("expected four parts of a keyspace rule"));
    }
    Ok(KeyspaceRule {
        prefix: decoder.str()?.to_owned(),
        key_arns: list(decoder, KEY_ARNS_MAX, |decoder| Ok(decoder.str()?.to_owned()))?,
        region: decoder.str()?.to_owned(),
        host: decoder.str()?.to_owned(),
    })
}

fn key(decoder: &mut Decoder<'_>, expected: u8) -> Result<(), Error> {
    if decoder.u8()? == expected { Ok(()) } else { Err(Error::message("keys out of order")) }
}

fn list<'b, T>(
    decoder: &mut Decoder<'b>,
    max: usize,
    mut item: impl FnMut(&mut Decoder<'b>) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    let length = decoder.array()?.and_then(|length| usize::try_from(length).ok());
    let length =
        length.filter(|length| *length <= max).ok_or_else(|| Error::message("list too long"))?;
    (0..length).map(|_| item(decoder)).collect()
}

pub(super) fn encode(pins: &Pins) -> Vec<u8> {
    let mut out = Vec::new();
    // Writing into a `Vec` cannot fail: the only source of an error is `Infallible`.
    drop(write(&mut Encoder::new(&mut out), pins));
    out
}

fn write(
    encoder: &mut Encoder<&mut Vec<u8>>,
    pins: &Pins,
) -> Result<(), minicbor::encode::Error<Infallible>> {
    encoder.map(FIELDS)?.u8(0)?.u8(VERSION)?.u8(1)?.str(&pins.app)?;
    encoder.u8(2)?.array(length(pins.rules.len()))?;
    for rule in &pins.rules {
        encoder.array(4)?.str(&rule.prefix)?.array(length(rule.key_arns.len()))?;
        for arn in &rule.key_arns {
            encoder.str(arn)?;
        }
        encoder.str(&rule.region)?.str(&rule.host)?;
    }
    encoder.u8(3)?.array(length(pins.tls_roots.len()))?;
    for root in &pins.tls_roots {
        encoder.bytes(root)?;
    }
    encoder.u8(4)?.bytes(&pins.attestation_root)?;
    encoder.u8(5)?.u8(match pins.verify_mode {
        VerifyMode::BatchSample => 1,
        VerifyMode::Full => 2,
    })?;
    let Ceilings { key_soft_s, key_hard_s, key_uses, dek_soft_s, dek_hard_s } = pins.ceilings;
    encoder.u8(6)?.array(5)?;
    for limit in [key_soft_s, key_hard_s, key_uses, dek_soft_s, dek_hard_s] {
        encoder.u32(limit)?;
    }
    encoder.u8(7)?.u32(pins.parent_cid)?.u8(8)?.bool(pins.insecure)?;
    Ok(())
}

fn length(items: usize) -> u64 {
    items as u64
}
