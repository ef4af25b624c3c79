//! How a body ends early, the answer's or the request's.

/// Why a body ended early. The client sees its connection or stream cut, which is how HTTP says "incomplete".
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the application's answer broke off")]
    Upstream(#[source] hyper::Error),
    #[error("the control plane's answer broke off")]
    Control(#[source] axum::Error),
    #[error("the client's request body broke off")]
    Client(#[source] hyper::Error),
    #[error("the client's request body is longer than allowed")]
    TooLong,
}
