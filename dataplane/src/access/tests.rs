use std::time::Duration;

use super::*;
use crate::config::AccessRules;

fn access(yaml: &str) -> (Access, Config) {
    let rules: AccessRules = serde_yaml_ng::from_str(yaml).unwrap();
    let mut config = Config { access: rules, ..Config::default() };
    config.keyspaces.0 = vec!["default".to_owned(), "payments".to_owned()];
    (Access::new(&config), config)
}

const RULES: &str = "
- {subjects: ['serviceAccount:shop/web'], keyspaces: [payments], verbs: [sign, read]}
- {subjects: ['serviceAccount:shop/*'], keyspaces: [default], verbs: [sign], ratePerSecondMax: 2}
- {subjects: ['cn:ops'], keyspaces: ['*'], verbs: [create, sign, list, read]}
- {subjects: ['*'], keyspaces: [default], verbs: [read]}
";

#[test]
fn what_no_rule_allows_is_refused() {
    use Verb::{Create, List, Read, Sign};
    let (access, _) = access(RULES);
    for (subject, keyspace, allowed) in [
        ("serviceAccount:shop/web", "payments", &[Sign, Read][..]),
        ("serviceAccount:shop/web", "default", &[Sign, Read]),
        ("serviceAccount:shop/job", "payments", &[]),
        ("serviceAccount:shop/job", "default", &[Sign, Read]),
        ("serviceAccount:other/web", "default", &[Read]),
        ("cn:ops", "payments", &[Create, Sign, List, Read]),
        ("cn:ops", "elsewhere", &[]),
        ("dns:ops", "payments", &[]),
    ] {
        let caller = access.caller(subject, None);
        for verb in Verb::ALL {
            let said = caller.may(verb, keyspace);
            assert_eq!(said.is_ok(), allowed.contains(&verb), "{subject} {keyspace} {verb:?}");
            if let Err(error) = said {
                assert_eq!((error.code, error.status()), (Code::PermissionDenied, 403));
                assert!(error.detail.contains(verb.as_str()) && error.detail.contains(keyspace));
            }
        }
    }
    let (nothing, _) = self::access("[]");
    assert!(nothing.caller("cn:ops", None).may(Sign, "default").is_err(), "no rule, no right");
    assert!(Caller::anybody("loopback").may(Create, "anything").is_ok());
    assert_eq!(Caller::anybody("loopback").subject(), "");
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_one_callers_in_one_keyspace_over_all_workers() {
    let (access, _) = access(RULES);
    let of = |name: &str| access.caller(&format!("serviceAccount:shop/{name}"), None);
    // As two workers know it.
    let (here, there, other) = (of("job"), of("job"), of("other"));
    assert!(here.may(Verb::Sign, "default").is_ok());
    assert!(there.may(Verb::Sign, "default").is_ok());
    let error = here.may(Verb::Sign, "default").unwrap_err();
    assert_eq!((error.code, error.retry_after_ms), (Code::Overloaded, Some(501)));
    assert!(other.may(Verb::Sign, "default").is_ok(), "another caller's is its own");
    assert!(here.may(Verb::Read, "default").is_ok());
    tokio::time::advance(Duration::from_millis(501)).await;
    assert!(there.may(Verb::Sign, "default").is_ok());
    assert!(here.may(Verb::Sign, "default").is_err());
}

#[tokio::test(start_paused = true)]
async fn rules_that_change_hold_for_callers_that_are_there() {
    let (access, mut config) = access(RULES);
    let caller = access.caller("serviceAccount:shop/web", None);
    assert!(access.renewed(&caller).is_none());
    access.set(&config);
    assert!(access.renewed(&caller).is_none(), "the same rules");
    config.access.0.remove(0);
    access.set(&config);
    let renewed = access.renewed(&caller).unwrap();
    assert!(renewed.may(Verb::Sign, "payments").is_err());
    assert!(renewed.may(Verb::Read, "default").is_ok());
    let soon = Instant::now() + Duration::from_secs(1);
    let caller = access.caller("cn:ops", Some(soon));
    assert!(caller.is_current().is_ok());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(caller.is_current().unwrap_err().code, Code::Unauthenticated);
}

#[test]
fn callers_that_went_away_leave_no_buckets_behind() {
    let (access, _) = access(RULES);
    for n in 0..3 * BUCKETS_MAX {
        drop(access.caller(&format!("serviceAccount:shop/n{n}"), None));
    }
    assert!(access.state.lock().unwrap().buckets.len() <= BUCKETS_MAX + 1);
}
