//! Framing: a 32-bit big-endian length, then that many bytes of postcard.

use crate::request::Request;
use serde::{Deserialize, Serialize};

/// The one version of this protocol that this build speaks.
pub const PROTOCOL_VERSION: u16 = 3;
/// The first bytes of every call: what talks to the agent by mistake is told apart at once.
pub const MAGIC: [u8; 4] = *b"LPBX";
/// Bytes of a frame's length.
pub const PREFIX_LEN: usize = 4;
/// Bytes of file content one call carries, at most (the API's 10 MiB body limit).
pub const MAX_CONTENT: usize = 10 << 20;
/// Bytes of a frame's body, at most: the content and what surrounds it.
pub const MAX_FRAME: usize = MAX_CONTENT + (64 << 10);
/// Bytes of an answer that carries no content, at most.
pub const SMALL_FRAME: usize = 64 << 10;
/// Bytes of each of stdout and stderr that one execution returns, at most: both fit in a frame.
pub const MAX_STREAM_OUTPUT: usize = 5 << 20;

/// What opens every call. Its encoding never changes, whatever the version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub magic: [u8; 4],
    /// The caller's [`PROTOCOL_VERSION`].
    pub version: u16,
}

impl Hello {
    /// What this build says.
    pub const OURS: Hello = Hello { magic: MAGIC, version: PROTOCOL_VERSION };
}

/// A frame that cannot be sent or understood.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than its reader accepts.
    #[error("frame of {len} bytes where at most {cap} are accepted")]
    TooLong { len: usize, cap: usize },
    /// Not what the type looks like.
    #[error("frame is malformed")]
    Decode {
        #[source]
        source: postcard::Error,
    },
    /// The value has no encoding.
    #[error("value cannot be encoded")]
    Encode {
        #[source]
        source: postcard::Error,
    },
    /// Bytes are left after the value.
    #[error("{bytes} bytes are left over after the frame's value")]
    Trailing { bytes: usize },
}

/// A call that the agent does not take.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It doesn't start with [`MAGIC`].
    #[error("not a call of this protocol")]
    BadMagic,
    /// It speaks another version.
    #[error("the caller speaks version {theirs} of the protocol, the agent {PROTOCOL_VERSION}")]
    Version { theirs: u16 },
    /// It can't be understood.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Reads a frame's length, refusing one above `cap` bytes.
pub fn body_len(prefix: [u8; PREFIX_LEN], cap: usize) -> Result<usize, FrameError> {
    let len = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    if len > cap {
        return Err(FrameError::TooLong { len, cap });
    }
    Ok(len)
}

/// A whole frame, length included.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    finish(postcard::to_extend(value, vec![0; PREFIX_LEN]))
}

/// The whole frame that opens a call.
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

/// Decodes a frame's body, all of it.
pub fn decode<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, FrameError> {
    let (value, rest) = take(body)?;
    if rest.is_empty() { Ok(value) } else { Err(FrameError::Trailing { bytes: rest.len() }) }
}

/// Decodes the body of a call: first who calls, and only if it is one of ours, what it wants.
pub fn decode_call(body: &[u8]) -> Result<Request<'_>, CallError> {
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
