//! Control sockets, found through a descriptor of the folder they are in.

use crate::error::VmmError;
use leapbox_errors::FileError;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// The way to a control socket that fits a socket address (108 bytes) however deep the data folder lies. It stays
/// good as long as it lives.
#[derive(Debug)]
pub(crate) struct SocketPath {
    dir: File,
    name: &'static str,
}

impl SocketPath {
    /// The socket `name` in `dir`, which must exist.
    pub fn new(dir: &Path, name: &'static str) -> Result<Self, VmmError> {
        let opened = File::open(dir);
        let dir = opened.map_err(FileError::of("opening", dir))?;
        Ok(Self { dir, name })
    }

    /// What to bind or connect to.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}/{}", self.dir.as_raw_fd(), self.name).into()
    }
}
