//! The error with which a body ends early, be it an answer's or a request's.

/// A body that ended early. hyper then cuts the connection or resets the stream, by which the receiver knows that the
/// body is incomplete.
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
