//! Bases are exported to archives and imported from them, so that a host that has lost its bases, or never had them,
//! can wake what is stored.
//!
//! The archive's id is the base's, and that is a digest of all its contents: what comes back is the very same base, or
//! is refused.

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

/// What the archive of a base begins with.
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

    /// The base of an archive: the one that is here already, or one made of it.
    pub async fn import_base(&self, archive: Archive) -> Result<Arc<Base>, BaseError> {
        let _turn = self.imports.lock().await;
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
                tracing::info!(id, %shape, "a warm snapshot came back from its archive");
                let base = Arc::new(base);
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
    let sealed = SealedFolder::seal(unfinished, &header, &header.files()).map_err(folder::Refused::from)?;
    let found = folder::id_of(&header, &sealed)?;
    if ArchiveId::from(&found) != *archive.id() {
        return Err(PackError::Another { id: archive.id().clone(), found: ArchiveId::from(&found) }.into());
    }
    // A folder that lies there was refused before, and could not be removed then.
    let place = bases.join(found.as_str());
    folder::remove(&place);
    sealed.move_to(&place).map_err(folder::Refused::from)?;
    Ok(folder::read(&place)?)
}

/// A file of the base in its new folder. The name is what the archive says.
fn path_in(dir: &Path, name: &str) -> Result<PathBuf, PackError> {
    if Path::new(name).file_name() == Some(OsStr::new(name)) {
        return Ok(dir.join(name));
    }
    Err(PackError::Name { name: name.to_owned() })
}

/// Why what was in an archive did not become a base.
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
