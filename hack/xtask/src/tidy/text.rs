//! What stands in the files: length, left-overs, paths of one machine, `make` targets in the docs.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use crate::repo;

/// Lines of a Rust file without its tests. A longer one holds more than one idea.
const FILE_LINES_MAX: usize = 500;
/// What money rests on, in lines of code (neither blank nor comment) without tests. A bound may only
/// fall; decision 9 says what is in which.
const BOUNDED: [Bounded; 2] = [
    // 6,000, what an auditor reads in a day, was set for it; decision 9.
    Bounded {
        name: "trusted base",
        folders: &[
            "enclave/src/",
            "enclave/protocol/src/",
            "enclave/attestation/src/",
            "enclave/image/src/",
        ],
        lines_max: 6_000,
    },
    Bounded { name: "verifier", folders: &["enclave/verifier/src/"], lines_max: 240 },
];

/// Folders that together have at most so many lines of code.
struct Bounded {
    name: &'static str,
    folders: &'static [&'static str],
    lines_max: usize,
}

/// Modules that may hold `unsafe`; each says why in its `allow`.
const UNSAFE_MODULES: [&str; 15] = [
    "enclave/src/signer/ffi.rs",
    "enclave/src/signer/tests/faults.rs",
    "enclave/src/residue.rs",
    "enclave/src/slab.rs",
    "enclave/src/nsm/device.rs",
    "enclave/src/stream.rs",
    "enclave/src/vsock.rs",
    "enclave/launcher/src/process.rs",
    "hack/bench/src/baseline/signer.rs",
    "hack/bench/src/cache/memory.rs",
    "hack/bench/src/callgrind/hide_auxv.rs",
    "hack/bench/src/reference.rs",
    "hack/ctime/src/boundary.rs",
    "hack/ctime/src/memcheck.rs",
    "hack/fuzz/src/memory.rs",
];

pub(super) fn check(files: &[String]) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    let mut bounded_lines = [0; BOUNDED.len()];
    let targets = make_targets()?;
    for file in files {
        let Ok(text) = std::fs::read_to_string(repo::root().join(file)) else { continue };
        if file.ends_with(".rs") {
            let lines = lines_without_tests(file, &text);
            if lines > FILE_LINES_MAX {
                findings.push(format!("{file}: {lines} lines, at most {FILE_LINES_MAX}"));
            }
            for (bounded, lines) in BOUNDED.iter().zip(&mut bounded_lines) {
                if bounded.folders.iter().any(|folder| file.starts_with(folder)) {
                    *lines += code_lines(file, &text);
                }
            }
            findings.extend(rust_findings(file, &text));
        }
        if file.ends_with(".md") {
            findings.extend(
                named_targets(&text)
                    .difference(&targets)
                    .map(|target| format!("{file}: names `make {target}`, which is not there")),
            );
        }
        findings.extend(machine_paths(file, &text));
    }
    for (Bounded { name, lines_max, .. }, lines) in BOUNDED.iter().zip(bounded_lines) {
        if lines > *lines_max {
            findings.push(format!("{name}: {lines} lines, at most {lines_max}"));
        }
        println!("tidy: {name} {lines} lines of code without tests");
    }
    Ok(findings)
}

/// Lines of code: everything up to the test module; files that are tests count as none.
fn lines_without_tests(file: &str, text: &str) -> usize {
    if is_test_file(file) {
        return 0;
    }
    text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count()
}

/// Of those, the ones that are neither blank nor comment.
fn code_lines(file: &str, text: &str) -> usize {
    let code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
    text.lines().take(lines_without_tests(file, text)).filter(code).count()
}

fn is_test_file(file: &str) -> bool {
    file.contains("/tests/") || file.ends_with("/tests.rs")
}

fn rust_findings(file: &str, text: &str) -> Vec<String> {
    // Assembled, so that this file does not find itself.
    let ignored = concat!("#[", "ignore");
    let unfinished = [concat!("todo", "!("), concat!("unimplemented", "!(")];
    let sleeps = [concat!("thread::", "sleep("), concat!("time::", "sleep(")];
    let unsafe_allowed = concat!("allow(", "unsafe_code");
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let at = format!("{file}:{}", number + 1);
        if line.contains(ignored) {
            findings.push(format!("{at}: a test that never runs; mend or delete it"));
        }
        if unfinished.iter().any(|word| line.contains(word)) {
            findings.push(format!("{at}: unfinished code"));
        }
        if is_test_file(file) && sleeps.iter().any(|word| line.contains(word)) {
            findings.push(format!("{at}: a test waits for a condition, it does not sleep"));
        }
        if line.contains(unsafe_allowed) && !UNSAFE_MODULES.contains(&file) {
            findings.push(format!("{at}: unsafe code lives in {UNSAFE_MODULES:?} only"));
        }
    }
    findings
}

fn machine_paths(file: &str, text: &str) -> Vec<String> {
    let homes = [concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/home", "/")];
    text.lines()
        .enumerate()
        .filter(|(_, line)| homes.iter().any(|home| starts_a_word(line, home)))
        .map(|(number, _)| format!("{file}:{}: a path of one machine", number + 1))
        .collect()
}

fn starts_a_word(line: &str, needle: &str) -> bool {
    line.match_indices(needle).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "_./})$".contains(c))
    })
}

fn make_targets() -> Result<BTreeSet<String>> {
    let makefile =
        std::fs::read_to_string(repo::root().join("Makefile")).context("reading Makefile")?;
    Ok(makefile
        .lines()
        .filter(|line| !line.starts_with(['\t', '.', '#']))
        .filter_map(|line| line.split_once(':'))
        .flat_map(|(names, _)| names.split_whitespace())
        .map(str::to_owned)
        .collect())
}

/// Targets in code spans: `make demo`.
fn named_targets(text: &str) -> BTreeSet<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|span| span.trim().strip_prefix("make "))
        .filter_map(|rest| rest.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_do_not_count_as_code() {
        let text = "fn a() {}\n\n#[cfg(test)]\nmod tests {}\n";
        assert_eq!(lines_without_tests("a/src/lib.rs", text), 2);
        assert_eq!(lines_without_tests("a/src/lib/tests.rs", text), 0);
        assert_eq!(code_lines("a/src/lib.rs", "//! Doc\n\n    // why\nfn a() {}\n"), 1);
    }

    #[test]
    fn left_overs_are_found() {
        let ignored = format!("{}]\nfn a() {{}}", concat!("#[", "ignore"));
        assert_eq!(rust_findings("a/src/lib.rs", &ignored).len(), 1);
        let sleeping = concat!("std::thread::", "sleep(d)");
        assert_eq!(rust_findings("a/tests/b.rs", sleeping).len(), 1);
        assert!(rust_findings("a/src/b.rs", sleeping).is_empty());
        let unsafety = format!("#![{}, reason = \"x\")]", concat!("allow(", "unsafe_code"));
        assert_eq!(rust_findings("a/src/b.rs", &unsafety).len(), 1);
        assert!(rust_findings(UNSAFE_MODULES[0], &unsafety).is_empty());
    }

    #[test]
    fn machine_paths_are_found_but_relative_ones_are_not() {
        let path = concat!("see /ro", "ot/x");
        assert_eq!(machine_paths("a", path).len(), 1);
        assert!(machine_paths("a", concat!("${dir}/ro", "ot/x")).is_empty());
    }

    #[test]
    fn named_targets_are_those_in_code_spans() {
        let named = named_targets("run `make demo` or make tea, `make test-cluster X=1`");
        assert_eq!(named.into_iter().collect::<Vec<_>>(), ["demo", "test-cluster"]);
    }
}
