//! Why nothing was measured.

use leapbox_errors::FileError;

/// One variant per failing step.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The runtime could not be started.
    #[error("starting the runtime")]
    Runtime(#[source] std::io::Error),
    /// A task was lost.
    #[error("a task of the bench was lost")]
    Task(#[source] tokio::task::JoinError),
    /// The report could not be encoded.
    #[error("encoding the report")]
    Encode(#[source] serde_json::Error),
    /// A file or folder operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The measured server ended.
    #[error("the measured server ended with {status}; its log:\n{log}")]
    ServerEnded {
        /// Its exit status.
        status: String,
        /// The end of its log.
        log: String,
    },
    /// The measured server is not ready for what is to be measured.
    #[error("the measured server did not get ready ({what})")]
    NotReady {
        /// What was waited for.
        what: &'static str,
    },
    /// The measured server did not get its certificate or key.
    #[error("preparing the measured server's state: {message}")]
    Prepare {
        /// Why.
        message: String,
    },
    /// A request failed on the way.
    #[error("{request} failed: {message}")]
    Request {
        /// Method and path.
        request: String,
        /// Why.
        message: String,
    },
    /// A request was refused.
    #[error("{request} was answered {status}: {body}")]
    Refused {
        /// Method and path.
        request: String,
        /// Status code.
        status: u16,
        /// The answer.
        body: String,
    },
    /// The floor's VMM failed.
    #[error("the floor's VMM")]
    Vmm(#[from] leapbox_vmm::VmmError),
    /// The floor's network failed.
    #[error("the floor's network")]
    Network(#[from] leapbox_network::NetworkError),
    /// The floor's guest failed.
    #[error("the floor's guest")]
    Guest(#[from] leapbox_guest_client::GuestError),
    /// The floor's disk failed.
    #[error("the floor's disk")]
    Storage(#[from] leapbox_storage::StorageError),
    /// Gateway or nginx could not be measured.
    #[error("measuring gateway and nginx")]
    Proxy(#[from] crate::proxy::ProxyError),
    /// The ways out could not be measured.
    #[error("measuring the ways out of a sandbox")]
    Egress(#[from] crate::egress::EgressError),
    /// Nothing has been built yet.
    #[error(transparent)]
    Artifacts(#[from] leapbox_templates::ArtifactError),
}
