//! Paths of control sockets that are short enough for a socket address.

use crate::error::VmmError;
use leapbox_errors::FileError;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// A control socket, named through an open descriptor of the directory it is in.
#[derive(Debug)]
pub(crate) struct SocketPath {
    dir: File,
    name: &'static str,
}

impl SocketPath {
    /// Opens `dir`, which must exist. The socket `name` in it need not exist yet.
    pub fn new(dir: &Path, name: &'static str) -> Result<Self, VmmError> {
        let opened = File::open(dir);
        let dir = opened.map_err(FileError::of("opening", dir))?;
        Ok(Self { dir, name })
    }

    /// The path to bind or connect to. It is valid in this process, as long as `self` lives.
    pub fn path(&self) -> PathBuf {
        // A socket address holds 108 bytes (unix(7)), and the data directory of an installation may be deeper than
        // that.
        format!("/proc/self/fd/{}/{}", self.dir.as_raw_fd(), self.name).into()
    }
}
