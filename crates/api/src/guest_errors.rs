//! Turns a failed call to a sandbox's agent into the answer to the client.
//!
//! An error from inside the sandbox keeps its meaning (a missing file is 404, a full disk 507). Every other failure
//! means that the guest is hostile, broken or out of memory. The handlers that call the agent use it.

use leapbox_api_types::ApiError;
use leapbox_errors::chain;
use leapbox_guest_client::GuestError;
use leapbox_guest_protocol::{FaultKind, GuestFault};

/// The answer for a failed call. The log has the causes, which the client does not get.
pub(crate) fn refused(error: GuestError) -> ApiError {
    // A fault is the agent's ordinary answer to a bad request: the client reads it, and the operator can do nothing.
    if !matches!(error, GuestError::Fault(_)) {
        tracing::warn!(error = %chain(&error), "a call to the sandbox's agent failed");
    }
    match error {
        GuestError::Fault(fault) => from_fault(fault),
        GuestError::Deadline { .. } => ApiError::GatewayTimeout("the sandbox did not answer in time".to_owned()),
        GuestError::Dial { .. } => ApiError::BadGateway("the sandbox cannot be reached".to_owned()),
        GuestError::Closed { .. } => ApiError::BadGateway(
            "the sandbox broke off the answer; it may have been deleted or be out of memory".to_owned(),
        ),
        GuestError::Oversized { .. } | GuestError::Malformed { .. } | GuestError::Unexpected { .. } => {
            ApiError::BadGateway("the sandbox's answer cannot be understood".to_owned())
        }
        // Handlers never configure a guest, and an agent of another version is refused when its machine starts. So this
        // is a fault of ours, or an answer that a hostile guest has forged.
        GuestError::Version { .. } | GuestError::NotConfirmed { .. } => ApiError::Internal,
    }
}

fn from_fault(GuestFault { kind, message }: GuestFault) -> ApiError {
    match kind {
        FaultKind::NotFound => ApiError::NotFound(message),
        FaultKind::PermissionDenied => ApiError::Forbidden(message),
        FaultKind::AlreadyExists => ApiError::Conflict(message),
        // Only the caller can mend these, with another path or with `recursive`.
        FaultKind::IsADirectory | FaultKind::NotADirectory | FaultKind::DirectoryNotEmpty | FaultKind::InvalidInput => {
            ApiError::BadRequest(message)
        }
        FaultKind::NoSpace => ApiError::InsufficientStorage(message),
        FaultKind::TooLarge => ApiError::PayloadTooLarge(message),
        FaultKind::ConnectionRefused | FaultKind::Io => ApiError::BadGateway(message),
        // The agent is out of workers or memory for a moment, or its workload is being stored.
        FaultKind::Busy => ApiError::Unavailable { message, retry_after_s: 1 },
        FaultKind::VersionMismatch => ApiError::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::time::Duration;

    #[test]
    fn a_fault_inside_the_sandbox_keeps_its_meaning_and_its_words() {
        for (kind, status) in [
            (FaultKind::NotFound, 404),
            (FaultKind::PermissionDenied, 403),
            (FaultKind::AlreadyExists, 409),
            (FaultKind::IsADirectory, 400),
            (FaultKind::NotADirectory, 400),
            (FaultKind::DirectoryNotEmpty, 400),
            (FaultKind::InvalidInput, 400),
            (FaultKind::NoSpace, 507),
            (FaultKind::TooLarge, 413),
            (FaultKind::ConnectionRefused, 502),
            (FaultKind::Io, 502),
            (FaultKind::Busy, 503),
        ] {
            let answer = refused(GuestFault::new(kind, "/tmp: is a directory").into());
            assert_eq!(answer.status().as_u16(), status, "{kind:?}");
            assert_eq!(answer.body().message, "/tmp: is a directory");
        }
        assert_eq!(refused(GuestFault::new(FaultKind::VersionMismatch, "v9").into()), ApiError::Internal);
    }

    #[test]
    fn a_guest_that_is_not_there_or_talks_nonsense_is_a_gateway_error_that_says_so() {
        let source = || io::Error::from(io::ErrorKind::UnexpectedEof);
        for (error, status) in [
            (GuestError::Dial { source: source() }, 502),
            (GuestError::Closed { source: source() }, 502),
            (GuestError::Oversized { len: 9, cap: 1 }, 502),
            (GuestError::Unexpected { operation: "exec" }, 502),
            (GuestError::Deadline { operation: "exec", after: Duration::from_secs(1) }, 504),
            (GuestError::Version { message: "9".to_owned() }, 500),
        ] {
            let answer = refused(error);
            assert_eq!(answer.status().as_u16(), status);
            assert!(!answer.body().message.is_empty());
        }
    }
}
