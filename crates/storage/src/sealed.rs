//! Sealed directories: files with checksums, so that damage is found before a machine is started from them.
//!
//! ```text
//! <dir>/memory, state, disk   files, sparse ones too
//!       manifest.json         format, checksum ─► header (the owner's: what it is, which hosts can restore it)
//!                                                 files: name ─► length, checksums of its chunks
//!
//! seal ─► move_to ┄┄ days, restarts, power losses ┄┄► open (the manifest alone) ─► header ─► verify (all data)
//! ```
//!
//! A sealed directory never changes; a new version is a new directory. The seal finds damage and mix-ups. It is no
//! protection against somebody who can write there, because anyone can compute a checksum: that is what
//! [`private_dir`](crate::private_dir) is for. Everything here is blocking. Called by `bases`.

mod error;
mod manifest;
#[cfg(test)]
mod tests;

pub use error::SealError;
pub use manifest::SealedFile;

use crate::checksum::{checksums, first_difference};
use leapbox_errors::FileError;
use manifest::{Content, MANIFEST};
use nix::errno::Errno;
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A directory whose manifest is sound. Its files are not looked at before [`SealedFolder::verify`].
#[derive(Debug, Clone)]
pub struct SealedFolder {
    dir: PathBuf,
    content: Content,
}

impl SealedFolder {
    /// Writes a manifest of the files `names` in `dir` that contains `header`. Everything is on disk when this returns.
    /// Fails if there is a manifest already.
    pub fn seal<H: Serialize>(dir: &Path, header: &H, names: &[&str]) -> Result<Self, SealError> {
        let path = dir.join(MANIFEST);
        let encode = |source| SealError::Encode { path: path.clone(), source };
        let mut files = BTreeMap::new();
        for name in names {
            check_name(name)?;
            files.insert((*name).to_owned(), seal_file(&dir.join(name))?);
        }
        // The manifest comes last, when every file has been synced: a directory with a manifest is complete.
        let content = Content { header: serde_json::to_value(header).map_err(encode)?, files };
        let text = manifest::encode(&content).map_err(encode)?;
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(FileError::of("creating", &path))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(FileError::of("writing", &path))?;
        sync(dir)?;
        Ok(Self { dir: dir.to_path_buf(), content })
    }

    /// Reads and checks the manifest of `dir`, and no other file.
    pub fn open(dir: &Path) -> Result<Self, SealError> {
        let path = dir.join(MANIFEST);
        let mut text = Vec::new();
        io::Read::read_to_end(&mut open_file(&path)?, &mut text).map_err(FileError::of("reading", &path))?;
        let content = manifest::decode(&text, &path)?;
        // The names become paths.
        content.files.keys().try_for_each(|name| check_name(name))?;
        Ok(Self { dir: dir.to_path_buf(), content })
    }

    /// Compares every file's length and data with the manifest; the first difference is the error. It reads all data,
    /// so `bases` calls it at the first use of a base in the life of a server and not at every create.
    pub fn verify(&self) -> Result<(), SealError> {
        self.content.files.iter().try_for_each(|(name, sealed)| verify_file(&self.dir.join(name), sealed))
    }

    /// Returns the header that the owner gave to [`SealedFolder::seal`]; it must be of the same type.
    pub fn header<H: DeserializeOwned>(&self) -> Result<H, SealError> {
        let wrong = |source| SealError::Header { path: self.dir.join(MANIFEST), source };
        H::deserialize(&self.content.header).map_err(wrong)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn files(&self) -> &BTreeMap<String, SealedFile> {
        &self.content.files
    }

    /// The path of a file; an error unless the manifest has it.
    pub fn path(&self, name: &str) -> Result<PathBuf, SealError> {
        let path = self.dir.join(name);
        if self.content.files.contains_key(name) { Ok(path) } else { Err(SealError::NotSealed { path }) }
    }

    /// Renames the directory to its final name, durably. Fails if another one that is not empty has that name.
    pub fn move_to(self, dir: &Path) -> Result<Self, SealError> {
        std::fs::rename(&self.dir, dir).map_err(FileError::of("moving into place", dir))?;
        sync(dir.parent().unwrap_or(dir))?;
        Ok(Self { dir: dir.to_path_buf(), ..self })
    }
}

fn seal_file(path: &Path) -> Result<SealedFile, SealError> {
    let file = open_file(path)?;
    // Whoever wrote the file, often a VMM, need not have synced it.
    file.sync_all().map_err(FileError::of("writing to disk", path))?;
    let length = file.metadata().map_err(FileError::of("reading the size of", path))?.len();
    Ok(SealedFile { length, chunks: checksums(&file).map_err(FileError::of("reading", path))? })
}

fn verify_file(path: &Path, sealed: &SealedFile) -> Result<(), SealError> {
    let file = open_file(path)?;
    let found = file.metadata().map_err(FileError::of("reading the size of", path))?.len();
    // The checksums do not cover the length: a file that was extended by a hole has the same ones.
    if found != sealed.length {
        return Err(SealError::Length { path: path.to_path_buf(), found, expected: sealed.length });
    }
    let chunks = checksums(&file).map_err(FileError::of("reading", path))?;
    match first_difference(&chunks, &sealed.chunks) {
        None => Ok(()),
        Some(offset) => Err(SealError::Damaged { path: path.to_path_buf(), offset }),
    }
}

/// Opens a regular file for reading. A planted link is not followed, and a planted pipe is not waited for.
fn open_file(path: &Path) -> Result<File, SealError> {
    let file = match File::options().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Err(SealError::Missing { path: path.to_path_buf() }),
        Err(e) if e.raw_os_error() == Some(Errno::ELOOP as i32) => {
            return Err(SealError::NotAFile { path: path.to_path_buf() });
        }
        Err(e) => return Err(FileError::of("opening", path)(e).into()),
    };
    if file.metadata().map_err(FileError::of("looking at", path))?.is_file() {
        return Ok(file);
    }
    Err(SealError::NotAFile { path: path.to_path_buf() })
}

/// Refuses a name that leads out of the directory, or to the manifest.
fn check_name(name: &str) -> Result<(), SealError> {
    if name != MANIFEST && Path::new(name).file_name() == Some(OsStr::new(name)) {
        return Ok(());
    }
    Err(SealError::Name { name: name.to_owned() })
}

fn sync(dir: &Path) -> Result<(), FileError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(FileError::of("writing to disk", dir))
}
