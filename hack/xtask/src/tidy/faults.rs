//! `docs/faults.md`: each clause names a test that exists and runs, or says what comes later.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::repo;

const FAULTS: &str = "docs/faults.md";
const LATER: &str = "later: ";
/// What a make target runs: a script that proves something is called by one of these.
const CALLERS: [&str; 4] = ["Makefile", "hack/test", "hack/demo", "hack/demo-cluster"];

/// What the right-hand cell of a row says.
#[derive(Debug, PartialEq, Eq)]
enum Proof<'a> {
    /// `path/to/file.rs::name_of_test`
    Test {
        file: &'a str,
        name: &'a str,
    },
    /// `path/to/script`, run by a make target.
    Script(&'a str),
    Later,
    Nothing,
}

pub(super) fn check(files: &[String]) -> Result<Vec<String>> {
    let read = |file: &str| std::fs::read_to_string(repo::root().join(file));
    let text = read(FAULTS).with_context(|| format!("reading {FAULTS}"))?;
    let sources: BTreeMap<&str, String> = files
        .iter()
        .filter(|file| text.contains(file.as_str()))
        .filter_map(|file| Some((file.as_str(), read(file).ok()?)))
        .collect();
    let callers = CALLERS.map(|file| read(file).unwrap_or_default()).concat();
    Ok(findings(&text, &sources, &callers))
}

fn findings(text: &str, sources: &BTreeMap<&str, String>, callers: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let mut rows = 0;
    for (number, line) in text.lines().enumerate() {
        let Some((clause, proof)) = row(line) else {
            if line.starts_with('|') && !is_heading(line) {
                findings.push(format!("{FAULTS}:{}: not a row: {line}", number + 1));
            }
            continue;
        };
        rows += 1;
        let at = format!("{FAULTS}:{}: {clause}", number + 1);
        for proof in proofs(proof) {
            match proof {
                Proof::Nothing => findings.push(format!("{at}: no test and no `{LATER}`")),
                Proof::Script(file) if !sources.contains_key(file) => {
                    findings.push(format!("{at}: {file} is not there"));
                }
                Proof::Script(file) if !callers.contains(file) => {
                    findings.push(format!("{at}: no make target calls {file}"));
                }
                Proof::Later | Proof::Script(_) => {}
                Proof::Test { file, name } => match sources.get(file).map(|s| state(s, name)) {
                    Some(TestState::Runs) => {}
                    Some(TestState::Ignored) => findings.push(format!("{at}: {name} is ignored")),
                    Some(TestState::Missing) | None => {
                        findings.push(format!("{at}: no test {name} in {file}"));
                    }
                },
            }
        }
    }
    if rows == 0 {
        findings.push(format!("{FAULTS}: no rows"));
    }
    findings
}

fn is_heading(line: &str) -> bool {
    line.starts_with("| clause |") || line.starts_with("|---")
}

/// Clause and proof of a table row; headings and rules are none.
fn row(line: &str) -> Option<(&str, &str)> {
    let cells: Vec<_> = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect();
    match cells.as_slice() {
        [clause, .., proof] if *clause != "clause" && !proof.starts_with("--") => {
            Some((clause, proof))
        }
        _ => None,
    }
}

fn proofs(cell: &str) -> Vec<Proof<'_>> {
    let mut proofs: Vec<_> = cell
        .split('`')
        .skip(1)
        .step_by(2)
        .map(|span| match span.split_once("::") {
            Some((file, name)) => {
                Proof::Test { file, name: name.rsplit("::").next().unwrap_or(name) }
            }
            None => Proof::Script(span),
        })
        .collect();
    if cell.contains(LATER) {
        proofs.push(Proof::Later);
    }
    if proofs.is_empty() {
        proofs.push(Proof::Nothing);
    }
    proofs
}

#[derive(Debug, PartialEq, Eq)]
enum TestState {
    Runs,
    Ignored,
    Missing,
}

/// A test is a function with a test attribute above it, or one inside `proptest!`, which has the
/// same attribute.
fn state(source: &str, name: &str) -> TestState {
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    let opening = format!("fn {name}(");
    let Some(at) = lines.iter().position(|line| line.contains(&opening)) else {
        return TestState::Missing;
    };
    let attributes = || {
        lines[..at].iter().rev().take_while(|line| {
            line.starts_with("#[") || line.starts_with("//") || line.ends_with(")]")
        })
    };
    if attributes().any(|line| line.starts_with(concat!("#[", "ignore"))) {
        return TestState::Ignored;
    }
    let is_test = |line: &&str| line.starts_with("#[test") || line.starts_with("#[tokio::test");
    if attributes().any(is_test) { TestState::Runs } else { TestState::Missing }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str =
        "#[test]\nfn runs() {}\n\n#[tokio::test]\nasync fn waits() {}\n\nfn helper() {}\n";

    fn check_row(proof: &str) -> Vec<String> {
        let text = format!("| clause | test |\n|---|---|\n| a clause | {proof} |\n");
        let sources = BTreeMap::from([
            ("a/b.rs", SOURCE.to_owned()),
            ("hack/x", String::new()),
            ("hack/z", String::new()),
        ]);
        findings(&text, &sources, "run: hack/x")
    }

    #[test]
    fn rows_with_a_running_test_a_script_or_a_promise_pass() {
        for proof in
            ["`a/b.rs::runs`", "`a/b.rs::tests::waits`, `a/b.rs::runs`", "`hack/x`", "later: slab"]
        {
            assert!(check_row(proof).is_empty(), "{proof}");
        }
    }

    #[test]
    fn other_rows_do_not() {
        for proof in [
            "`a/b.rs::helper`",
            "`a/b.rs::absent`",
            "`a/c.rs::runs`",
            "`hack/y`",
            "`hack/z`",
            "soon",
        ] {
            assert_eq!(check_row(proof).len(), 1, "{proof}");
        }
        assert_eq!(findings("nothing here", &BTreeMap::new(), "").len(), 1);
        assert_eq!(findings("| torn row", &BTreeMap::new(), "").len(), 2);
    }

    #[test]
    fn an_ignored_test_is_no_proof() {
        let source = format!("#[test]\n{}]\nfn never() {{}}", concat!("#[", "ignore"));
        assert_eq!(state(&source, "never"), TestState::Ignored);
    }
}
