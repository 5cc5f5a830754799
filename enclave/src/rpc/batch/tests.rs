//! prost is the oracle: what it reads of a `SignBatch` is read here, and what it writes of a
//! `SignBatchResult` is written here, byte for byte.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use sigil_enclave_protocol::bounds::MESSAGE_BYTES_MAX;
use sigil_enclave_protocol::v1::{SignBatchResult, SignResult};

use super::*;
use crate::names::Keyspace;

/// `SignBatch`, with a keyspace that need not be a text: here that spoils its item alone.
#[derive(Clone, PartialEq, Message)]
struct OracleBatch {
    #[prost(message, repeated, tag = "1")]
    items: Vec<OracleItem>,
}

#[derive(Clone, PartialEq, Message)]
struct OracleItem {
    #[prost(uint32, tag = "1")]
    tag: u32,
    #[prost(bytes = "vec", tag = "2")]
    keyspace: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    key_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    digest: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    blob: Vec<u8>,
    #[prost(bytes = "vec", tag = "6")]
    authorization: Vec<u8>,
}

impl OracleItem {
    /// The bounds once more, in other words.
    fn expected(self) -> (u32, Result<Item, ErrorCode>) {
        let text = String::from_utf8(self.keyspace).ok();
        let keyspace = text.and_then(|text| Keyspace::parse(&text).ok());
        let good = self.blob.len() <= 2_048 && self.authorization.is_empty();
        let blob = Some(self.blob.into_boxed_slice()).filter(|blob| !blob.is_empty());
        let item = match (keyspace, self.key_id.try_into(), self.digest.try_into()) {
            (Some(keyspace), Ok(key_id), Ok(digest)) if good => {
                Ok(Item { name: KeyName { keyspace, key_id }, digest, blob })
            }
            _ => Err(ErrorCode::InvalidArgument),
        };
        (self.tag, item)
    }
}

fn expected(message: &[u8]) -> Option<Batch> {
    let items = OracleBatch::decode(message).ok()?.items;
    let few = items.len() <= 32;
    few.then(|| items.into_iter().map(OracleItem::expected).collect())
}

fn assert_read(message: &[u8]) {
    assert_eq!(read(message), expected(message), "{message:02x?}");
}

/// Sizes at and beside the right one, and now and then any.
fn sized(right: usize) -> impl Strategy<Value = Vec<u8>> {
    let near = right.saturating_sub(1)..=right + 1;
    prop_oneof![8 => vec(any::<u8>(), right), 1 => vec(any::<u8>(), near), 1 => vec(any::<u8>(), 0..70)]
}

fn any_item() -> impl Strategy<Value = OracleItem> {
    let keyspace = prop_oneof![
        4 => Just(b"default".to_vec()),
        2 => "[a-z0-9][a-z0-9._-]{0,63}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..66),
    ];
    let blob = prop_oneof![6 => vec(any::<u8>(), 0..4), 1 => vec(Just(7), 2_047..2_050)];
    let authorization = prop_oneof![8 => Just(Vec::new()), 1 => vec(any::<u8>(), 1..3)];
    let tag = prop_oneof![Just(0), any::<u32>(), 0..200_u32];
    (tag, keyspace, sized(16), sized(32), blob, authorization).prop_map(
        |(tag, keyspace, key_id, digest, blob, authorization)| OracleItem {
            tag,
            keyspace,
            key_id,
            digest,
            blob,
            authorization,
        },
    )
}

proptest! {
    #[test]
    fn batches_are_read_as_prost_reads_them(items in vec(any_item(), 0..35)) {
        assert_read(&OracleBatch { items }.encode_to_vec());
    }

    #[test]
    fn damaged_batches_are_read_as_prost_reads_them(
        items in vec(any_item(), 1..4),
        changes in vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..4),
    ) {
        let mut message = OracleBatch { items }.encode_to_vec();
        for (at, byte, change) in changes {
            if message.is_empty() {
                break;
            }
            let at = at.index(message.len());
            match change {
                0 => message[at] = byte,
                1 => message.insert(at, byte),
                _ => message.truncate(at),
            }
            assert_read(&message);
        }
    }

    #[test]
    fn any_bytes_are_read_as_prost_reads_them(message in vec(prop_oneof![0..48_u8, any::<u8>()], 0..80)) {
        assert_read(&message);
        // And as those of an item.
        assert_read(&OracleBatchOfBytes { items: vec![message] }.encode_to_vec());
    }

    #[test]
    fn results_are_written_as_prost_writes_them(
        results in vec((any::<u32>(), 0..23_i32, any::<bool>(), 0..4_u8, any::<[u8; 32]>()), 0..33),
    ) {
        let (mut ours, mut theirs) = (Vec::new(), SignBatchResult::default());
        for (tag, error, signed, recovery_id, random) in results {
            let mut oracle = SignResult { tag, ..SignResult::default() };
            if signed {
                let mut signature = Signature { compact: [0; 64], recovery_id };
                signature.compact[32..].copy_from_slice(&random);
                let public_key: [u8; 33] = std::array::from_fn(|at| random[at % 32]);
                put(&mut ours, tag, Ok((&signature, &public_key)));
                oracle.signature = Bytes::copy_from_slice(&signature.compact);
                oracle.recovery_id = recovery_id.into();
                oracle.public_key = Bytes::copy_from_slice(&public_key);
            } else {
                // Zero is no refusal.
                let error = ErrorCode::try_from(error.max(1)).unwrap();
                let dek_id = random.first_chunk::<16>().copied();
                let dek_id = dek_id.filter(|_| error == ErrorCode::UnlockRequired);
                put(&mut ours, tag, Err(Refused { code: error, dek_id }));
                oracle.error = error.into();
                oracle.dek_id = dek_id.map(Bytes::from_owner).unwrap_or_default();
            }
            theirs.results.push(oracle);
        }
        prop_assert_eq!(ours, theirs.encode_to_vec());
    }
}

/// A batch whose items are any bytes.
#[derive(Clone, PartialEq, Message)]
struct OracleBatchOfBytes {
    #[prost(bytes = "vec", repeated, tag = "1")]
    items: Vec<Vec<u8>>,
}

#[test]
fn forms_that_random_bytes_seldom_take_are_read_as_prost_reads_them() {
    let varint = |byte: u8, count: usize, last: u8| [vec![byte; count], vec![last]].concat();
    let item = |item: &[u8]| [&[0x0a, u8::try_from(item.len()).unwrap()], item].concat();
    let groups = |depth: usize| [vec![0x3b; depth], vec![0x3c; depth]].concat();
    for message in [
        // Tags of ten bytes, of which 32 bits count, and one too large.
        item(&[&[0x08][..], &varint(0xff, 9, 1)].concat()),
        item(&[&[0x08][..], &varint(0xff, 9, 2)].concat()),
        item(&[&[0x08][..], &varint(0x80, 10, 0)].concat()),
        // Lengths beyond the message, and beyond any.
        vec![0x0a, 0x7f, 0],
        [&[0x0a][..], &varint(0xff, 9, 1)].concat(),
        // Numbers of fields: zero, unknown, the largest, too large.
        vec![0x00, 0x00],
        vec![0x78, 0x05],
        [varint(0xff, 4, 0x0f), vec![0, 0, 0, 0]].concat(),
        [varint(0xff, 4, 0x1f), vec![0]].concat(),
        // Known fields of another kind.
        vec![0x08, 0x01],
        item(&[0x0a, 0x00]),
        item(&[0x10, 0x00]),
        item(&[0x35, 0, 0, 0, 0]),
        // Kinds that no field has: 4 and 8 bytes, groups, and kinds that there are none of.
        vec![0x3d, 1, 2, 3, 4],
        vec![0x3d, 1, 2, 3],
        vec![0x39, 1, 2, 3, 4, 5, 6, 7, 8],
        groups(3),
        groups(50),
        [groups(3), item(&[])].concat(),
        vec![0x3b, 0x44],
        vec![0x3c],
        vec![0x3e],
        // The last of a field counts.
        item(&[0x08, 1, 0x08, 2, 0x12, 1, b'A', 0x12, 1, b'a']),
    ] {
        assert_read(&message);
    }
}

#[test]
fn a_batch_of_more_items_than_the_bound_is_refused_whole() {
    let items = |count| read(&[0x0a, 0].repeat(count)).map(|batch| batch.len());
    assert_eq!(items(32), Some(32));
    assert_eq!(items(33), None);
    assert_eq!(items(MESSAGE_BYTES_MAX / 2), None);
}

#[test]
fn nothing_is_kept_of_an_item_out_of_bounds() {
    let item = OracleItem { tag: 9, blob: vec![0; 100_000], ..OracleItem::default() };
    let batch = read(&OracleBatch { items: vec![item] }.encode_to_vec()).unwrap();
    assert_eq!(*batch, [(9, Err(ErrorCode::InvalidArgument))]);
}
