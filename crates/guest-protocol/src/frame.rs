//! Framing: a 32-bit big-endian length, then that many bytes of postcard. Host and agent both use it.

use crate::request::Request;
use serde::{Deserialize, Serialize};

/// The version of the protocol that this build speaks.
// There is one, and none is negotiated: host and agent are built together, and a base whose initramfs has another agent
// is not restored. The number tells when that went wrong.
pub const PROTOCOL_VERSION: u16 = 3;
/// The first bytes of every call, by which the agent knows callers of another protocol.
pub const MAGIC: [u8; 4] = *b"LPBX";
/// Number of bytes that carry a frame's length.
pub const PREFIX_LEN: usize = 4;
/// Bytes of file content that one call carries at most: the API's limit on a body, 10 MiB.
pub const MAX_CONTENT: usize = 10 << 20;
/// Bytes of a frame's body at most.
// The 64 KiB beyond the content are for the rest of the message: a path, and what postcard adds.
pub const MAX_FRAME: usize = MAX_CONTENT + (64 << 10);
/// Bytes at most of an answer that carries no content.
// It is also all that the host allocates because of a length that a guest has only announced.
pub const SMALL_FRAME: usize = 64 << 10;
/// Bytes at most of each of stdout and stderr of one command.
// Half of `MAX_CONTENT`, so that both together fit into a frame.
pub const MAX_STREAM_OUTPUT: usize = 5 << 20;

/// The greeting that opens every call.
// Its encoding never changes, so that an agent of any version can read which one the caller speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub magic: [u8; 4],
    /// The caller's [`PROTOCOL_VERSION`].
    pub version: u16,
}

impl Hello {
    /// The greeting of this build.
    pub const OURS: Hello = Hello { magic: MAGIC, version: PROTOCOL_VERSION };
}

/// A frame that cannot be sent or understood.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The frame is longer than its reader accepts.
    #[error("the frame has {len} bytes; at most {cap} are accepted")]
    TooLong { len: usize, cap: usize },
    /// The bytes are no encoding of the expected type.
    #[error("the frame is malformed")]
    Decode {
        #[source]
        source: postcard::Error,
    },
    /// postcard could not encode the value.
    #[error("the message cannot be encoded")]
    Encode {
        #[source]
        source: postcard::Error,
    },
    /// The frame has more bytes than its value.
    #[error("the frame has {bytes} bytes more than its value")]
    Trailing { bytes: usize },
}

/// A call that the agent refuses.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The call does not begin with [`MAGIC`].
    #[error("not a call of the guest protocol")]
    BadMagic,
    /// The caller speaks another version.
    #[error("the caller speaks version {theirs} of the protocol, the agent {PROTOCOL_VERSION}")]
    Version { theirs: u16 },
    /// The frame is too long or malformed.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Reads a frame's length, and refuses one above `cap` bytes before anything is allocated for it.
pub fn body_len(prefix: [u8; PREFIX_LEN], cap: usize) -> Result<usize, FrameError> {
    let len = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    if len > cap {
        return Err(FrameError::TooLong { len, cap });
    }
    Ok(len)
}

/// Encodes a value as a whole frame, its length included.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    // The length's place is left free in the same buffer: content of 10 MiB is encoded once and not copied.
    finish(postcard::to_extend(value, vec![0; PREFIX_LEN]))
}

/// Encodes the frame that opens a call: the greeting and the request.
pub fn encode_call(request: &Request<'_>) -> Result<Vec<u8>, FrameError> {
    finish(postcard::to_extend(&(Hello::OURS, request), vec![0; PREFIX_LEN]))
}

fn finish(encoded: Result<Vec<u8>, postcard::Error>) -> Result<Vec<u8>, FrameError> {
    let mut frame = encoded.map_err(|source| FrameError::Encode { source })?;
    let len = frame.len() - PREFIX_LEN;
    let prefix = match u32::try_from(len) {
        Ok(prefix) if len <= MAX_FRAME => prefix,
        _ => return Err(FrameError::TooLong { len, cap: MAX_FRAME }),
    };
    frame[..PREFIX_LEN].copy_from_slice(&prefix.to_be_bytes());
    Ok(frame)
}

/// Decodes the body of a frame, which must hold one value and nothing more.
pub fn decode<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, FrameError> {
    let (value, rest) = take(body)?;
    if rest.is_empty() { Ok(value) } else { Err(FrameError::Trailing { bytes: rest.len() }) }
}

/// Decodes the body of a call.
pub fn decode_call(body: &[u8]) -> Result<Request<'_>, CallError> {
    // The greeting alone first: under another version the bytes behind it may mean anything.
    let (hello, rest) = take::<Hello>(body)?;
    if hello.magic != MAGIC {
        return Err(CallError::BadMagic);
    }
    if hello.version != PROTOCOL_VERSION {
        return Err(CallError::Version { theirs: hello.version });
    }
    Ok(decode(rest)?)
}

fn take<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<(T, &'a [u8]), FrameError> {
    postcard::take_from_bytes(body).map_err(|source| FrameError::Decode { source })
}
