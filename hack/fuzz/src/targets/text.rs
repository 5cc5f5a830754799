//! Short texts: addresses, key ids, names. The first byte chooses. What parses prints itself, or in
//! the case of an address something that means the same.

use sigil_enclave::names::Keyspace;
use sigil_enclave_client::EnclaveAddress;
use sigil_enclave_client::KeyId;
use sigil_enclave_image::names::{check_app, check_keyspace, check_keyspace_prefix};

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "text",
    input_bytes_max: 512,
    memory_bytes_max: 16 * 1024,
    check,
    seeds: || {
        let texts = [
            "avsock://16:5000",
            "aunix:///run/e.sock",
            "aunix:@sigil",
            "avhost-vsock:///run/vm.vsock:5000",
            "kk1aaaaaaaaaaaaaaaaaaaaaaaaaa",
            "npayments.eu-1_x",
        ];
        texts.map(|text| text.as_bytes().to_vec()).into()
    },
};

fn check(input: &[u8]) {
    let Some((kind, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    match kind {
        b'a' => address(text),
        b'k' => {
            if let Ok(id) = text.parse::<KeyId>() {
                assert_eq!(id.to_string(), text);
            }
        }
        _ => names(text),
    }
}

fn address(text: &str) {
    let Ok(address) = text.parse::<EnclaveAddress>() else { return };
    let printed = address.to_string();
    assert_eq!(printed.parse().as_ref(), Ok(&address), "{text:?} printed {printed:?}");
    if matches!(address, EnclaveAddress::Vsock { .. }) {
        assert_eq!(printed, text);
    }
}

fn names(text: &str) {
    let keyspace = check_keyspace(text).is_ok();
    assert_eq!(Keyspace::parse(text).map(|keyspace| keyspace.as_str() == text), {
        if keyspace { Ok(true) } else { Err(sigil_enclave::names::KeyspaceError) }
    });
    assert!(!keyspace || check_keyspace_prefix(text).is_ok());
    if check_app(text).is_ok() {
        assert!(keyspace, "an app's name is narrower than a keyspace's");
    }
}
