//! Settings of TLS on the public listener.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ListenAddress;

/// TLS of the public listener: PEM files that may change while we serve. Without them it is cleartext.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Tls {
    /// The certificate and what links it to its authority, the own one first.
    pub certificate_file: Option<PathBuf>,
    /// The certificate's key.
    pub key_file: Option<PathBuf>,
    /// Authorities of clients.
    pub client_ca_file: Option<PathBuf>,
    /// Whether clients show certificates.
    pub client_certificates: ClientCertificates,
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ClientCertificates {
    /// Clients are not asked for one.
    #[default]
    None,
    /// Clients are asked; one that has none is anonymous, and one whose certificate does not verify is
    /// refused.
    Optional,
    /// A client without a certificate that verifies is refused.
    Required,
}

// === impl Tls ===

impl Tls {
    /// Whether there is TLS at all.
    pub fn is_on(&self) -> bool {
        self.certificate_file.is_some() && self.key_file.is_some()
    }

    /// Rules over the listener and its TLS together.
    pub(super) fn validate(
        &self,
        public: &ListenAddress,
        takes_tokens: bool,
        errors: &mut Vec<String>,
    ) {
        let files = [
            ("certificateFile", &self.certificate_file),
            ("keyFile", &self.key_file),
            ("clientCaFile", &self.client_ca_file),
        ];
        for (name, file) in files {
            if file.as_ref().is_some_and(|file| !file.is_absolute()) {
                errors.push(format!("listeners.tls.{name}: must be an absolute path"));
            }
        }
        let asks = self.client_certificates != ClientCertificates::None;
        let any = asks || files.iter().any(|(_, file)| file.is_some());
        if any && !self.is_on() {
            errors.push("listeners.tls: certificateFile and keyFile are both needed".to_owned());
        }
        if asks != self.client_ca_file.is_some() {
            errors.push(
                "listeners.tls: clientCaFile goes with clientCertificates `optional` or `required`, \
                 and they with it"
                    .to_owned(),
            );
        }
        match public {
            ListenAddress::Unix(_) if any => errors.push(
                "listeners.tls: a unix socket has no TLS; leave it out or listen at IP:PORT"
                    .to_owned(),
            ),
            ListenAddress::Tcp(address) if !address.ip().is_loopback() && !self.is_on() => {
                errors.push(format!(
                    "listeners.public: {address} is not a loopback address, and beyond this \
                     machine there is no cleartext; set listeners.tls, or use 127.0.0.1, [::1] or \
                     unix:/path"
                ));
            }
            ListenAddress::Tcp(address)
                if !address.ip().is_loopback()
                    && !takes_tokens
                    && self.client_certificates != ClientCertificates::Required =>
            {
                errors.push(format!(
                    "listeners.public: {address} is not a loopback address and callers are not \
                     authenticated; set listeners.tls.clientCertificates: required, or \
                     auth.tokens.enabled"
                ));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::load;
    use super::*;

    fn with(public: &str, tls: &str) -> Result<Tls, String> {
        let pcr = "11".repeat(48);
        let text = format!(
            "kms: {{region: us-east-1}}\n\
             enclave: {{measurements: [{{pcr0: '{pcr}', pcr1: '{pcr}', pcr2: '{pcr}'}}]}}\n\
             listeners: {{public: '{public}', tls: {{{tls}}}}}\n"
        );
        let config = load(&text, |_| None).map_err(|errors| errors.to_string())?;
        Ok(config.listeners.tls)
    }

    #[test]
    fn it_is_whole_or_not_at_all_and_off_loopback_nobody_is_anonymous() {
        let both = "certificateFile: /a/tls.crt, keyFile: /a/tls.key";
        let clients =
            |mode: &str| format!("{both}, clientCaFile: /a/ca.crt, clientCertificates: {mode}");
        for (public, tls, said) in [
            ("127.0.0.1:1", "certificateFile: /a/tls.crt", "both needed"),
            ("127.0.0.1:1", "clientCertificates: required", "both needed"),
            ("127.0.0.1:1", "certificateFile: a.crt, keyFile: /a/tls.key", "absolute"),
            ("127.0.0.1:1", &format!("{both}, clientCaFile: /a/ca.crt"), "goes with"),
            ("127.0.0.1:1", &format!("{both}, clientCertificates: optional"), "goes with"),
            ("127.0.0.1:1", &clients("sometimes"), "sometimes"),
            ("unix:/run/sigil.sock", both, "no TLS"),
            ("0.0.0.0:1", "", "no cleartext"),
            ("0.0.0.0:1", both, "not authenticated"),
            ("[2001:db8::1]:1", &clients("optional"), "not authenticated"),
        ] {
            let errors = with(public, tls).unwrap_err();
            assert!(errors.contains(said), "{public} {tls}: {errors}");
        }
        assert!(!with("127.0.0.1:1", "").unwrap().is_on());
        assert!(with("127.0.0.1:1", both).unwrap().is_on());
        let required = with("0.0.0.0:1", &clients("required")).unwrap();
        assert_eq!(required.client_certificates, ClientCertificates::Required);
        let optional = with("[::1]:1", &clients("optional")).unwrap();
        assert_eq!(optional.client_certificates, ClientCertificates::Optional);
    }
}
