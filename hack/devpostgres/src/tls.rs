//! Certificates of a server, from an authority of its own.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::{Error, Server};

/// Files in a server's folder.
pub struct Certificates {
    /// The authority, PEM.
    pub authority_pem: String,
}

// === impl Server ===

impl Server {
    /// Gives the server a certificate for `name` and has it offer TLS.
    ///
    /// # Errors
    /// The certificate, the files, the server.
    pub fn offer_tls(&self, name: &str) -> Result<Certificates, Error> {
        let failed = |error: rcgen::Error| Error(error.to_string());
        let mut authority = CertificateParams::new(Vec::new()).map_err(failed)?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority =
            CertifiedIssuer::self_signed(authority, KeyPair::generate().map_err(failed)?)
                .map_err(failed)?;
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = CertificateParams::new([name.to_owned()])
            .and_then(|params| params.signed_by(&key, &authority))
            .map_err(failed)?;
        for (file, text) in [("server.crt", certificate.pem()), ("server.key", key.serialize_pem())]
        {
            let path = self.data().join(file);
            std::fs::write(&path, text)?;
            self.account.own(&path)?;
            std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        }
        self.sql("ALTER SYSTEM SET ssl = on")?;
        self.sql("SELECT pg_reload_conf()")?;
        Ok(Certificates { authority_pem: authority.pem() })
    }
}
