//! What all sandboxes' connections share: the trust in upstream servers, and the places there are altogether.

use crate::limits::of_all;
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Why there is no proxy.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Without trust anchors no upstream of a transform could be verified.
    #[error("found no trust anchors on this host (install ca-certificates): {}", problems.join("; "))]
    NoAnchors { problems: Vec<String> },
    /// The TLS library has no protocol version in common with its own cipher suites.
    #[error("cannot set up TLS towards upstream servers")]
    Tls(#[source] rustls::Error),
}

/// Shared by the gates of all sandboxes of a server.
pub struct Proxy {
    /// Verifies upstream servers of transforms. Each connection clones it and sets ALPN.
    pub(crate) upstream: Arc<ClientConfig>,
    /// Free places over all sandboxes.
    pub(crate) connections: Arc<Semaphore>,
    /// How many there are, free or not.
    pub(crate) places: usize,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("free", &self.connections.available_permits()).finish_non_exhaustive()
    }
}

impl Proxy {
    /// A proxy that trusts upstream servers by the host's own anchors.
    ///
    /// # Errors
    /// If the host has none.
    pub fn new() -> Result<Arc<Self>, ProxyError> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            return Err(ProxyError::NoAnchors { problems: found.errors.iter().map(ToString::to_string).collect() });
        }
        Self::trusting(roots)
    }

    /// A proxy that trusts upstream servers by these anchors alone.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn trusting(roots: RootCertStore) -> Result<Arc<Self>, ProxyError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let upstream = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(ProxyError::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let places = of_all();
        Ok(Arc::new(Self { upstream: Arc::new(upstream), connections: Arc::new(Semaphore::new(places)), places }))
    }
}
