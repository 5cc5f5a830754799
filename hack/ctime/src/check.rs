//! Runs the paths under memcheck and judges what it reports.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::expected::{Place, Use, expected, leaks};
use crate::reports::{self, Report};

/// Calls on a stack that are told apart: all of them.
const CALLERS_MAX: u32 = 60;
/// What AWS-LC is told of the processor: neither AVX (bit 28 of ECX of leaf 1, the upper half of the
/// first word) nor AVX2 (bit 5 of EBX of leaf 7), which the image's command line turns off. Without it
/// other code than the image's would work on every DEK.
const AS_IN_THE_IMAGE: &str = "~0x1000000000000000:~0x20";
/// Part of the path of each source file of libsecp256k1, and of AWS-LC.
const LIBRARIES: [&str; 2] = ["/secp256k1-sys-", "/aws-lc/"];

/// One finding: what depends on a secret, where.
type Finding = (Use, Place);

/// Fails if anything depends on a secret that may not, if something does not that must, or if the
/// leaks are not found.
pub(crate) fn run() -> Result<()> {
    println!("ctime: under memcheck, with secrets marked as undefined");
    let (output, found) = reported(&[])?;
    print!("{output}");
    let unexpected = beyond(&found)?;
    ensure!(unexpected.is_empty(), "this depends on a secret:\n{}", listed(&unexpected));
    println!("places where a secret decides, all of which may:");
    for expected in expected() {
        println!("  {}\n    {}", said(&expected.place), expected.why);
    }
    let (_, found) = reported(&["--leak"])?;
    let unexpected = beyond(&found)?;
    let leaks: BTreeSet<_> = leaks().into_iter().collect();
    if unexpected != leaks {
        bail!(
            "with leaks built in, these and no others must be found:\n{}\nfound:\n{}",
            listed(&leaks),
            listed(&unexpected)
        );
    }
    println!("built-in leaks that were found, and nothing else:\n{}", listed(&leaks));
    println!("ctime: ok");
    Ok(())
}

/// What a run printed, and what memcheck reported of it.
fn reported(arguments: &[&str]) -> Result<(String, BTreeSet<Finding>)> {
    let folder = tempfile::tempdir().context("make a temporary folder")?;
    let xml = folder.path().join("xml");
    let this = std::env::current_exe().context("find the own executable")?;
    let done = Command::new(&this)
        .env("OPENSSL_ia32cap", AS_IN_THE_IMAGE)
        .args(["hide-auxv", "valgrind", "--tool=memcheck", "--xml=yes", "--error-limit=no"])
        .arg(format!("--num-callers={CALLERS_MAX}"))
        .arg(format!("--xml-file={}", xml.display()))
        .arg(&this)
        .arg("paths")
        .args(arguments)
        .output()
        .context("start valgrind")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !done.status.success() {
        bail!(
            "is valgrind installed? hack/packages bench\n{}{}",
            text(&done.stdout),
            text(&done.stderr)
        );
    }
    let xml = std::fs::read_to_string(xml).context("read memcheck's reports")?;
    ensure!(xml.trim_end().ends_with("</valgrindoutput>"), "memcheck's reports are cut short");
    Ok((text(&done.stdout), reports::parse(&xml).iter().map(finding).collect()))
}

/// What is reported and may not be. Fails if something is not reported that must be.
fn beyond(found: &BTreeSet<Finding>) -> Result<BTreeSet<Finding>> {
    let expected: BTreeSet<_> = expected().into_iter().map(|it| (it.usage, it.place)).collect();
    let missing: BTreeSet<_> = expected.difference(found).cloned().collect();
    let unexpected: BTreeSet<_> = found.difference(&expected).cloned().collect();
    if !missing.is_empty() {
        bail!(
            "no secret came by here, or the line has changed (src/expected.rs):\n{}\nbeside these, reported:\n{}",
            listed(&missing),
            listed(&unexpected)
        );
    }
    Ok(unexpected)
}

/// What a report is about: the innermost function if it is one of the libraries, else the innermost
/// line of ours, which called or holds it.
fn finding(report: &Report) -> Finding {
    let usage = match report.kind.as_str() {
        "UninitCondition" => Use::Branch,
        "UninitValue" => Use::Address,
        _ => Use::Other,
    };
    let innermost = report.stack.first();
    if let Some(frame) = innermost.filter(|frame| {
        let file = frame.file.to_string_lossy();
        LIBRARIES.iter().any(|library| file.contains(library))
    }) {
        return (usage, Place::Library(frame.function.clone()));
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = root.canonicalize().unwrap_or(root);
    let ours = report.stack.iter().find_map(|frame| {
        let file = of_ours(&root, &frame.file)?;
        let text = std::fs::read_to_string(root.join(&file)).ok()?;
        let line = text.lines().nth(frame.line.checked_sub(1)?)?.trim();
        Some(Place::Line(file.display().to_string(), line.to_owned()))
    });
    (usage, ours.unwrap_or(Place::Unknown))
}

/// The end of `file` that names a file of ours. What a cache kept may have been built in another folder,
/// and its lines then name that one.
fn of_ours(root: &Path, file: &Path) -> Option<PathBuf> {
    let mut rest = file.strip_prefix("/").unwrap_or(file).components();
    while rest.as_path().components().count() > 1 {
        if root.join(rest.as_path()).is_file() {
            return Some(rest.as_path().to_owned());
        }
        rest.next();
    }
    None
}

fn said(place: &Place) -> String {
    match place {
        Place::Line(file, text) => format!("{file}: {text}"),
        Place::Library(function) => format!("in {function}"),
        Place::Unknown => "somewhere without a name".to_owned(),
    }
}

fn listed(findings: &BTreeSet<Finding>) -> String {
    let lines: Vec<_> =
        findings.iter().map(|(usage, place)| format!("  {usage:?}: {}", said(place))).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports::Frame;

    fn frame(function: &str, file: &str, line: usize) -> Frame {
        Frame { function: function.into(), file: file.into(), line }
    }

    fn found(stack: &[Frame]) -> Finding {
        finding(&Report { kind: "UninitCondition".into(), stack: stack.to_vec() })
    }

    #[test]
    fn a_report_is_the_librarys_own_or_the_innermost_line_of_ours() {
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/src/main.rs");
        let (ours, core) = (frame("main", here, 1), frame("eq", "/rustc/0/library/core/eq.rs", 9));
        let c = frame("sign_inner", "/registry/secp256k1-sys-1/depend/a.c", 5);
        let first = std::fs::read_to_string(here).unwrap().lines().next().unwrap().to_owned();
        let line = Place::Line("hack/ctime/src/main.rs".into(), first);
        assert_eq!(found(&[core.clone(), ours.clone()]), (Use::Branch, line.clone()));
        let moved = frame("main", "/another/checkout/hack/ctime/src/main.rs", 1);
        assert_eq!(found(&[core.clone(), moved]).1, line);
        assert_eq!(found(&[c.clone(), ours.clone()]).1, Place::Library("sign_inner".into()));
        // A callback of ours within a library is ours.
        assert_eq!(found(&[core.clone(), ours, c]).1, line);
        assert_eq!(found(&[core]).1, Place::Unknown);
        assert_eq!(found(&[]).1, Place::Unknown);
    }

    #[test]
    fn every_expected_place_must_be_reported_and_no_other_may() {
        let all: BTreeSet<_> = expected().into_iter().map(|it| (it.usage, it.place)).collect();
        assert!(beyond(&all).unwrap().is_empty());
        for one in &all {
            let mut fewer = all.clone();
            fewer.remove(one);
            assert!(beyond(&fewer).unwrap_err().to_string().contains(&said(&one.1)));
            // The same place with another use of the secret is another finding.
            let address = (Use::Address, one.1.clone());
            let mut more = all.clone();
            more.insert(address.clone());
            assert_eq!(beyond(&more).unwrap(), BTreeSet::from([address]));
        }
    }
}
