use sigil_enclave_image::Pins;
use sigil_image_authoring::eif::{Arch, parse};
use sigil_image_authoring::image::Program;
use sigil_image_authoring::measure::process;

use super::*;

const YAML: &str = r#"
app: demo
keyspaces:
  - prefix: ""
    kmsKeyArns: ["arn:aws:kms:us-east-1:111122223333:key/a"]
    region: us-east-1
    host: kms.us-east-1.amazonaws.com
tlsRoots: [root.der]
attestationRoot: root.der
parentCid: 3
insecure: true
"#;

fn in_folder(folder: &Path, yaml: &str) -> anyhow::Result<String> {
    std::fs::write(folder.join("root.der"), sigil_verifier::TrustRoot::aws().der()).unwrap();
    std::fs::write(folder.join("enclave"), b"code").unwrap();
    std::fs::write(folder.join("pins.yaml"), yaml).unwrap();
    pin(&Args {
        base: None,
        process: Some(folder.join("enclave")),
        pins: folder.join("pins.yaml"),
        out: folder.join("image"),
        measurements: None,
    })
}

#[test]
fn both_files_are_written_and_agree() {
    let folder = tempfile::tempdir().unwrap();
    let printed = in_folder(folder.path(), YAML).unwrap();
    let image = folder.path().join("image");
    let pins = std::fs::read(image.join("pins.cbor")).unwrap();
    let json = std::fs::read_to_string(image.join("measurements.json")).unwrap();
    assert_eq!(json, printed);
    assert_eq!(std::fs::read_dir(image).unwrap().count(), 2, "nothing half-written stays");
    assert_eq!(Pins::decode(&pins).unwrap().app, "demo");
    let measured = Measurements::from_json(&json).unwrap();
    let expected = process(b"code", &pins);
    assert_eq!((measured.pcr0, measured.pcr2), (expected.pcr0, expected.pcr2));
    assert_eq!(in_folder(folder.path(), YAML).unwrap(), printed, "repeatable");
}

#[test]
fn errors_name_field_or_file() {
    let folder = tempfile::tempdir().unwrap();
    let error = |yaml: &str| format!("{:#}", in_folder(folder.path(), yaml).unwrap_err());
    assert!(error(&YAML.replace("insecure: true", "insecure: false")).contains("insecure"));
    assert!(error(&YAML.replace("app: demo", "app: Demo")).contains("app"));
    assert!(error("nonsense").contains("pins.yaml"));
    assert!(!folder.path().join("image").exists(), "nothing is written");
    std::fs::write(folder.path().join("pins.yaml"), YAML).unwrap();
    let absent = folder.path().join("absent");
    let args = Args {
        base: None,
        process: Some(absent.clone()),
        pins: folder.path().join("pins.yaml"),
        out: folder.path().join("image"),
        measurements: None,
    };
    assert!(format!("{:#}", pin(&args).unwrap_err()).contains(&absent.display().to_string()));
}

/// Pins a base image of this program and returns what was printed.
fn of_base(folder: &Path, program: Program, yaml: &str) -> anyhow::Result<String> {
    std::fs::write(folder.join("root.der"), sigil_verifier::TrustRoot::aws().der()).unwrap();
    let base = image::base(Arch::X86_64, b"kernel", b"code", program).unwrap();
    std::fs::write(folder.join("base.eif"), base).unwrap();
    std::fs::write(folder.join("pins.yaml"), yaml).unwrap();
    pin(&base_args(folder))
}

fn base_args(folder: &Path) -> Args {
    Args {
        base: Some(folder.join("base.eif")),
        process: None,
        pins: folder.join("pins.yaml"),
        out: folder.join("pinned.eif"),
        measurements: None,
    }
}

#[test]
fn a_base_image_is_pinned_and_measured_without_a_compiler() {
    let folder = tempfile::tempdir().unwrap();
    let printed = of_base(folder.path(), Program::Insecure, YAML).unwrap();
    let image = std::fs::read(folder.path().join("pinned.eif")).unwrap();
    let json = std::fs::read_to_string(folder.path().join("measurements.json")).unwrap();
    assert_eq!(json, printed);
    let measured = Measurements::from_json(&json).unwrap();
    let eif = parse(&image).unwrap();
    assert_eq!(eif.measure(), [measured.pcr0, measured.pcr1, measured.pcr2]);
    assert_eq!(Pins::decode(image::pins_of(&eif).unwrap()).unwrap().app, "demo");
    assert_eq!(of_base(folder.path(), Program::Insecure, YAML).unwrap(), printed);
    assert_eq!(std::fs::read(folder.path().join("pinned.eif")).unwrap(), image, "repeatable");

    let elsewhere = folder.path().join("m.json");
    pin(&Args { measurements: Some(elsewhere.clone()), ..base_args(folder.path()) }).unwrap();
    assert_eq!(std::fs::read_to_string(elsewhere).unwrap(), json);
}

#[test]
fn a_base_image_that_cannot_be_pinned_is_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let error = of_base(folder, Program::Production, YAML).unwrap_err().to_string();
    assert!(error.contains("pins: insecure"), "{error}");
    let other = YAML.replace("app: demo", "app: Demo");
    assert!(of_base(folder, Program::Insecure, &other).unwrap_err().to_string().contains("app"));
    let refused = |args: Args| format!("{:#}", pin(&args).unwrap_err());
    std::fs::write(folder.join("pins.yaml"), YAML).unwrap();
    let absent = Args { base: Some(folder.join("absent.eif")), ..base_args(folder) };
    assert!(refused(absent).contains("absent.eif"));
    let damaged = std::fs::read(folder.join("base.eif")).unwrap();
    std::fs::write(folder.join("base.eif"), &damaged[1..]).unwrap();
    assert!(refused(base_args(folder)).contains("not an EIF"));
    assert!(!folder.join("pinned.eif").exists() && !folder.join("measurements.json").exists());

    of_base(folder, Program::Insecure, YAML).unwrap();
    let twice = Args {
        base: Some(folder.join("pinned.eif")),
        out: folder.join("again.eif"),
        ..base_args(folder)
    };
    assert!(refused(twice).contains("has pins already"));
    let same = Args { measurements: Some(folder.join("pinned.eif")), ..base_args(folder) };
    assert!(refused(same).contains("--measurements"));
}

#[test]
fn the_command_line_wants_one_kind_of_enclave() {
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }
    let parse = |words: &[&'static str]| {
        let words = ["pin-image", "--pins", "p", "--out", "o"].iter().chain(words);
        Cli::try_parse_from(words).map(|Cli { args }| args).map_err(|error| error.to_string())
    };
    assert_eq!(parse(&["--base", "b"]).unwrap().base, Some("b".into()));
    assert_eq!(parse(&["--process", "x"]).unwrap().process, Some("x".into()));
    assert!(parse(&["--base", "b", "--measurements", "m"]).is_ok());
    for (words, expected) in [
        (&[][..], "--base"),
        (&["--base", "b", "--process", "x"], "cannot be used with"),
        (&["--process", "x", "--measurements", "m"], "cannot be used with"),
    ] {
        let error = parse(words).map(|_| ()).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}
