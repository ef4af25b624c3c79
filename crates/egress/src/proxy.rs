//! The state that the connections of all sandboxes share: the trust anchors for upstream servers, and the overall permits.

use crate::limits::max_overall;
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// The reason the proxy could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Without trust anchors no transform's upstream could be verified.
    #[error("found no trust anchors on this host (install ca-certificates): {}", problems.join("; "))]
    NoAnchors { problems: Vec<String> },
    /// The TLS library has no protocol version in common with its own cipher suites.
    #[error("cannot set up TLS towards upstream servers")]
    Tls(#[source] rustls::Error),
}

/// Shared by all sandboxes of a server; made once when the server starts.
pub struct Proxy {
    /// Verifies the upstream servers of transforms. Each connection clones it and sets its own ALPN list.
    pub(crate) upstream: Arc<ClientConfig>,
    /// Permits for the connections of all sandboxes.
    pub(crate) connections: Arc<Semaphore>,
    /// The number of these permits, free or not.
    pub(crate) permits: usize,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("free", &self.connections.available_permits()).finish_non_exhaustive()
    }
}

impl Proxy {
    /// Makes a proxy that verifies upstream servers with the host's trust anchors.
    ///
    /// # Errors
    /// [`ProxyError::NoAnchors`] if the host has none.
    pub fn new() -> Result<Arc<Self>, ProxyError> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // Hosts have old or odd anchors that rustls cannot parse; only a host without a single usable one is refused.
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            return Err(ProxyError::NoAnchors { problems: found.errors.iter().map(ToString::to_string).collect() });
        }
        Self::trusting(roots)
    }

    /// Makes a proxy that verifies upstream servers with these anchors alone, for tests and the bench.
    ///
    /// # Errors
    /// [`ProxyError::Tls`] if TLS cannot be set up.
    pub fn trusting(roots: RootCertStore) -> Result<Arc<Self>, ProxyError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let upstream = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(ProxyError::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let permits = max_overall();
        Ok(Arc::new(Self { upstream: Arc::new(upstream), connections: Arc::new(Semaphore::new(permits)), permits }))
    }
}
