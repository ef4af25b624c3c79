//! Sealed folders: stored artifacts that are known to be what was written, or are not used.
//!
//! ```text
//! <folder>/memory, state, disk   files, sparse ones too
//!          manifest.json         format, checksum ─► header (the owner's: what it is, what it fits)
//!                                                    files: name ─► length, checksums of its chunks
//!
//! seal ─► move_to ┄┄ days, restarts, power losses ┄┄► open (the manifest alone) ─► header ─► verify (all data)
//! ```
//!
//! The manifest is written last and everything is synced before and after, so that a folder with a manifest is
//! complete. A sealed folder never changes; a new version is a new folder. The seal finds damage and mix-ups. It does
//! not keep out somebody who can write there (anyone can compute a checksum): [`private_dir`](crate::private_dir) does.
//! Everything here is blocking. Called by `templates` (warm snapshots).

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

/// A folder whose manifest is sound. Its files are not looked at before [`SealedFolder::verify`].
#[derive(Debug, Clone)]
pub struct SealedFolder {
    dir: PathBuf,
    content: Content,
}

impl SealedFolder {
    /// Seals the files `names` in `dir` under a manifest that begins with `header`. All is on disk when this returns.
    /// Fails if there is a manifest already.
    pub fn seal<H: Serialize>(dir: &Path, header: &H, names: &[&str]) -> Result<Self, SealError> {
        let path = dir.join(MANIFEST);
        let encode = |source| SealError::Encode { path: path.clone(), source };
        let mut files = BTreeMap::new();
        for name in names {
            check_name(name)?;
            files.insert((*name).to_owned(), seal_file(&dir.join(name))?);
        }
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

    /// Reads and checks the manifest of `dir`, and nothing else.
    pub fn open(dir: &Path) -> Result<Self, SealError> {
        let path = dir.join(MANIFEST);
        let mut text = Vec::new();
        io::Read::read_to_end(&mut open_file(&path)?, &mut text).map_err(FileError::of("reading", &path))?;
        let content = manifest::decode(&text, &path)?;
        content.files.keys().try_for_each(|name| check_name(name))?;
        Ok(Self { dir: dir.to_path_buf(), content })
    }

    /// Compares every file's length and data with the manifest. The first difference is the error.
    pub fn verify(&self) -> Result<(), SealError> {
        self.content.files.iter().try_for_each(|(name, sealed)| verify_file(&self.dir.join(name), sealed))
    }

    /// The header, as what the owner of the folder put in.
    pub fn header<H: DeserializeOwned>(&self) -> Result<H, SealError> {
        let wrong = |source| SealError::Header { path: self.dir.join(MANIFEST), source };
        H::deserialize(&self.content.header).map_err(wrong)
    }

    /// Where the folder is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The files under the seal, by name.
    pub fn files(&self) -> &BTreeMap<String, SealedFile> {
        &self.content.files
    }

    /// The path of a file; an error unless it is under the seal.
    pub fn path(&self, name: &str) -> Result<PathBuf, SealError> {
        let path = self.dir.join(name);
        if self.content.files.contains_key(name) { Ok(path) } else { Err(SealError::NotSealed { path }) }
    }

    /// Renames the folder, durably: under its final name it is complete. What is in the way must be an empty folder.
    pub fn move_to(self, dir: &Path) -> Result<Self, SealError> {
        std::fs::rename(&self.dir, dir).map_err(FileError::of("moving into place", dir))?;
        sync(dir.parent().unwrap_or(dir))?;
        Ok(Self { dir: dir.to_path_buf(), ..self })
    }
}

fn seal_file(path: &Path) -> Result<SealedFile, SealError> {
    let file = open_file(path)?;
    file.sync_all().map_err(FileError::of("writing to disk", path))?;
    let length = file.metadata().map_err(FileError::of("reading the size of", path))?.len();
    Ok(SealedFile { length, chunks: checksums(&file).map_err(FileError::of("reading", path))? })
}

fn verify_file(path: &Path, sealed: &SealedFile) -> Result<(), SealError> {
    let file = open_file(path)?;
    let found = file.metadata().map_err(FileError::of("reading the size of", path))?.len();
    if found != sealed.length {
        return Err(SealError::Length { path: path.to_path_buf(), found, expected: sealed.length });
    }
    let chunks = checksums(&file).map_err(FileError::of("reading", path))?;
    match first_difference(&chunks, &sealed.chunks) {
        None => Ok(()),
        Some(offset) => Err(SealError::Damaged { path: path.to_path_buf(), offset }),
    }
}

/// Opens a regular file for reading: no link is followed, and no pipe is waited for.
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

/// A name must not lead out of the folder, nor to the manifest.
fn check_name(name: &str) -> Result<(), SealError> {
    if name != MANIFEST && Path::new(name).file_name() == Some(OsStr::new(name)) {
        return Ok(());
    }
    Err(SealError::Name { name: name.to_owned() })
}

fn sync(dir: &Path) -> Result<(), FileError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(FileError::of("writing to disk", dir))
}
