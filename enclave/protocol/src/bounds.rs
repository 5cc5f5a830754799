//! Bounds of the contract. Each has a unit in its name and a reason.

use std::time::Duration;

/// Items of one `SignBatch`. 32 signatures hold a core for about half a millisecond, which is the
/// fairness bound for the other connections of a worker.
pub const BATCH_ITEMS_MAX: usize = 32;
/// Items that the streams of one worker may have waiting, shared among those that have any: 32
/// batches, about 30 ms of work. What comes on top is refused and does not wait.
pub const QUEUED_ITEMS_MAX: usize = 1_024;
/// Bytes of blobs that wait with them, shared in the same way: what so many items can carry. Streams
/// that come one after the other hold the sum of 1, 1/2, 1/3 and so on of it: nine times at most.
pub const QUEUED_BLOB_BYTES_MAX: usize = QUEUED_ITEMS_MAX * BLOB_BYTES_MAX;
/// Bytes of one gRPC message in either direction: a full batch in which every item carries its
/// blob, or one KMS request with an attestation document, with room to spare.
pub const MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// Bytes of a sealed blob: header with the longest names and a policy of 1 KiB stay below it.
pub const BLOB_BYTES_MAX: usize = 2_048;
/// Bytes of an app or keyspace name: a DNS label.
pub const NAME_BYTES_MAX: usize = 63;
/// Bytes of the caller's challenge in `create` and of a verifier's nonce in `Prove`.
pub const CHALLENGE_BYTES_MAX: usize = 64;
/// Bytes of the reserved policy in `create`.
pub const POLICY_BYTES_MAX: usize = 1_024;
/// Bytes of the reserved authorization in `sign`.
pub const AUTHORIZATION_BYTES_MAX: usize = 512;
/// Bytes of a nonce for `Attest`: 256 random bits.
pub const ATTEST_NONCE_BYTES: usize = 32;
/// Bytes of a KMS `CiphertextBlob`, from the KMS API model.
pub const WRAPPED_DEK_BYTES_MAX: usize = 6_144;
/// Bytes of an attestation document that we handle: certificates of 1,024 bytes each, a chain of
/// five and 32 PCRs stay below it. KMS would take 262,144.
pub const DOCUMENT_BYTES_MAX: usize = 16 * 1024;
/// Bytes of each signature header: a session token of the longest kind seen is about 2 KiB.
pub const AMZ_HEADER_BYTES_MAX: usize = 4_096;
/// Bytes of a KMS key ARN, from the KMS API model.
pub const KEY_ARN_BYTES_MAX: usize = 2_048;
/// Bytes of one write to a vsock connection; larger writes were seen to fail in guests.
pub const VSOCK_WRITE_BYTES_MAX: usize = 16 * 1024;
/// Unlock exchanges begun and not finished. Each holds a request and a tunnel in enclave memory.
pub const UNLOCKS_OPEN_MAX: usize = 8;
/// Life of a begun unlock: signing takes milliseconds, and SigV4 dates age.
pub const UNLOCK_BEGIN_LIFE: Duration = Duration::from_secs(10);
/// Time each side of the handshake gives the other.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(2);
/// Connections open at once: 32 from each of a few dataplane cores, plus tunnels and probes.
pub const CONNECTIONS_MAX: usize = 384;
/// Bytes under way towards the enclave on one connection: two full messages.
pub const WINDOW_BYTES: usize = 2 * MESSAGE_BYTES_MAX;
/// HTTP/2 streams of one connection: its `Sign` stream and a few calls; more wait in the client.
/// Each may hold a message that has not come to its end, on every connection at once.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 8;
/// Bytes of answers that wait on one HTTP/2 stream for a peer that does not read: those of eight
/// full batches. The stream is not served before there is room again.
pub const SEND_BUFFER_BYTES_MAX: usize = 32 * 1024;
/// Port of the enclave's service on vsock.
pub const ENCLAVE_PORT: u32 = 5000;
/// Port of the boot heartbeat that Nitro waits for, on the parent.
pub const HEARTBEAT_PORT: u32 = 9000;
/// The heartbeat's one byte.
pub const HEARTBEAT_BYTE: u8 = 0xB7;

/// HTTP/2 streams of all connections.
const STREAMS_MAX: usize = CONNECTIONS_MAX * STREAMS_PER_CONNECTION_MAX as usize;
/// Bytes a `SignItem` takes beside its blob: keyspace, ids, digest, authorization, tags.
const SIGN_ITEM_FIXED_BYTES_MAX: usize = 1_024;
const _: () = assert!(
    BATCH_ITEMS_MAX * (BLOB_BYTES_MAX + SIGN_ITEM_FIXED_BYTES_MAX) < MESSAGE_BYTES_MAX,
    "a full batch with blobs fits one message"
);
const _: () = assert!(
    STREAMS_MAX * (MESSAGE_BYTES_MAX + SEND_BUFFER_BYTES_MAX) + CONNECTIONS_MAX * WINDOW_BYTES
        <= 576 * 1024 * 1024,
    "unfinished messages, unread answers and what is under way fit an enclave's memory of 1 GiB \
     beside its keys, a quarter of it, and what is queued"
);
