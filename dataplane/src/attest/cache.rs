//! The settings of the enclave's key cache. Each boot begins with its own baseline, so each is told
//! anew, before anything is routed to it. Ceilings are pinned in the image: the enclave refuses what is
//! above them, all settings or none, and signing goes on with what it has.

use sigil_enclave_protocol::v1::{CacheSettings, ConfigureReply, ErrorCode, StateRequest};

use super::{AttestError, enclave_ok};
use crate::config::Cache;
use crate::pool::session::Client;
use crate::status::{CacheRefusal, CacheStatus, StatusWriter};

/// What bounds each setting in the enclave, in the order of the contract's field numbers. It tells no
/// ceiling, so the place where that stands is named.
const BOUNDS: [&str; 14] = [
    "at most keyHardTtlMs, and ceilings.keySoftSeconds of the image's pins",
    "at most ceilings.keyHardSeconds of the image's pins",
    "at most ceilings.keyUses of the image's pins",
    "at most ceilings.dekHardSeconds of the image's pins",
    "at most half of keyUses",
    "at most half of keySoftTtlMs",
    "0 to 50",
    "0 to 4096",
    "1000 to 60000",
    "2 to 3",
    "3 to 5",
    "256 to 1048576",
    "at least 655360, at most 1 GiB and a quarter of the enclave's memory",
    "256 to 131072",
];

/// Brings the settings of `asked` into force and says in status and log what then holds.
pub(super) async fn settle(
    asked: &Cache,
    client: &mut Client,
    status: &StatusWriter,
) -> Result<(), AttestError> {
    let call_failed = |error: tonic::Status| AttestError::Session(error.to_string());
    let reply = match client.state(StateRequest {}).await {
        Err(error) if error.code() == tonic::Code::Unimplemented => {
            // The release before. It has no such settings either.
            if *asked != Cache::default() {
                tracing::warn!("the enclave takes no cache settings; those configured do not hold");
            }
            return Ok(());
        }
        reply => reply.map_err(call_failed)?.into_inner(),
    };
    enclave_ok(reply.error)?;
    let mut in_force = reply.settings.unwrap_or_default();
    let mut refused = None;
    let wanted = wanted(asked, in_force);
    if wanted != in_force {
        let reply = client.configure(wanted).await.map_err(call_failed)?.into_inner();
        in_force = reply.in_force.unwrap_or_default();
        refused = refusal(&wanted, &reply)?;
    }
    let in_force: std::collections::BTreeMap<_, _> = named(&in_force).into_iter().collect();
    if let Some(CacheRefusal { field, asked, bound }) = &refused {
        tracing::error!(
            field,
            asked,
            bound,
            in_force = ?in_force,
            "cache settings refused by the enclave: none of them holds"
        );
    } else {
        tracing::info!(in_force = ?in_force, "cache settings");
    }
    status.update(|status| status.cache = Some(CacheStatus { in_force, refused }));
    Ok(())
}

/// What is asked for, over what holds. What is not set gives way to what is: a hard limit below the soft
/// one takes the soft one with it, as the enclave's own baseline does.
fn wanted(asked: &Cache, in_force: CacheSettings) -> CacheSettings {
    let mut wanted = in_force;
    for (slot, (_, value)) in slots(&mut wanted).into_iter().zip(asked.values()) {
        *slot = value.unwrap_or(*slot);
    }
    if asked.key_soft_ttl_ms.is_none() {
        wanted.key_soft_ttl_ms = wanted.key_soft_ttl_ms.min(wanted.key_hard_ttl_ms);
    }
    if asked.prefetch_window_ms.is_none() {
        wanted.prefetch_window_ms = wanted.prefetch_window_ms.min(wanted.key_soft_ttl_ms / 2);
    }
    if asked.low_water_uses.is_none() {
        wanted.low_water_uses = wanted.low_water_uses.min(wanted.key_uses / 2);
    }
    wanted
}

fn refusal(
    wanted: &CacheSettings,
    reply: &ConfigureReply,
) -> Result<Option<CacheRefusal>, AttestError> {
    if reply.error != i32::from(ErrorCode::InvalidArgument) {
        return enclave_ok(reply.error).map(|()| None);
    }
    let index = (reply.refused_field as usize).wrapping_sub(1);
    let known = named(wanted).get(index).copied().zip(BOUNDS.get(index));
    Ok(Some(match known {
        Some(((name, asked), bound)) => {
            CacheRefusal { field: format!("cache.{name}"), asked, bound }
        }
        None => CacheRefusal {
            field: format!("cache: the contract's field {}", reply.refused_field),
            asked: 0,
            bound: "unknown to this release",
        },
    }))
}

fn named(settings: &CacheSettings) -> [(&'static str, u64); 14] {
    let mut settings = *settings;
    let mut names = Cache::default().values().into_iter();
    slots(&mut settings).map(|value| (names.next().map_or("", |(name, _)| name), *value))
}

/// Every setting, in the order of the contract's field numbers.
fn slots(settings: &mut CacheSettings) -> [&mut u64; 14] {
    let CacheSettings {
        key_soft_ttl_ms,
        key_hard_ttl_ms,
        key_uses,
        dek_hard_ttl_ms,
        low_water_uses,
        prefetch_window_ms,
        prefetch_jitter_percent,
        prefetch_in_flight,
        prefetch_scan_ms,
        sign_wait_ms,
        hard_refresh_ms,
        keys,
        bytes,
        warm_keys,
    } = settings;
    [
        key_soft_ttl_ms,
        key_hard_ttl_ms,
        key_uses,
        dek_hard_ttl_ms,
        low_water_uses,
        prefetch_window_ms,
        prefetch_jitter_percent,
        prefetch_in_flight,
        prefetch_scan_ms,
        sign_wait_ms,
        hard_refresh_ms,
        keys,
        bytes,
        warm_keys,
    ]
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    fn baseline() -> CacheSettings {
        CacheSettings {
            key_soft_ttl_ms: 900_000,
            key_hard_ttl_ms: 960_000,
            key_uses: 1_000_000,
            low_water_uses: 500,
            prefetch_window_ms: 120_000,
            ..CacheSettings::default()
        }
    }

    #[test]
    fn names_are_in_the_order_of_the_contracts_numbers() {
        for (index, (name, _)) in Cache::default().values().iter().enumerate() {
            let mut settings = CacheSettings::default();
            *slots(&mut settings)[index] = 1;
            // A varint: the number of the field, wire type 0, then its value.
            let number = u8::try_from(index + 1).unwrap();
            assert_eq!(settings.encode_to_vec(), [number << 3, 1], "{name}");
            let file: Cache = serde_yaml_ng::from_str(&format!("{name}: 1")).unwrap();
            assert_eq!(wanted(&file, CacheSettings { key_hard_ttl_ms: 1, ..settings }), {
                let mut both = CacheSettings { key_hard_ttl_ms: 1, ..CacheSettings::default() };
                *slots(&mut both)[index] = 1;
                both
            });
        }
    }

    #[test]
    fn what_is_not_set_gives_way_and_what_is_set_does_not() {
        assert_eq!(wanted(&Cache::default(), baseline()), baseline());
        let asked = Cache { key_hard_ttl_ms: Some(60_000), key_uses: Some(10), ..Cache::default() };
        let followed = wanted(&asked, baseline());
        assert_eq!((followed.key_soft_ttl_ms, followed.key_hard_ttl_ms), (60_000, 60_000));
        assert_eq!((followed.prefetch_window_ms, followed.low_water_uses), (30_000, 5));
        let asked = Cache { key_soft_ttl_ms: Some(900_001), ..asked };
        assert_eq!(wanted(&asked, baseline()).key_soft_ttl_ms, 900_001, "for the enclave to judge");
    }

    #[test]
    fn a_refusal_names_field_value_and_bound() {
        let refused = |field| ConfigureReply {
            error: ErrorCode::InvalidArgument.into(),
            refused_field: field,
            in_force: None,
        };
        let found = refusal(&baseline(), &refused(3)).unwrap().unwrap();
        assert_eq!((found.field.as_str(), found.asked), ("cache.keyUses", 1_000_000));
        assert!(found.bound.contains("ceilings.keyUses"), "{}", found.bound);
        for unknown in [0, 15, u32::MAX] {
            let found = refusal(&baseline(), &refused(unknown)).unwrap().unwrap();
            assert!(found.field.ends_with(&unknown.to_string()), "{}", found.field);
        }
        assert!(refusal(&baseline(), &ConfigureReply::default()).unwrap().is_none());
        let failed = ConfigureReply { error: ErrorCode::Internal.into(), ..Default::default() };
        assert!(refusal(&baseline(), &failed).is_err());
    }
}
