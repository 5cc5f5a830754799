//! Measurements that the chart names for images: the operator never pulls an image.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::Value;
use sigil_crds::Measurement;
use sigil_image_authoring::measurements::{FORMAT_VERSION, Measurements, PinnedKms};

/// Key of the ConfigMap that holds the catalog.
pub const CATALOG_KEY: &str = "measurements.json";

/// What is known of images, by reference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    images: BTreeMap<String, Result<Vec<Measurements>, String>>,
    /// Why nothing of it can be read.
    error: Option<String>,
}

// === impl Catalog ===

impl Catalog {
    /// Reads the ConfigMap: JSON, image reference -> list of `measurements.json`, one for each
    /// architecture. A missing one is an empty catalog; an image that cannot be read harms no other.
    pub fn read(config_map: Option<&ConfigMap>) -> Self {
        let text = config_map.and_then(|map| map.data.as_ref()?.get(CATALOG_KEY));
        let parsed = text.map(|text| serde_json::from_str::<BTreeMap<String, Value>>(text));
        match parsed {
            None => Self::default(),
            Some(Err(error)) => Self { images: BTreeMap::new(), error: Some(error.to_string()) },
            Some(Ok(images)) => Self {
                images: images.into_iter().map(|(image, value)| (image, read(value))).collect(),
                error: None,
            },
        }
    }

    /// What is known of `image`, one entry an architecture; empty when nothing is.
    ///
    /// # Errors
    /// Why what is said of it cannot be read.
    pub fn of(&self, image: &str) -> Result<&[Measurements], &str> {
        match (self.images.get(image), &self.error) {
            (Some(Ok(known)), _) => Ok(known),
            (Some(Err(error)), _) | (None, Some(error)) => Err(error),
            (None, None) => Ok(&[]),
        }
    }
}

fn read(value: Value) -> Result<Vec<Measurements>, String> {
    let known: Vec<Measurements> = serde_json::from_value(value).map_err(|e| e.to_string())?;
    match known.iter().find(|one| one.format_version != FORMAT_VERSION) {
        Some(one) => {
            Err(format!("formatVersion {}: expected {FORMAT_VERSION}", one.format_version))
        }
        None => Ok(known),
    }
}

/// The registers alone, in the words of the CRD.
pub fn registers(known: &Measurements) -> Measurement {
    Measurement {
        arch: known.arch.clone(),
        pcr0: const_hex::encode(known.pcr0),
        pcr1: const_hex::encode(known.pcr1),
        pcr2: const_hex::encode(known.pcr2),
    }
}

/// The keys that the image pins for `keyspace`: the longest prefix wins.
pub fn pinned<'a>(known: &'a Measurements, keyspace: &str) -> Option<&'a PinnedKms> {
    known
        .kms
        .iter()
        .filter(|rule| keyspace.starts_with(&rule.prefix))
        .max_by_key(|rule| rule.prefix.len())
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// The ConfigMap of the chart.
    pub(crate) fn config_map(catalog: &Value) -> ConfigMap {
        ConfigMap {
            data: Some([(CATALOG_KEY.to_owned(), catalog.to_string())].into()),
            ..ConfigMap::default()
        }
    }

    /// A development image that pins these keys.
    pub(crate) fn image(kms: &Value) -> Value {
        let pcr = |digit: &str| digit.repeat(96);
        json!({
            "formatVersion": 1, "kind": "process", "arch": "x86_64", "app": "demo",
            "pcr0": pcr("1"), "pcr1": pcr("2"), "pcr2": pcr("3"), "pcr3": pcr("4"),
            "pinsSha384": pcr("5"), "insecure": true, "kms": kms,
        })
    }

    #[test]
    fn the_longest_prefix_pins() {
        let rule = |prefix: &str, region: &str| json!({"prefix": prefix, "keyArns": ["arn"], "region": region, "host": "h"});
        let image = image(&json!([rule("", "r1"), rule("pay", "r2")]));
        let catalog = Catalog::read(Some(&config_map(&json!({"img:1": [image]}))));
        let known = &catalog.of("img:1").unwrap()[0];
        assert_eq!(pinned(known, "payments").unwrap().region, "r2");
        assert_eq!(pinned(known, "default").unwrap().region, "r1");
        assert_eq!(registers(known).pcr0, "1".repeat(96));
        assert!(catalog.of("img:2").unwrap().is_empty());
    }

    #[test]
    fn one_image_that_cannot_be_read_harms_no_other() {
        let good = image(&json!([]));
        let mut newer = good.clone();
        newer["formatVersion"] = json!(2);
        let catalog = json!({"good": [good], "newer": [newer], "bad": [{"arch": 1}]});
        let catalog = Catalog::read(Some(&config_map(&catalog)));
        assert_eq!(catalog.of("good").unwrap().len(), 1);
        assert!(catalog.of("newer").unwrap_err().contains("formatVersion"));
        assert!(catalog.of("bad").is_err());
        assert!(catalog.of("absent").unwrap().is_empty());
    }

    #[test]
    fn a_catalog_that_is_no_json_says_so() {
        let broken = ConfigMap {
            data: Some([(CATALOG_KEY.to_owned(), "{".to_owned())].into()),
            ..ConfigMap::default()
        };
        assert!(Catalog::read(Some(&broken)).of("any").is_err());
        assert_eq!(Catalog::read(None), Catalog::default());
    }
}
