//! Measurements that the chart names for images: the operator never pulls an image.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use serde::Deserialize;
use sigil_crds::Measurement;

/// Key of the ConfigMap that holds the catalog.
pub const CATALOG_KEY: &str = "measurements.json";

/// What is known of images, by reference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    images: BTreeMap<String, Vec<ImageMeasurements>>,
    /// Why the catalog could not be read; it is then empty.
    pub error: Option<String>,
}

/// The parts of an image's `measurements.json` that the operator needs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageMeasurements {
    /// `x86_64` or `aarch64`.
    pub arch: String,
    /// Over everything, 96 hex digits.
    pub pcr0: String,
    /// Over the code, 96 hex digits.
    pub pcr1: String,
    /// Over the pins, 96 hex digits.
    pub pcr2: String,
    /// Whether the image is a development image.
    pub insecure: bool,
    /// Which KMS keys are pinned for which keyspaces.
    pub kms: Vec<PinnedKeys>,
}

/// KMS keys that an image pins for keyspaces with a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PinnedKeys {
    /// Beginning of the keyspace names; empty for all.
    pub prefix: String,
    /// ARNs of the keys.
    pub key_arns: Vec<String>,
    /// Region of the keys.
    pub region: String,
}

// === impl Catalog ===

impl Catalog {
    /// Reads the ConfigMap; a missing one is an empty catalog.
    pub fn read(config_map: Option<&ConfigMap>) -> Self {
        let text = config_map.and_then(|map| map.data.as_ref()?.get(CATALOG_KEY));
        match text.map(|text| serde_json::from_str(text)) {
            None => Self::default(),
            Some(Ok(images)) => Self { images, error: None },
            Some(Err(error)) => Self { images: BTreeMap::new(), error: Some(error.to_string()) },
        }
    }

    /// What is known of `image`, one entry an architecture; empty when nothing is.
    pub fn of(&self, image: &str) -> &[ImageMeasurements] {
        self.images.get(image).map_or(&[], Vec::as_slice)
    }
}

// === impl ImageMeasurements ===

impl ImageMeasurements {
    /// The measurements alone.
    pub fn measurement(&self) -> Measurement {
        Measurement {
            arch: self.arch.clone(),
            pcr0: self.pcr0.clone(),
            pcr1: self.pcr1.clone(),
            pcr2: self.pcr2.clone(),
        }
    }

    /// The keys that the image pins for `keyspace`: the longest prefix wins.
    pub fn pinned(&self, keyspace: &str) -> Option<&PinnedKeys> {
        self.kms
            .iter()
            .filter(|rule| keyspace.starts_with(&rule.prefix))
            .max_by_key(|rule| rule.prefix.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_map(text: &str) -> ConfigMap {
        ConfigMap {
            data: Some([(CATALOG_KEY.to_owned(), text.to_owned())].into()),
            ..ConfigMap::default()
        }
    }

    #[test]
    fn the_longest_prefix_pins() {
        let pcr = "1".repeat(96);
        let text = format!(
            r#"{{"img:1": [{{"formatVersion": 1, "kind": "process", "arch": "x86_64", "app": "a",
                "pcr0": "{pcr}", "pcr1": "{pcr}", "pcr2": "{pcr}", "insecure": true, "kms": [
                {{"prefix": "", "keyArns": ["all"], "region": "r1", "host": "h"}},
                {{"prefix": "pay", "keyArns": ["pay"], "region": "r2", "host": "h"}}]}}]}}"#
        );
        let catalog = Catalog::read(Some(&config_map(&text)));
        let image = &catalog.of("img:1")[0];
        assert_eq!(image.pinned("payments").unwrap().region, "r2");
        assert_eq!(image.pinned("default").unwrap().key_arns, ["all"]);
        assert!(catalog.of("img:2").is_empty());
    }

    #[test]
    fn a_broken_catalog_is_empty_and_says_so() {
        let catalog = Catalog::read(Some(&config_map("{")));
        assert!(catalog.of("img:1").is_empty());
        assert!(catalog.error.is_some());
        assert_eq!(Catalog::read(None), Catalog::default());
    }
}
