//! Exports bases to archives and imports them, so that a host that has lost its bases, or never had them, can wake
//! stored sandboxes.
//!
//! The archive has the base's id, which is a digest of all its contents: an import yields the very same base or fails.

use crate::base::{Base, Header};
use crate::error::BaseError;
use crate::folder;
use crate::store::Bases;
use leapbox_ids::{ArchiveId, BaseId};
use leapbox_storage::{Archive, ArchiveWriter, PackError, Sealed, SealedFolder, pack_file, private_dir, unpack_file};
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MEMORY: &str = "memory";
const STATE: &str = "state";
const DISK: &str = "disk";

/// The header of a base's archive, a stored format. The lengths are needed because the files are sparse: a part ends
/// with the file's last data, which a hole may follow.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exported {
    base: Header,
    memory_bytes: u64,
    state_bytes: u64,
    disk_bytes: u64,
}

impl Bases {
    /// Writes a base into the archive of its id.
    pub async fn export_base(&self, base: &Arc<Base>, writer: ArchiveWriter) -> Result<Sealed, BaseError> {
        let (dir, held) = (self.dir.join(base.id.as_str()), Arc::clone(base));
        let packing = tokio::task::spawn_blocking(move || pack(&dir, &held, writer));
        let packed = packing.await.unwrap_or_else(|source| Err(PackError::Interrupted { source }));
        packed.map_err(|source| BaseError::Archive { id: base.id.clone(), source: Box::new(source) })
    }

    /// Imports the base of an archive, unless this host has it.
    pub async fn import_base(&self, archive: Archive) -> Result<Arc<Base>, BaseError> {
        let _permit = self.imports.lock().await;
        let ArchiveId::Base(id) = archive.id().clone() else {
            return Err(BaseError::NotABase { archive: archive.id().clone() });
        };
        if let Some(base) = self.by_id(&id).await? {
            return Ok(base);
        }
        let unfinished = self.dir.join(format!(".import-{id}"));
        folder::remove(&unfinished);
        private_dir(&unfinished).map_err(|source| BaseError::Folder { source })?;
        let (bases, from) = (self.dir.clone(), unfinished.clone());
        let unpacking = tokio::task::spawn_blocking(move || unpack(&archive, &from, &bases));
        match unpacking.await.unwrap_or_else(|source| Err(PackError::Interrupted { source }.into())) {
            Ok(base) => {
                let (id, shape) = (id.as_str(), base.snapshot.shape);
                tracing::info!(id, %shape, "a base came back from its archive");
                let base = Arc::new(base);
                // Verified: all of it was read and compared with its id just now.
                self.index().insert(Arc::clone(&base), true);
                Ok(base)
            }
            Err(reason) => {
                folder::remove(&unfinished);
                Err(reason.of_base(id))
            }
        }
    }
}

fn pack(dir: &Path, base: &Base, mut writer: ArchiveWriter) -> Result<Sealed, PackError> {
    let damaged = |_| PackError::Damaged { path: dir.to_path_buf() };
    let header: Header = SealedFolder::open(dir).and_then(|folder| folder.header()).map_err(damaged)?;
    let snapshot = &base.snapshot;
    let exported = Exported {
        memory_bytes: pack_file(&mut writer, MEMORY, &snapshot.memory)?,
        state_bytes: pack_file(&mut writer, STATE, &snapshot.state)?,
        disk_bytes: pack_file(&mut writer, DISK, &snapshot.disk)?,
        base: header,
    };
    writer.seal(&exported).map_err(|source| PackError::Seal { source })
}

fn unpack(archive: &Archive, unfinished: &Path, bases: &Path) -> Result<Base, Refused> {
    let exported: Exported = archive.header().map_err(|source| PackError::Part { part: "header", source })?;
    let Exported { base: header, memory_bytes, state_bytes, disk_bytes } = exported;
    unpack_file(archive, MEMORY, &path_in(unfinished, &header.memory)?, memory_bytes)?;
    unpack_file(archive, STATE, &path_in(unfinished, &header.state)?, state_bytes)?;
    unpack_file(archive, DISK, &path_in(unfinished, &header.disk)?, disk_bytes)?;
    // Sealed anew, which computes all checksums, and then compared with the archive's id: the archive is authenticated,
    // but only the id proves that these contents are the ones that checkpoints are a difference to.
    let sealed = SealedFolder::seal(unfinished, &header, &header.files()).map_err(folder::Refused::from)?;
    let found = folder::id_of(&header, &sealed)?;
    if ArchiveId::from(&found) != *archive.id() {
        return Err(PackError::Another { id: archive.id().clone(), found: ArchiveId::from(&found) }.into());
    }
    // A directory of this name was refused before (or it would be in the index) and could not be removed then.
    let place = bases.join(found.as_str());
    folder::remove(&place);
    sealed.move_to(&place).map_err(folder::Refused::from)?;
    Ok(folder::read(&place)?)
}

/// The path of a file that the archive names, in its new directory.
fn path_in(dir: &Path, name: &str) -> Result<PathBuf, PackError> {
    // A name such as `../x` must not leave the directory, however the archive came about.
    if Path::new(name).file_name() == Some(OsStr::new(name)) {
        return Ok(dir.join(name));
    }
    Err(PackError::Name { name: name.to_owned() })
}

/// The reason an archive's contents were not accepted as a base.
#[derive(Debug)]
enum Refused {
    Pack(Box<PackError>),
    Seal(folder::Refused),
}

impl Refused {
    fn of_base(self, id: BaseId) -> BaseError {
        match self {
            Refused::Pack(source) => BaseError::Archive { id, source },
            Refused::Seal(source) => BaseError::Seal { what: id.to_string(), source: source.into() },
        }
    }
}

impl From<PackError> for Refused {
    fn from(error: PackError) -> Self {
        Refused::Pack(Box::new(error))
    }
}

impl From<folder::Refused> for Refused {
    fn from(error: folder::Refused) -> Self {
        Refused::Seal(error)
    }
}

#[cfg(test)]
mod tests;
