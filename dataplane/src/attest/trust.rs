//! What an enclave must prove: the root that signs its documents and the images that may run. Read
//! from files once, at the start.

use std::path::Path;

use serde::Deserialize;
use sigil_verifier::{Measurement, PcrAllowList, TrustRoot, root_from_pem_or_der};

use crate::config::{self, Config};

/// Bytes of a file that is read here; a certificate or measurements are far smaller.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Root and images.
#[derive(Clone, Debug)]
pub struct Trust {
    /// Who must have signed.
    pub root: TrustRoot,
    /// What may run.
    pub images: PcrAllowList,
    /// Where a key may have been made: what may run, and what is retired.
    pub birthplaces: PcrAllowList,
}

/// A file that does not say what it should.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: {reason}")]
pub struct TrustError {
    setting: &'static str,
    reason: String,
}

/// What is read of measurements.json; the rest is for people and other tools.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MeasurementsFile {
    format_version: u32,
    pcr0: String,
    pcr1: String,
    pcr2: String,
}

impl Trust {
    /// Reads what `config` names.
    ///
    /// # Errors
    /// A file is missing, too long, or not what it should be.
    pub fn load(config: &Config) -> Result<Self, TrustError> {
        let settings = &config.enclave;
        let root = match settings.attestation_root.as_str() {
            "aws" => TrustRoot::aws(),
            path => load_root(Path::new(path))?,
        };
        let mut images = parse_all("enclave.measurements", &settings.measurements)?;
        if let Some(path) = &settings.measurements_file {
            images.push(load_measurements(path)?);
        }
        let setting = "enclave.retiredMeasurements";
        let mut birthplaces = parse_all(setting, &settings.retired_measurements)?;
        if birthplaces.iter().any(|image| images.contains(image)) {
            let reason =
                "an image is accepted or retired, not both; remove it from one of the lists";
            return Err(TrustError { setting, reason: reason.to_owned() });
        }
        birthplaces.extend_from_slice(&images);
        let [images, birthplaces] = [images, birthplaces].map(PcrAllowList::new);
        Ok(Self { root, images, birthplaces })
    }
}

fn load_root(path: &Path) -> Result<TrustRoot, TrustError> {
    let error = |reason: String| TrustError {
        setting: "enclave.attestationRoot",
        reason: format!("{}: {reason}", path.display()),
    };
    let bytes = read(path).map_err(|e| error(e.to_string()))?;
    root_from_pem_or_der(&bytes).map_err(|e| error(e.to_string()))
}

fn load_measurements(path: &Path) -> Result<Measurement, TrustError> {
    let error = |reason: &str| TrustError {
        setting: "enclave.measurementsFile",
        reason: format!("{}: {reason}", path.display()),
    };
    let bytes = read(path).map_err(|e| error(&e.to_string()))?;
    let file: MeasurementsFile =
        serde_json::from_slice(&bytes).map_err(|e| error(&e.to_string()))?;
    if file.format_version != 1 {
        return Err(error("formatVersion is not 1"));
    }
    let image = config::Measurement { pcr0: file.pcr0, pcr1: file.pcr1, pcr2: file.pcr2 };
    parse(&image)
        .filter(|image| image.pcr0 != [0; 48])
        .ok_or_else(|| error("pcr0, pcr1, pcr2 must be 96 hex digits and not zero"))
}

fn parse_all(
    setting: &'static str,
    images: &[config::Measurement],
) -> Result<Vec<Measurement>, TrustError> {
    let parsed = images.iter().map(|image| {
        let reason = "not 96 hex digits".to_owned();
        parse(image).ok_or(TrustError { setting, reason })
    });
    parsed.collect()
}

fn parse(image: &config::Measurement) -> Option<Measurement> {
    let pcr = |text: &str| const_hex::decode_to_array::<_, 48>(text).ok();
    Some(Measurement { pcr0: pcr(&image.pcr0)?, pcr1: pcr(&image.pcr1)?, pcr2: pcr(&image.pcr2)? })
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "longer than 1 MiB"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(directory: &Path, measurements: &str) -> Config {
        let path = directory.join("measurements.json");
        std::fs::write(&path, measurements).unwrap();
        let mut config = Config::default();
        config.enclave.measurements_file = Some(path);
        config
    }

    #[test]
    fn the_root_is_read_as_pem_or_der_and_only_aws_is_trusted() {
        use base64::Engine;
        let directory = tempfile::tempdir().unwrap();
        let pcr = "0a".repeat(48);
        let file = format!(
            r#"{{"formatVersion":1,"kind":"process","pcr0":"{pcr}","pcr1":"{pcr}","pcr2":"{pcr}"}}"#
        );
        let mut config = config(directory.path(), &file);
        let trust = Trust::load(&config).unwrap();
        assert_eq!(trust.root, TrustRoot::aws());
        assert_eq!(trust.images.entries().len(), 1);
        let der = TrustRoot::aws().der().to_vec();
        let base64 = base64::engine::general_purpose::STANDARD.encode(&der);
        let pem = format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n");
        for bytes in [der, pem.into_bytes()] {
            let path = directory.path().join("root");
            std::fs::write(&path, bytes).unwrap();
            config.enclave.attestation_root = path.display().to_string();
            assert_eq!(Trust::load(&config).unwrap().root, TrustRoot::aws());
        }
        std::fs::write(directory.path().join("root"), "nonsense").unwrap();
        let error = Trust::load(&config).unwrap_err().to_string();
        assert!(error.starts_with("enclave.attestationRoot"), "{error}");
    }

    #[test]
    fn an_image_is_accepted_or_retired_and_not_both() {
        let directory = tempfile::tempdir().unwrap();
        let [pcr, other] = ["0a", "0b"].map(|byte| byte.repeat(48));
        let file = format!(r#"{{"formatVersion":1,"pcr0":"{pcr}","pcr1":"{pcr}","pcr2":"{pcr}"}}"#);
        let image = |pcr: &String| config::Measurement {
            pcr0: pcr.clone(),
            pcr1: pcr.clone(),
            pcr2: pcr.clone(),
        };
        let mut config = config(directory.path(), &file);
        config.enclave.retired_measurements = vec![image(&other)];
        let trust = Trust::load(&config).unwrap();
        let [accepted, retired] = [&pcr, &other].map(|pcr| parse(&image(pcr)).unwrap());
        assert_eq!(trust.images.entries(), [accepted], "what is retired may not run");
        assert_eq!(trust.birthplaces.entries(), [retired, accepted]);
        config.enclave.retired_measurements.push(image(&pcr));
        let error = Trust::load(&config).unwrap_err().to_string();
        assert!(error.contains("enclave.retiredMeasurements") && error.contains("not both"));
    }

    #[test]
    fn a_measurements_file_of_zeros_or_of_another_version_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = |version: u32, pcr: &str| {
            format!(r#"{{"formatVersion":{version},"pcr0":"{pcr}","pcr1":"{pcr}","pcr2":"{pcr}"}}"#)
        };
        for text in
            [file(2, &"0a".repeat(48)), file(1, &"00".repeat(48)), file(1, "0a"), "{}".to_owned()]
        {
            let config = config(directory.path(), &text);
            assert!(Trust::load(&config).is_err(), "{text}");
        }
    }
}
