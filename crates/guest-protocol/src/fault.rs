//! The agent's answer when it cannot do what was asked.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The kind of a fault, by which the host decides how to answer.
// A kind's number on the wire is its place here: new kinds are added at the end. `VersionMismatch` stays the first,
// because it is the one answer that a client of any version must be able to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultKind {
    /// The two sides speak different versions of this protocol.
    VersionMismatch,
    /// The path, working directory or program does not exist.
    NotFound,
    /// The image's user does not have the permission for it.
    PermissionDenied,
    /// The path exists already.
    AlreadyExists,
    /// The path is a directory where a file is needed.
    IsADirectory,
    /// The path, or a part of it, is something else where a directory is needed.
    NotADirectory,
    /// The directory has entries, and the deletion was not recursive.
    DirectoryNotEmpty,
    /// A field of the request is not valid.
    InvalidInput,
    /// The sandbox's disk is full.
    NoSpace,
    /// The content or the list has more bytes or entries than an answer carries.
    TooLarge,
    /// No process listens on the port.
    ConnectionRefused,
    /// The agent cannot do it now: too many connections, too little memory, or the wrong [`Phase`](crate::Phase).
    Busy,
    /// Any other error of the guest's kernel.
    Io,
}

/// A fault of any kind, with a sentence for the client. There is nothing secret in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFault {
    pub kind: FaultKind,
    /// A sentence that names the path or port. The host cuts it to one short line, because a hostile agent may send
    /// anything.
    pub message: String,
}

impl GuestFault {
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
