//! The layout of a server's own directory, `<data>/state`. Used by every verb.
//!
//! ```text
//! state/leapbox.db           database (0600)
//!       lock                 held by the server that runs
//!       serving.json         addresses of the server that runs
//!       instance             four hexadecimal digits that name this installation's host resources
//!       keys/default.key     the first API key (0600)
//!       keys/server.key      the key of archives and of secrets in the database (0600): keep a copy elsewhere
//!       archives/            archives of paused and stopped sandboxes and of snapshots, encrypted
//!       tls/                 local CA, server certificate, bundle
//! ```

use crate::config::Config;
use leapbox_errors::FileError;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The permissions of a file that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only the owner may read and write it (0600).
    Private,
    /// Everyone may read it (0644).
    Public,
}

/// Addresses and name of a server that runs, whatever flags it was started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    pid: u32,
    /// The address of the control plane, which speaks plain HTTP.
    pub api: SocketAddr,
    /// The address of the gateway, which speaks TLS.
    pub gateway: SocketAddr,
    pub domain: String,
    /// Whether the certificate is the operator's, and not the local CA's.
    pub own_certificate: bool,
}

impl Serving {
    /// The addresses of a server that this process starts with `config`.
    pub fn as_configured(config: &Config) -> Self {
        Self {
            pid: std::process::id(),
            api: config.api,
            gateway: config.gateway,
            domain: config.domain.clone(),
            own_certificate: config.tls.is_some(),
        }
    }
}

/// The paths in one server's own directory.
#[derive(Debug, Clone)]
pub struct State {
    dir: PathBuf,
}

impl State {
    /// Names the directory, and makes nothing.
    pub fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Makes the directories that are missing.
    pub fn create(&self) -> Result<(), FileError> {
        // Only `keys` is closed: clients on this host read the certificates in `tls`.
        for (path, mode) in [(self.dir.clone(), 0o755), (self.tls_dir(), 0o755), (self.dir.join("keys"), 0o700)] {
            let made = DirBuilder::new().recursive(true).mode(mode).create(&path);
            made.map_err(FileError::of("creating", &path))?;
        }
        Ok(())
    }

    pub fn database(&self) -> PathBuf {
        self.dir.join("leapbox.db")
    }

    pub fn tls_dir(&self) -> PathBuf {
        self.dir.join("tls")
    }

    /// The lock that a server holds while it runs.
    pub fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }

    fn serving(&self) -> PathBuf {
        self.dir.join("serving.json")
    }

    /// Notes the addresses of this server, which holds the lock.
    pub fn write_serving(&self, serving: &Serving) -> Result<(), FileError> {
        let path = self.serving();
        let text = serde_json::to_string_pretty(serving).map_err(std::io::Error::from);
        write_file(&path, &text.map_err(FileError::of("writing", &path))?, Access::Public)
    }

    /// The addresses of the server that runs, if one does and this process may look at it. A killed server leaves its
    /// record behind, and its pid may be another process's by now: only a process that has the lock open counts.
    pub fn read_serving(&self) -> Option<Serving> {
        let serving: Serving = serde_json::from_str(&read_if_there(&self.serving()).ok()??).ok()?;
        let lock = self.lock().canonicalize().ok()?;
        let mut open = fs::read_dir(format!("/proc/{}/fd", serving.pid)).ok()?;
        open.any(|fd| fd.and_then(|fd| fs::read_link(fd.path())).is_ok_and(|path| path == lock)).then_some(serving)
    }

    /// The file of the first API key.
    pub fn default_key(&self) -> PathBuf {
        self.dir.join("keys/default.key")
    }

    /// The file of the key that archives and secrets are encrypted with.
    pub fn server_key(&self) -> PathBuf {
        self.dir.join("keys/server.key")
    }

    pub fn archives_dir(&self) -> PathBuf {
        self.dir.join("archives")
    }

    /// Reads the first API key; `None` if set-up has not made one.
    pub fn read_default_key(&self) -> Result<Option<String>, FileError> {
        read_if_there(&self.default_key()).map(|key| key.map(|k| k.trim().to_owned()))
    }

    /// The file of the instance.
    pub fn instance_file(&self) -> PathBuf {
        self.dir.join("instance")
    }

    /// Writes the instance again whose file was lost.
    pub fn write_instance(&self, instance: &str) -> Result<(), FileError> {
        write_file(&self.instance_file(), instance, Access::Public)
    }

    /// Reads the instance; `None` if it has not been drawn, or cannot be read.
    pub fn read_instance(&self) -> Option<String> {
        let text = read_if_there(&self.instance_file()).ok()??;
        Some(text.trim().to_owned())
    }

    /// Reads the four hexadecimal digits that tell this installation's namespaces, links and rules from others on the
    /// host. They are drawn at the first call and never change: a new server finds what the former one has left by
    /// them.
    pub fn instance(&self) -> Result<String, FileError> {
        let path = self.instance_file();
        if let Some(text) = read_if_there(&path)? {
            return Ok(text.trim().to_owned());
        }
        let mut raw = [0; 2];
        getrandom::fill(&mut raw).map_err(FileError::of("drawing random bytes for", &path))?;
        let instance = format!("{:04x}", u16::from_le_bytes(raw));
        self.write_instance(&instance)?;
        Ok(instance)
    }
}

/// Reads a file's text; `None` if there is no such file.
pub fn read_if_there(path: &Path) -> Result<Option<String>, FileError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(FileError::of("reading", path)(e)),
    }
}

/// Replaces a file atomically and durably. At no time does it have wider permissions than asked for.
pub fn write_file(path: &Path, text: &str, access: Access) -> Result<(), FileError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let mode = match access {
        Access::Private => 0o600,
        Access::Public => 0o644,
    };
    let write = || -> std::io::Result<()> {
        // An interrupted run may have left one with another mode, which opening it would keep.
        match fs::remove_file(&temporary) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = File::options().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        // A rename is durable only after the directory was synced as well.
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    write().map_err(FileError::of("writing", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_private_file_is_its_owners_alone_even_over_a_leftover() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("key");
        fs::write(dir.path().join("key.new"), "leftover").expect("write");
        write_file(&path, "secret", Access::Private).expect("write");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&path).expect("read"), "secret");
    }

    #[test]
    fn addresses_are_those_of_a_process_that_has_the_lock_open() {
        let dir = tempfile::tempdir().expect("temp dir");
        let state = State::at(dir.path().join("state"));
        state.create().expect("made");
        let address = "127.0.0.1:1".parse().expect("an address");
        let serving = Serving {
            pid: std::process::id(),
            api: address,
            gateway: address,
            domain: "boxes.example".to_owned(),
            own_certificate: false,
        };
        state.write_serving(&serving).expect("written");
        assert_eq!(state.read_serving(), None, "nobody has the lock");
        let lock = File::create(state.lock()).expect("the lock");
        assert_eq!(state.read_serving(), Some(serving));
        drop(lock);
        assert_eq!(state.read_serving(), None, "it was closed");
    }

    #[test]
    fn the_instance_is_drawn_once() {
        let dir = tempfile::tempdir().expect("temp dir");
        let state = State::at(dir.path().join("state"));
        state.create().expect("made");
        let instance = state.instance().expect("drawn");
        assert_eq!(instance.len(), 4);
        assert_eq!(state.instance().expect("read"), instance);
    }
}
