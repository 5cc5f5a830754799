//! A file of settings: what is taken means the same when it is written out and read again, and what is
//! refused is refused with a reason.

use sigil_dataplane::config::load;

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "config",
    input_bytes_max: 16 * 1024,
    memory_bytes_max: 8 * 1024 * 1024,
    check,
    seeds: || {
        let pcr = "11".repeat(48);
        let least = format!(
            "kms: {{region: r}}\nenclave: {{measurements: [{{pcr0: '{pcr}', pcr1: '{pcr}', \
             pcr2: '{pcr}'}}]}}\n"
        );
        let more = "listeners: {public: '127.0.0.1:0', admin: 'unix:/run/a'}\nworkers: 3\n\
                    cache: {keyUses: 1000, signWaitMs: 2}\nunlock: {workers: 1, recoveryMs: null}\n\
                    limits: {requestTimeoutMs: 7}\nkeyspaces: [a, b]\n";
        [
            include_str!("../../../../config/dataplane.yaml").to_owned(),
            format!("{least}{more}"),
            least,
            "a: &a [1, 2]\nb: [*a, *a]\n".to_owned(),
        ]
        .map(String::into_bytes)
        .into()
    },
};

fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match load(text, |_| None) {
        Ok(config) => {
            let written = serde_json::to_string(&config).expect("settings can be written");
            assert_eq!(load(&written, |_| None).as_ref(), Ok(&config), "{written}");
        }
        Err(errors) => {
            assert!(errors.0.iter().all(|error| !error.is_empty()) && !errors.0.is_empty());
        }
    }
}
