//! The errors of calls from the host to a guest's agent.

use leapbox_guest_protocol::{FrameError, GuestFault};
use std::io;
use std::time::Duration;

/// A call that failed. [`GuestError::Fault`] is an answer of the agent; all others mean that the guest cannot be
/// reached, is too slow, or does not speak the protocol.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// No connection to the agent could be made.
    #[error("cannot connect to the sandbox's agent")]
    Dial {
        #[source]
        source: io::Error,
    },
    /// The agent did not answer completely within the call's deadline.
    #[error("the sandbox's agent did not answer `{operation}` within {after:?}")]
    Deadline { operation: &'static str, after: Duration },
    /// The agent refuses, or has failed. The message is one line of limited length, whatever a hostile agent has sent.
    #[error(transparent)]
    Fault(#[from] GuestFault),
    /// The answer announces more bytes than this request's answer may have, or the request is too long to be sent.
    #[error("the frame has {len} bytes; at most {cap} are allowed")]
    Oversized { len: usize, cap: usize },
    /// The answer cannot be decoded.
    #[error("the answer of the sandbox's agent cannot be decoded")]
    Malformed {
        #[source]
        source: FrameError,
    },
    /// The answer belongs to another kind of request.
    #[error("the sandbox's agent gave an answer that does not belong to `{operation}`")]
    Unexpected { operation: &'static str },
    /// The connection ended before the answer was complete.
    #[error("the sandbox's agent closed the connection")]
    Closed {
        #[source]
        source: io::Error,
    },
    /// The agent speaks another version of the protocol.
    #[error("the sandbox's agent speaks another version of the protocol: {message}")]
    Version {
        /// The agent's message: one line, as in a fault.
        message: String,
    },
    /// The guest did not read back what `configure` has set, and must not be handed out.
    #[error("the sandbox did not confirm its {what}")]
    NotConfirmed { what: &'static str },
}

impl From<FrameError> for GuestError {
    fn from(source: FrameError) -> Self {
        match source {
            // Its own variant, because it is not only the guest's fault: a request can be too long as well.
            FrameError::TooLong { len, cap } => GuestError::Oversized { len, cap },
            FrameError::Decode { .. } | FrameError::Encode { .. } | FrameError::Trailing { .. } => {
                GuestError::Malformed { source }
            }
        }
    }
}
