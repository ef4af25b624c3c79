//! Turns errors of the kernel into the faults that the host receives. Called by all that serves a request.

use leapbox_guest_protocol::{FaultKind, GuestFault};
use std::fmt::Display;
use std::io;

/// Makes the fault for a failed system call on `what` (a path, a port, a step). Users of the API read its text.
pub(crate) fn from_io(what: impl Display, error: &io::Error) -> GuestFault {
    let (kind, text) = match error.raw_os_error().unwrap_or_default() {
        libc::ENOENT => (FaultKind::NotFound, "no such file or directory"),
        libc::EACCES | libc::EPERM => (FaultKind::PermissionDenied, "permission denied"),
        libc::EROFS => (FaultKind::PermissionDenied, "read-only file system"),
        libc::EEXIST => (FaultKind::AlreadyExists, "already exists"),
        libc::EISDIR => (FaultKind::IsADirectory, "is a directory"),
        libc::ENOTDIR => (FaultKind::NotADirectory, "not a directory"),
        libc::ENOTEMPTY => (FaultKind::DirectoryNotEmpty, "directory is not empty"),
        libc::ENOSPC | libc::EDQUOT => (FaultKind::NoSpace, "no space left on the sandbox's disk"),
        libc::ENAMETOOLONG => (FaultKind::InvalidInput, "name is too long"),
        libc::ELOOP => (FaultKind::InvalidInput, "too many levels of symbolic links"),
        // Opening a FIFO that nobody reads, for writing without blocking, or a socket (open(2)).
        libc::ENXIO => (FaultKind::InvalidInput, "is not a regular file"),
        libc::EINVAL => (FaultKind::InvalidInput, "is not valid"),
        libc::EFBIG => (FaultKind::TooLarge, "file is too large"),
        libc::ETXTBSY => (FaultKind::Busy, "is a program that is running"),
        libc::EBUSY => (FaultKind::Busy, "is in use"),
        _ => return GuestFault::new(FaultKind::Io, format!("{what}: {error}")),
    };
    GuestFault::new(kind, format!("{what}: {text}"))
}

/// Makes the fault for a request that contradicts itself or the guest's state; asking again does not help.
pub(crate) fn invalid(message: impl Into<String>) -> GuestFault {
    GuestFault::new(FaultKind::InvalidInput, message)
}
