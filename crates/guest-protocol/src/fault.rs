//! What an agent answers when it cannot do what was asked.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Kinds of faults. The order is the wire's: new kinds go to the end, and `VersionMismatch` stays first, because it is
/// the one answer that a client of any version must be able to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultKind {
    /// The two sides speak different versions of this protocol.
    VersionMismatch,
    /// The path, working directory or program does not exist.
    NotFound,
    /// The image's user may not do that.
    PermissionDenied,
    /// The path exists already.
    AlreadyExists,
    /// A file was wanted and the path is a directory.
    IsADirectory,
    /// A directory was wanted and the path, or a part of it, is something else.
    NotADirectory,
    /// The directory has entries and the deletion was not recursive.
    DirectoryNotEmpty,
    /// The request makes no sense.
    InvalidInput,
    /// The sandbox's disk is full.
    NoSpace,
    /// More than a frame carries.
    TooLarge,
    /// Nothing listens on the port.
    ConnectionRefused,
    /// Not now: too many connections, no memory for it, or the guest's [`Phase`](crate::Phase) does not allow it.
    Busy,
    /// Anything else the guest's kernel said.
    Io,
}

/// A fault, and a sentence for the person who asked. Nothing secret is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFault {
    /// What kind of fault.
    pub kind: FaultKind,
    /// What happened, naming the path or port.
    pub message: String,
}

impl GuestFault {
    /// A fault.
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl fmt::Display for GuestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for GuestFault {}
