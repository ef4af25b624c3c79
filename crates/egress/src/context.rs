//! Everything that decides about one sandbox's connections: policy, name server, journal, certificate authority,
//! permits.

use crate::authority::Authority;
use crate::journal::Journal;
use crate::limits::{MAX_PER_SANDBOX, MAX_UNDECIDED};
use leapbox_egress_policy::{DomainName, Evaluator};
use std::net::Ipv4Addr;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// The sandbox's name server, as the proxy needs it. The network crate implements it, so that proxy and guest share one
/// cache: a name which the guest has just looked up is not asked for again, and leads to the same address.
#[async_trait::async_trait]
pub trait NameServer: Send + Sync {
    /// Returns the IPv4 addresses of an allowed name, in the order of the answer. The list is empty if the name has
    /// none, if no upstream answers, or if the sandbox asks too often. The caller must still check each address.
    async fn resolve(&self, name: &DomainName) -> Vec<Ipv4Addr>;

    /// Returns an allowed name for which this address was recently answered to this sandbox.
    fn answered(&self, address: Ipv4Addr) -> Option<DomainName>;
}

/// Decides about one sandbox's connections; shared by all of them.
pub struct EgressContext {
    pub(crate) evaluator: Arc<Evaluator>,
    pub(crate) name_server: Arc<dyn NameServer>,
    pub(crate) journal: Arc<Journal>,
    /// Set if the policy has transforms.
    pub(crate) authority: Option<Arc<Authority>>,
    /// Permits for this sandbox's proxied connections, and for its HTTP/2 requests to transforms.
    pub(crate) connections: Arc<Semaphore>,
    /// Permits for those of the connections that are not decided yet.
    pub(crate) undecided: Arc<Semaphore>,
}

impl EgressContext {
    /// Makes a context with all permits free. A policy with transforms needs an authority; without one the transforms'
    /// domains are refused.
    #[must_use]
    pub fn new(
        evaluator: Arc<Evaluator>,
        name_server: Arc<dyn NameServer>,
        journal: Arc<Journal>,
        authority: Option<Arc<Authority>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            evaluator,
            name_server,
            journal,
            authority,
            connections: Arc::new(Semaphore::new(MAX_PER_SANDBOX)),
            undecided: Arc::new(Semaphore::new(MAX_UNDECIDED)),
        })
    }

    /// Number of permits that the sandbox's connections and HTTP/2 requests hold now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        MAX_PER_SANDBOX - self.connections.available_permits()
    }
}
