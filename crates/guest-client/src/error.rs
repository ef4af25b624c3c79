//! What can go wrong between the host and a guest.

use leapbox_guest_protocol::{FrameError, GuestFault};
use std::io;
use std::time::Duration;

/// A call that failed. Only [`GuestError::Fault`] is the agent's own considered answer; all others mean that the guest
/// is not there, too slow, or not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// No connection to the agent.
    #[error("cannot connect to the sandbox's agent")]
    Dial {
        #[source]
        source: io::Error,
    },
    /// No complete answer in time.
    #[error("the sandbox's agent did not answer `{operation}` within {after:?}")]
    Deadline { operation: &'static str, after: Duration },
    /// The agent says no: its message is one line of limited length, whatever a hostile agent has sent.
    #[error(transparent)]
    Fault(#[from] GuestFault),
    /// The answer announces more bytes than this request's answer may have. Also a request too long to send.
    #[error("a frame of {len} bytes where at most {cap} are allowed")]
    Oversized { len: usize, cap: usize },
    /// The answer can't be decoded.
    #[error("the sandbox's agent answered nonsense")]
    Malformed {
        #[source]
        source: FrameError,
    },
    /// The answer is one to another question.
    #[error("the sandbox's agent gave an answer that does not belong to `{operation}`")]
    Unexpected { operation: &'static str },
    /// The connection ended before the answer was complete.
    #[error("the sandbox's agent closed the connection")]
    Closed {
        #[source]
        source: io::Error,
    },
    /// The agent speaks another version of the protocol.
    #[error("the sandbox's agent does not speak our protocol version: {message}")]
    Version {
        /// What the agent said; one line, as in a fault.
        message: String,
    },
    /// The guest did not become what `configure` asked for: it must not be handed out.
    #[error("the sandbox did not confirm its {what}")]
    NotConfirmed { what: &'static str },
}

impl From<FrameError> for GuestError {
    fn from(source: FrameError) -> Self {
        match source {
            FrameError::TooLong { len, cap } => GuestError::Oversized { len, cap },
            FrameError::Decode { .. } | FrameError::Encode { .. } | FrameError::Trailing { .. } => {
                GuestError::Malformed { source }
            }
        }
    }
}
