//! The fuzzer: libFuzzer's `main` around one target, which `SIGIL_FUZZ_TARGET` names. One program
//! for all of them, so that they are built and linked once. `hack/fuzz/run` knows how to call it.
#![no_main]

use std::sync::OnceLock;

use sigil_fuzz::Target;

static TARGET: OnceLock<&'static Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(init: choose(), |input: &[u8]| {
    if let Some(target) = TARGET.get() {
        target.run(input);
    }
});

/// Chooses the target. With `SIGIL_FUZZ_SEEDS` it writes the target's seeds into that folder, and
/// with `SIGIL_FUZZ_LIST` it lists the targets: each is all that is done then.
fn choose() {
    if std::env::var_os("SIGIL_FUZZ_LIST").is_some() {
        for target in sigil_fuzz::TARGETS {
            println!("{} {}", target.name, target.input_bytes_max);
        }
        std::process::exit(0);
    }
    let name = std::env::var("SIGIL_FUZZ_TARGET").unwrap_or_default();
    let Some(target) = Target::named(&name) else {
        eprintln!(
            "sigil-fuzz: SIGIL_FUZZ_TARGET: no target `{name}`; SIGIL_FUZZ_LIST=1 lists them"
        );
        std::process::exit(64);
    };
    if let Some(folder) = std::env::var_os("SIGIL_FUZZ_SEEDS").map(std::path::PathBuf::from) {
        for (number, seed) in (target.seeds)().iter().enumerate() {
            if let Err(error) = std::fs::write(folder.join(format!("seed-{number}")), seed) {
                eprintln!("sigil-fuzz: {}: {error}", folder.display());
                std::process::exit(74);
            }
        }
        std::process::exit(0);
    }
    let _ = TARGET.set(target);
}
