//! Layout of a server's own folder, `<data>/state`. Used by every verb.
//!
//! ```text
//! state/leapbox.db           database (0600)
//!       instance             four hexadecimal digits that name this installation's host resources
//!       keys/default.key     the first API key (0600)
//!       keys/server.key      what is stored and secret is encrypted with it (0600): keep a copy elsewhere
//!       archives/            what is stored of paused and stopped sandboxes and snapshots, encrypted
//!       tls/                 local CA, server certificate, bundle
//! ```

use leapbox_errors::FileError;
use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Its owner alone.
    Private,
    /// Everyone.
    Public,
}

/// One server's own folder.
#[derive(Debug, Clone)]
pub struct State {
    dir: PathBuf,
}

impl State {
    /// Names only; nothing is made.
    pub fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Makes the folders that are missing.
    pub fn create(&self) -> Result<(), FileError> {
        for (path, mode) in [(self.dir.clone(), 0o755), (self.tls_dir(), 0o755), (self.dir.join("keys"), 0o700)] {
            let made = DirBuilder::new().recursive(true).mode(mode).create(&path);
            made.map_err(FileError::of("create", &path))?;
        }
        Ok(())
    }

    /// The SQLite file.
    pub fn database(&self) -> PathBuf {
        self.dir.join("leapbox.db")
    }

    /// Local CA and certificates.
    pub fn tls_dir(&self) -> PathBuf {
        self.dir.join("tls")
    }

    /// The first API key.
    pub fn default_key(&self) -> PathBuf {
        self.dir.join("keys/default.key")
    }

    /// The key that stored state is encrypted with.
    pub fn server_key(&self) -> PathBuf {
        self.dir.join("keys/server.key")
    }

    /// What is stored of sandboxes.
    pub fn archives_dir(&self) -> PathBuf {
        self.dir.join("archives")
    }

    /// The first API key, if set-up has made one.
    pub fn read_default_key(&self) -> Result<Option<String>, FileError> {
        read_if_there(&self.default_key()).map(|key| key.map(|k| k.trim().to_owned()))
    }

    /// The instance, if it has been drawn.
    pub fn read_instance(&self) -> Option<String> {
        let text = read_if_there(&self.dir.join("instance")).ok()??;
        Some(text.trim().to_owned())
    }

    /// The four digits that tell this installation's namespaces, links and rules from others on the host. Drawn once.
    pub fn instance(&self) -> Result<String, FileError> {
        let path = self.dir.join("instance");
        if let Some(text) = read_if_there(&path)? {
            return Ok(text.trim().to_owned());
        }
        let mut raw = [0; 2];
        getrandom::fill(&mut raw).map_err(FileError::of("draw random bytes for", &path))?;
        let instance = format!("{:04x}", u16::from_le_bytes(raw));
        write_file(&path, &instance, Access::Public)?;
        Ok(instance)
    }
}

/// A file's text; `None` when there is no such file.
pub fn read_if_there(path: &Path) -> Result<Option<String>, FileError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(FileError::of("read", path)(e)),
    }
}

/// Replaces a file atomically and durably. It never exists with a mode wider than asked for.
pub fn write_file(path: &Path, text: &str, access: Access) -> Result<(), FileError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let mode = match access {
        Access::Private => 0o600,
        Access::Public => 0o644,
    };
    let write = || -> std::io::Result<()> {
        // One that an interrupted run left might have another mode.
        match fs::remove_file(&temporary) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = File::options().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    write().map_err(FileError::of("write", path))
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
    fn the_instance_is_drawn_once() {
        let dir = tempfile::tempdir().expect("temp dir");
        let state = State::at(dir.path().join("state"));
        state.create().expect("made");
        let instance = state.instance().expect("drawn");
        assert_eq!(instance.len(), 4);
        assert_eq!(state.instance().expect("read"), instance);
    }
}
