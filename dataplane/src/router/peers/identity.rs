//! Who we are to other members, and who they must be.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;

use crate::config::Config;
use crate::tls;

/// What connections to members are made with; nothing where all members are on this machine.
#[derive(Debug)]
pub(crate) struct Identity(Option<Named>);

#[derive(Clone, Debug)]
struct Named {
    certificate: PathBuf,
    key: PathBuf,
    authorities: PathBuf,
    /// In the certificate of every member.
    name: ServerName<'static>,
}

// === impl Identity ===

impl Identity {
    /// What the settings name.
    pub(crate) fn of(config: &Config) -> Self {
        let (tls, routing) = (&config.listeners.tls, config.routing.clone());
        let named = || {
            Some(Named {
                certificate: tls.certificate_file.clone()?,
                key: tls.key_file.clone()?,
                authorities: routing.peer_ca_file?,
                name: ServerName::try_from(routing.peer_name?).ok()?,
            })
        };
        Self(named())
    }

    /// For one connection, by what the files hold now: a certificate that was exchanged is used from the
    /// next one on.
    pub(super) async fn connector(
        &self,
    ) -> io::Result<Option<(TlsConnector, ServerName<'static>)>> {
        let Some(named) = self.0.clone() else { return Ok(None) };
        let name = named.name.clone();
        let config = tokio::task::spawn_blocking(move || {
            tls::client(&named.certificate, &named.key, &named.authorities)
        });
        let config = config.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
        Ok(Some((TlsConnector::from(Arc::new(config)), name)))
    }
}
