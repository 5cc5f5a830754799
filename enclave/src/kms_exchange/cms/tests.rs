use std::collections::BTreeSet;
use std::ops::Range;

use proptest::prelude::*;

use super::*;

const CHUNKED: &[u8] = include_bytes!("../../../testdata/cms/01-aws-sdk-c-chunked.ber");
const PRIMITIVE: &[u8] = include_bytes!("../../../testdata/cms/02-aws-sdk-c-primitive.ber");
const WITH_KEY: &[u8] = include_bytes!("../../../testdata/cms/03-edgebit-enclaver-go.ber");
const SAMPLES: [&[u8]; 3] = [CHUNKED, PRIMITIVE, WITH_KEY];

/// Where the samples hold values and not structure.
const KEY_IDENTIFIER: Range<usize> = 33..65;
const ENCRYPTED_KEY: Range<usize> = 131..387;
const IV: Range<usize> = 415..431;

/// Encrypted content of a sample: what follows the IV and its tags, up to the final zeros.
fn content(sample: &[u8]) -> Range<usize> {
    if sample == PRIMITIVE { 433..449 } else { 435..483 }
}

/// Replaces the bytes of `range`.
fn spliced(sample: &[u8], range: Range<usize>, bytes: &[u8]) -> Vec<u8> {
    [&sample[..range.start], bytes, &sample[range.end..]].concat()
}

/// The recipients of sample 01: tag and length, then one of them.
const RECIPIENTS: Range<usize> = 20..387;
const ONE_RECIPIENT: Range<usize> = 24..387;

#[test]
fn every_sample_is_read() {
    for sample in SAMPLES {
        let envelope = parse(sample).unwrap();
        assert_eq!(envelope.key_identifier, sample[KEY_IDENTIFIER]);
        assert_eq!(envelope.encrypted_key, &sample[ENCRYPTED_KEY]);
        assert_eq!(envelope.iv, sample[IV]);
        assert_eq!(envelope.content, &sample[content(sample)]);
    }
}

#[test]
fn no_part_of_a_sample_is_read() {
    for sample in SAMPLES {
        for end in 0..sample.len() {
            assert_eq!(parse(&sample[..end]), Err(Malformed), "cut at {end}");
        }
        assert_eq!(parse(&[sample, &[0]].concat()), Err(Malformed), "a byte after the end");
        assert_eq!(parse(&[sample, sample].concat()), Err(Malformed), "two envelopes");
    }
}

/// All 255 changes of every byte: where there is structure, none is read; where there are values,
/// the value changes and nothing else.
#[test]
fn no_changed_byte_of_structure_is_read() {
    for sample in SAMPLES {
        let values: BTreeSet<usize> =
            [KEY_IDENTIFIER, ENCRYPTED_KEY, IV, content(sample)].into_iter().flatten().collect();
        for at in 0..sample.len() {
            for change in 1..=u8::MAX {
                let mut bytes = sample.to_vec();
                bytes[at] ^= change;
                let read = parse(&bytes);
                assert_eq!(read.is_ok(), values.contains(&at), "byte {at} ^ {change:#x}");
                assert_ne!(read, parse(sample));
            }
        }
    }
}

#[test]
fn other_numbers_of_recipients_are_refused() {
    let one = &CHUNKED[ONE_RECIPIENT];
    for count in [0_u16, 2, 3] {
        let length = (count * 0x16b).to_be_bytes();
        let set = [&[0x31, 0x82], length.as_slice(), &one.repeat(count.into())].concat();
        assert_eq!(parse(&spliced(CHUNKED, RECIPIENTS, &set)), Err(Malformed), "{count}");
    }
}

#[test]
fn definite_lengths_and_several_chunks_are_read() {
    let chunks = |pieces: &[&[u8]]| {
        let mut bytes = vec![0xa0, 0x80];
        for piece in pieces {
            bytes.extend([0x04, u8::try_from(piece.len()).unwrap()]);
            bytes.extend_from_slice(piece);
        }
        spliced(CHUNKED, 431..483, &bytes)
    };
    let whole = &CHUNKED[content(CHUNKED)];
    for cut in 1..whole.len() {
        let bytes = chunks(&[&whole[..cut], &whole[cut..]]);
        assert_eq!(parse(&bytes).unwrap(), parse(CHUNKED).unwrap(), "cut at {cut}");
    }
    assert_eq!(parse(&chunks(&[whole, &[]])), Err(Malformed), "an empty chunk");
    assert_eq!(parse(&chunks(&[whole, &whole[..16]])), Err(Malformed), "more than 48 bytes");
    let definite = [[0xa0, 0x32, 0x04, 0x30].as_slice(), whole].concat();
    let bytes = spliced(CHUNKED, 431..485, &definite);
    assert_eq!(parse(&bytes).unwrap(), parse(CHUNKED).unwrap());
}

#[test]
fn absent_parameters_of_a_hash_mean_null() {
    // Both algorithm identifiers without NULL, and every length around them shorter by as much.
    let mut bytes = CHUNKED.to_vec();
    for null in [125_usize, 95] {
        assert_eq!(bytes[null..null + 2], [NULL, 0]);
        bytes.drain(null..null + 2);
    }
    for (length, by) in
        [(23, 4), (27, 4), (66, 4), (79, 4), (81, 2), (83, 2), (96, 2), (98, 2), (111, 2)]
    {
        bytes[length] -= by;
    }
    assert_eq!(parse(&bytes).unwrap(), parse(CHUNKED).unwrap());
}

#[test]
fn lengths_have_one_spelling() {
    for (bytes, length) in [
        (&[0x05][..], Ok(5)),
        (&[0x7f], Ok(127)),
        (&[0x81, 0x80], Ok(128)),
        (&[0x81, 0x7f], Err(Malformed)),
        (&[0x82, 0x01, 0x00], Ok(256)),
        (&[0x82, 0x00, 0xff], Err(Malformed)),
        (&[0x83, 0x01, 0x00, 0x00], Err(Malformed)),
        (&[0x80], Err(Malformed)),
        (&[0xff], Err(Malformed)),
        (&[0x82, 0x01], Err(Malformed)),
        (&[], Err(Malformed)),
    ] {
        assert_eq!(Reader(bytes).length(), length, "{bytes:02x?}");
    }
}

/// The constructed values of an envelope, in the order in which they begin.
const CONSTRUCTED: usize = 15;

/// Sample 01 in other words: value `n` of indefinite length if bit `n` is set, `extra` at the end of
/// value `at`, the content in chunks of `chunk` bytes.
struct Spelling {
    indefinite: u32,
    extra: Option<(usize, Vec<u8>)>,
    chunk: usize,
}

impl Spelling {
    const DEFINITE: Self = Self { indefinite: 0, extra: None, chunk: 48 };

    fn value(&self, index: usize, tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let mut content = parts.concat();
        if let Some((at, extra)) = &self.extra
            && *at == index
        {
            content.extend_from_slice(extra);
        }
        if self.indefinite >> index & 1 == 1 {
            return [&[tag, 0x80], &content[..], &[0, 0]].concat();
        }
        primitive(tag, &content)
    }

    fn write(&self) -> Vec<u8> {
        let sample = parse(CHUNKED).unwrap();
        let sha_256 = |index| self.value(index, 0x30, &[&primitive(6, SHA_256), &[5, 0]]);
        let hash = self.value(7, 0xa0, &[&sha_256(8)]);
        let mgf = self.value(10, 0x30, &[&primitive(6, MGF1), &sha_256(11)]);
        let parameters = self.value(6, 0x30, &[&hash, &self.value(9, 0xa1, &[&mgf])]);
        let oaep = self.value(5, 0x30, &[&primitive(6, RSAES_OAEP), &parameters]);
        let identifier = primitive(0x80, &sample.key_identifier);
        let key = primitive(4, sample.encrypted_key);
        let recipient = self.value(4, 0x30, &[&[2, 1, 2], &identifier, &oaep, &key]);
        let recipients = self.value(3, 0x31, &[&recipient]);
        let cbc = self.value(13, 0x30, &[&primitive(6, AES_256_CBC), &primitive(4, &sample.iv)]);
        let chunks: Vec<u8> =
            sample.content.chunks(self.chunk).flat_map(|chunk| primitive(4, chunk)).collect();
        let content = self.value(14, 0xa0, &[&chunks]);
        let content = self.value(12, 0x30, &[&primitive(6, DATA), &cbc, &content]);
        let enveloped = self.value(2, 0x30, &[&[2, 1, 2], &recipients, &content]);
        let explicit = self.value(1, 0xa0, &[&enveloped]);
        self.value(0, 0x30, &[&primitive(6, ENVELOPED_DATA), &explicit])
    }
}

fn primitive(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = match u8::try_from(content.len()) {
        Ok(short @ ..=0x7f) => vec![short],
        Ok(long) => vec![0x81, long],
        Err(_) => [&[0x82], &u16::try_from(content.len()).unwrap().to_be_bytes()[..]].concat(),
    };
    [&[tag], &length[..], content].concat()
}

#[test]
fn every_mixture_of_definite_and_indefinite_lengths_means_the_same() {
    let expected = parse(CHUNKED).unwrap();
    for indefinite in 0..1 << CONSTRUCTED {
        let bytes = Spelling { indefinite, ..Spelling::DEFINITE }.write();
        assert_eq!(parse(&bytes).as_ref(), Ok(&expected), "{indefinite:#b}");
    }
    for chunk in 1..=48 {
        let bytes = Spelling { chunk, ..Spelling::DEFINITE }.write();
        assert_eq!(parse(&bytes).as_ref(), Ok(&expected), "chunks of {chunk}");
    }
    // KMS' own mixture: all but the recipients, their algorithms, and that of the content.
    let kms = Spelling { indefinite: 0b101_0000_0000_0111, ..Spelling::DEFINITE };
    assert_eq!(kms.write(), CHUNKED);
}

#[test]
fn nothing_is_added_anywhere() {
    let kms = 0b101_0000_0000_0111;
    for at in 0..CONSTRUCTED {
        for extra in [
            &[0x05, 0x00][..],
            &[0x02, 0x01, 0x02],
            &[0x30, 0x80, 0x00, 0x00],
            &[0xa1, 0x00],
            &[0x04, 0x00],
            &[0x00],
            &[0x00, 0x00],
        ] {
            for indefinite in [0, kms, u32::MAX] {
                let extra = Some((at, extra.to_vec()));
                let bytes = Spelling { indefinite, extra, ..Spelling::DEFINITE }.write();
                assert_eq!(parse(&bytes), Err(Malformed), "{at}");
            }
        }
    }
    // One byte less or more: at most content that is no number of blocks, which does not decrypt.
    let whole = |read: Result<Envelope<'_>, _>| read.is_ok_and(|it| it.content.len() % 16 == 0);
    for sample in SAMPLES {
        for at in 0..sample.len() {
            assert!(!whole(parse(&spliced(sample, at..at + 1, &[]))), "without {at}");
            for byte in 0..=u8::MAX {
                assert!(!whole(parse(&spliced(sample, at..at, &[byte]))), "{byte:#x} before {at}");
            }
        }
    }
}

/// Depth costs nothing, and no length is believed before the bytes are there.
#[test]
fn nesting_and_lengths_without_end_are_refused() {
    for opening in [&[0x30, 0x80][..], &[0xa0, 0x80], &[0x24, 0x80], &CHUNKED[..17], &CHUNKED[..2]]
    {
        let bytes = opening.repeat(ENVELOPE_BYTES_MAX / opening.len());
        assert_eq!(parse(&bytes), Err(Malformed), "{opening:02x?}");
        assert_eq!(parse(&[CHUNKED, &bytes].concat()), Err(Malformed));
    }
    // A chunk of chunks, which BER allows.
    let nested = [&[0xa0, 0x80, 0x24, 0x80][..], &CHUNKED[433..483], &[0, 0]].concat();
    assert_eq!(parse(&spliced(CHUNKED, 431..483, &nested)), Err(Malformed));
    // Every byte in turn is a length of another spelling.
    for at in 1..CHUNKED.len() {
        for length in [
            &[0x82, 0xff, 0xff][..],
            &[0x83, 0xff, 0xff, 0xff],
            &[0x84, 0x7f, 0xff, 0xff, 0xff],
            &[0x84, 0x00, 0x00, 0x00, 0x30],
            &[0x88, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert_eq!(parse(&spliced(CHUNKED, at..at + 1, length)), Err(Malformed), "{at}");
        }
    }
    let largest = [CHUNKED, &vec![0; ENVELOPE_BYTES_MAX - CHUNKED.len()]].concat();
    assert_eq!(parse(&largest), Err(Malformed));
    assert_eq!(parse(&[&largest[..], &[0]].concat()), Err(Malformed));
}

proptest! {
    #[test]
    fn random_bytes_are_never_read(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert_eq!(parse(&bytes), Err(Malformed));
    }

    #[test]
    fn a_damaged_sample_is_read_as_it_stands_or_not_at_all(
        sample in prop::sample::select(SAMPLES.to_vec()),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = sample.to_vec();
        for (at, byte) in damage {
            *at.get_mut(&mut bytes) = byte;
        }
        if let Ok(envelope) = parse(&bytes) {
            prop_assert_eq!(envelope.encrypted_key, &bytes[ENCRYPTED_KEY]);
        }
        prop_assert_eq!(parse(&bytes[..cut.index(bytes.len())]), Err(Malformed));
    }
}
