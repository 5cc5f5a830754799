//! Messages of the contract. The first byte chooses one; the rest is protobuf. What decodes is
//! written in one form that reads as the same, and what the enclave's checks let through is within
//! every bound of the contract, stated here once more.

use bytes::Bytes;
use prost::Message;
use sigil_enclave::key_cache::settings;
use sigil_enclave::rpc::batch::{self, Item};
use sigil_enclave::rpc::check;
use sigil_enclave::unlock::What;
use sigil_enclave_image::names::check_keyspace;
use sigil_enclave_protocol::bounds::MESSAGE_BYTES_MAX;
use sigil_enclave_protocol::v1::unlock_begin_request::What as Asked;
use sigil_enclave_protocol::v1::{
    ActivateReply, ActivateRequest, AttestReply, AttestRequest, CacheSettings, ConfigureReply,
    CreateReply, CreateRequest, DekRow, DrainReply, DrainRequest, ForceRefreshReply,
    ForceRefreshRequest, ForgetReply, ForgetRequest, GenerateDek, HealthReply, HealthRequest,
    ProveReply, ProveRequest, ResealReply, ResealRequest, SignBatch, SignBatchResult, SignItem,
    StateReply, StateRequest, StatsReply, StatsRequest, UnlockAuthorizeReply,
    UnlockAuthorizeRequest, UnlockBeginReply, UnlockBeginRequest,
};

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "protocol",
    // The longest message, and the byte that chooses its kind.
    input_bytes_max: 1 + MESSAGE_BYTES_MAX,
    // What that becomes in memory, twice: it is read, written and read again.
    memory_bytes_max: 64 * 1024 * 1024,
    check: run,
    seeds,
};

fn run(input: &[u8]) {
    let Some((kind, message)) = input.split_first() else { return };
    let bytes = Bytes::copy_from_slice(message);
    match kind % 30 {
        0 => sign(bytes),
        1 => create(bytes),
        2 => activate(bytes),
        3 => unlock_begin(bytes),
        4 => unlock_authorize(bytes),
        5 => attest(bytes),
        6 => prove(bytes),
        7 => forget(bytes),
        8 => drop(decoded::<StateRequest>(bytes)),
        9 => drop(decoded::<HealthRequest>(bytes)),
        10 => drop(decoded::<SignBatchResult>(bytes)),
        11 => drop(decoded::<CreateReply>(bytes)),
        12 => drop(decoded::<ActivateReply>(bytes)),
        13 => drop(decoded::<UnlockBeginReply>(bytes)),
        14 => drop(decoded::<UnlockAuthorizeReply>(bytes)),
        15 => drop(decoded::<AttestReply>(bytes)),
        16 => drop(decoded::<ProveReply>(bytes)),
        17 => drop(decoded::<ForgetReply>(bytes)),
        18 => drop(decoded::<StateReply>(bytes)),
        19 => drop(decoded::<HealthReply>(bytes)),
        20 => drop(decoded::<StatsRequest>(bytes)),
        21 => drop(decoded::<StatsReply>(bytes)),
        22 => drop(decoded::<DrainRequest>(bytes)),
        23 => drop(decoded::<DrainReply>(bytes)),
        24 => force_refresh(bytes),
        25 => reseal(bytes),
        26 => configure(bytes),
        27 => drop(decoded::<ForceRefreshReply>(bytes)),
        28 => drop(decoded::<ResealReply>(bytes)),
        _ => drop(decoded::<ConfigureReply>(bytes)),
    }
}

fn decoded<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: Bytes) -> Option<M> {
    assert!(bytes.len() <= MESSAGE_BYTES_MAX);
    let message = M::decode(bytes).ok()?;
    let written = message.encode_to_vec();
    assert_eq!(M::decode(written.as_slice()).as_ref(), Ok(&message));
    Some(message)
}

fn named(keyspace: &str, key_id: &[u8]) -> bool {
    check_keyspace(keyspace).is_ok() && key_id.len() == 16
}

/// The enclave reads a batch by itself: as prost does, and as far as a batch may go.
fn sign(bytes: Bytes) {
    let ours = batch::read(&bytes);
    let Some(theirs) = decoded::<SignBatch>(bytes) else {
        // What prost refuses and this reads differs by two rules, see decision 18; the property tests
        // of the reader have an oracle that knows the first.
        return;
    };
    assert_eq!(ours.is_some(), theirs.items.len() <= 32);
    for ((tag, ours), item) in ours.iter().flatten().zip(theirs.items) {
        let good = named(&item.keyspace, &item.key_id)
            && item.digest.len() == 32
            && item.blob.len() <= 2_048
            && item.authorization.is_empty();
        assert_eq!((*tag, ours.is_ok()), (item.tag, good));
        let Ok(Item { name, digest, blob }) = ours else { continue };
        assert_eq!(name.keyspace.as_str(), item.keyspace);
        assert_eq!((&name.key_id[..], &digest[..]), (&item.key_id[..], &item.digest[..]));
        assert_eq!(blob.as_deref().unwrap_or_default(), item.blob);
    }
}

fn create(bytes: Bytes) {
    let Some(request) = decoded::<CreateRequest>(bytes) else { return };
    let good = named(&request.keyspace, &request.key_id)
        && request.challenge.len() <= 64
        && request.policy.is_empty();
    assert_eq!(check::create(&request).is_ok(), good);
}

fn activate(bytes: Bytes) {
    let Some(request) = decoded::<ActivateRequest>(bytes) else { return };
    let good = named(&request.keyspace, &request.key_id);
    assert_eq!(check::name(&request.keyspace, &request.key_id).is_ok(), good);
    assert_eq!(check::blob(&request.blob).is_ok(), request.blob.len() <= 2_048);
}

fn unlock_begin(bytes: Bytes) {
    let Some(request) = decoded::<UnlockBeginRequest>(bytes) else { return };
    let good = match &request.what {
        None => false,
        Some(Asked::Row(row)) => {
            named(&row.keyspace, &row.dek_id)
                && (1..=6_144).contains(&row.wrapped_dek.len())
                && row.birth_document.len() <= 16_384
                && (1..=2_048).contains(&row.kms_key_arn.len())
        }
        Some(Asked::Generate(generate)) => {
            check_keyspace(&generate.keyspace).is_ok()
                && generate.kms_key_arn.len() <= 2_048
                && !request.current
        }
    };
    let current = request.current;
    match check::unlock(request) {
        Ok(What::Row { current: stated, .. }) => assert!(good && stated == current),
        Ok(What::Generate { .. }) => assert!(good),
        Err(_) => assert!(!good),
    }
}

fn unlock_authorize(bytes: Bytes) {
    let Some(request) = decoded::<UnlockAuthorizeRequest>(bytes) else { return };
    let UnlockAuthorizeRequest { unlock_id, amz_date, authorization, security_token } =
        request.clone();
    let header = |text: &str| {
        (1..=4_096).contains(&text.len())
            && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
            && !text.starts_with(' ')
            && !text.ends_with(' ')
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let date = amz_date.is_ascii()
        && amz_date.len() == 16
        && digits(&amz_date[..8])
        && &amz_date[8..9] == "T"
        && digits(&amz_date[9..15])
        && &amz_date[15..] == "Z";
    let good = unlock_id.len() == 16
        && date
        && header(&authorization)
        && (security_token.is_empty() || header(&security_token));
    assert_eq!(check::authorize(request).is_ok(), good);
}

fn attest(bytes: Bytes) {
    let Some(request) = decoded::<AttestRequest>(bytes) else { return };
    assert_eq!(check::attest_nonce(&request.nonce).is_ok(), request.nonce.len() == 32);
}

fn prove(bytes: Bytes) {
    let Some(request) = decoded::<ProveRequest>(bytes) else { return };
    assert_eq!(check::nonce(&request.nonce).is_ok(), (1..=64).contains(&request.nonce.len()));
}

fn forget(bytes: Bytes) {
    let Some(request) = decoded::<ForgetRequest>(bytes) else { return };
    let good = named(&request.keyspace, &request.key_id);
    assert_eq!(check::name(&request.keyspace, &request.key_id).is_ok(), good);
}

fn force_refresh(bytes: Bytes) {
    let Some(request) = decoded::<ForceRefreshRequest>(bytes) else { return };
    let good = named(&request.keyspace, &request.key_id);
    assert_eq!(check::name(&request.keyspace, &request.key_id).is_ok(), good);
}

fn reseal(bytes: Bytes) {
    let Some(request) = decoded::<ResealRequest>(bytes) else { return };
    let good = named(&request.keyspace, &request.key_id);
    assert_eq!(check::name(&request.keyspace, &request.key_id).is_ok(), good);
    assert_eq!(check::blob(&request.blob).is_ok(), request.blob.len() <= 2_048);
}

/// The highest settings that this enclave takes.
const CEILINGS: CacheSettings = CacheSettings {
    key_soft_ttl_ms: 900_000,
    key_hard_ttl_ms: 960_000,
    key_uses: 1_000_000,
    dek_hard_ttl_ms: 3_600_000,
    low_water_uses: 0,
    prefetch_window_ms: 0,
    prefetch_jitter_percent: 0,
    prefetch_in_flight: 0,
    prefetch_scan_ms: 0,
    sign_wait_ms: 0,
    hard_refresh_ms: 0,
    keys: 1_048_576,
    bytes: 1 << 30,
    warm_keys: 131_072,
};

fn configure(bytes: Bytes) {
    let Some(asked) = decoded::<CacheSettings>(bytes) else { return };
    let good = [
        (1..=900_000).contains(&asked.key_soft_ttl_ms)
            && asked.key_soft_ttl_ms <= asked.key_hard_ttl_ms,
        (1..=960_000).contains(&asked.key_hard_ttl_ms),
        (1..=1_000_000).contains(&asked.key_uses),
        (1..=3_600_000).contains(&asked.dek_hard_ttl_ms),
        asked.low_water_uses <= asked.key_uses / 2,
        asked.prefetch_window_ms <= asked.key_soft_ttl_ms / 2,
        asked.prefetch_jitter_percent <= 50,
        asked.prefetch_in_flight <= 4_096,
        (1_000..=60_000).contains(&asked.prefetch_scan_ms),
        (2..=3).contains(&asked.sign_wait_ms),
        (3..=5).contains(&asked.hard_refresh_ms),
        (256..=1_048_576).contains(&asked.keys),
        (256 * (512 + 2_048)..=1 << 30).contains(&asked.bytes),
        (256..=131_072).contains(&asked.warm_keys),
    ];
    let refused = (1..).zip(good).find(|(_, good)| !good).map(|(field, _)| field);
    assert_eq!(settings::check(&asked, &CEILINGS).err(), refused);
}

fn seeds() -> Vec<Vec<u8>> {
    let id = Bytes::from_static(&[7; 16]);
    let keyspace = "default".to_owned();
    let item = SignItem {
        tag: 1,
        keyspace: keyspace.clone(),
        key_id: id.clone(),
        digest: Bytes::from_static(&[9; 32]),
        ..SignItem::default()
    };
    let create = CreateRequest {
        keyspace: keyspace.clone(),
        key_id: id.clone(),
        challenge: id.clone(),
        ..CreateRequest::default()
    };
    let row = DekRow {
        dek_id: id.clone(),
        keyspace: keyspace.clone(),
        wrapped_dek: Bytes::from_static(b"wrapped"),
        birth_document: Bytes::from_static(b"document"),
        kms_key_arn: "arn".to_owned(),
    };
    let generate = GenerateDek { keyspace: keyspace.clone(), kms_key_arn: "arn".to_owned() };
    let begin = |what, current| UnlockBeginRequest { what: Some(what), current };
    let authorize = UnlockAuthorizeRequest {
        unlock_id: id.clone(),
        amz_date: "20261121T130000Z".to_owned(),
        authorization: "AWS4-HMAC-SHA256 Credential=x".to_owned(),
        security_token: "token".to_owned(),
    };
    let prove = ProveRequest { keyspace: keyspace.clone(), key_id: id.clone(), nonce: id.clone() };
    let refresh = ForceRefreshRequest { keyspace: keyspace.clone(), key_id: id.clone() };
    let refreshed = ForceRefreshReply { error: 1, dek_id: id.clone() };
    let reseal = ResealRequest { keyspace, key_id: id.clone(), blob: id.clone() };
    let resealed =
        ResealReply { error: 0, blob: id.clone(), public_key: id.clone(), dek_id: id.clone() };
    let settings = CacheSettings {
        low_water_uses: 500,
        prefetch_window_ms: 120_000,
        prefetch_jitter_percent: 10,
        prefetch_in_flight: 2_048,
        prefetch_scan_ms: 1_000,
        sign_wait_ms: 3,
        hard_refresh_ms: 3,
        ..CEILINGS
    };
    let configured = ConfigureReply { error: 2, refused_field: 3, in_force: Some(settings) };
    let seed = |kind: u8, message: &dyn Fn() -> Vec<u8>| [&[kind], message().as_slice()].concat();
    let batch = SignBatch { items: vec![item.clone(), item] };
    vec![
        seed(0, &|| batch.encode_to_vec()),
        seed(1, &|| create.encode_to_vec()),
        seed(3, &|| begin(Asked::Row(row.clone()), true).encode_to_vec()),
        seed(3, &|| begin(Asked::Generate(generate.clone()), false).encode_to_vec()),
        seed(4, &|| authorize.encode_to_vec()),
        seed(6, &|| prove.encode_to_vec()),
        seed(5, &|| AttestRequest { nonce: Bytes::from_static(&[1; 32]) }.encode_to_vec()),
        seed(24, &|| refresh.encode_to_vec()),
        seed(25, &|| reseal.encode_to_vec()),
        seed(26, &|| settings.encode_to_vec()),
        seed(26, &|| CacheSettings { sign_wait_ms: 4, ..settings }.encode_to_vec()),
        seed(27, &|| refreshed.encode_to_vec()),
        seed(28, &|| resealed.encode_to_vec()),
        seed(29, &|| configured.encode_to_vec()),
        // Two bytes of a message become a whole item in memory.
        [&[0][..], &[0x0a, 0].repeat(1_000)].concat(),
    ]
}
